"""The page on a person's data, from the command line to its exit code."""

import csv
import re
import shlex
import subprocess
import sys

import pytest
from transformers import BertModel

from helpers import SMALL_RUN
from poolwise import inspect_data
from poolwise.data.tokens import tokenise
from poolwise.jobs.timing import Estimate

MODEL = [setting for setting in SMALL_RUN if setting.startswith("model")]
TRAIN = [f"the {word} film number {n}" for n in range(30) for word in ("fine", "dull")]
DEV_LIKE = "nothing of this is known"
LONG = "a kettle of the better kind which I would buy again without a second thought number"


ENGLISH = """
about after again against almost along already although always among another anything around because become before
behind being below between both bring brought build building called cannot carry certain change children church city
clear close common company complete could country course days different does done door down during each early earth
eight either enough even every example eyes face family father felt field find first five follow found four friends
from full gave general getting give given going good government great ground group half hand hard have head heard heart
help here high himself history home house however hundred idea important interest into just keep kind knew know known
land large last later learn leave left less letter life light like line little live living long look looking made make
many matter mean might mind moment money more morning most mother mountain much music must name near need never next
night nothing number often once only open order other over own paper part people perhaps person picture place plan
play point power present problem public question quite rather reason remember right river room round same school
second seemed sentence service several shall should side simple since small some something sometimes soon sound south
stand started state still stood stop story street strong study such summer sure system table take talk tell than that
their them themselves then there these they thing think this those though thought thousand three through time together
told took toward town tree turn turned under until upon used usually very voice walk want wanted watch water well went
were what when where whether which while white whole whose will wind with within without woman women wood word words
work world would write written year years young your yourself
"""


@pytest.fixture
def inspected(tmp_path, monkeypatch, capsys):
    """Runs `poolwise.inspect_data`; returns the exit code and what was printed."""
    monkeypatch.setenv("COLUMNS", "80")
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["inspect_data", *places, *words])
        with pytest.raises(SystemExit) as left:
            inspect_data.main()
        return int(left.value.code), "".join(capsys.readouterr())

    return run


@pytest.fixture
def own(tmp_path):
    """Files with a bit of all that can be wrong."""
    splits = {
        "train": [*TRAIN, f"{LONG} 7", "caf\u00c3\u00a9 fine", *(TRAIN[:3])],
        "dev": [f"one {word} book number {n}" for n in range(4) for word in ("fine", "dull")],
        "test": [
            *(f"this {word} song number {n}" for n in range(4) for word in ("fine", "dull")),
            TRAIN[0],
            f"{LONG} 8",
        ],
    }
    for split, rows in splits.items():
        lines = [f"{text}\t{'good' if 'fine' in text else 'bad'}" for text in rows]
        lines += ["This DULL song number 0!\tgood"] if split == "test" else []
        (tmp_path / f"{split}.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    return ["data=files", *MODEL, "data.max_length=16", *(f"data.{split}={tmp_path / split}.tsv" for split in splits)]


def test_a_page_of_what_is_wrong(inspected, own, tmp_path):
    code, printed = inspected(*own)
    assert code == 0
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert all(len(line) <= 80 for line in printed.splitlines()[:-1])  # the last is a command, to be copied
    assert any(line.startswith("1, 2 train 65 0 3 ") for line in lines)
    assert any(line.startswith("2 test 11 0 1 ") for line in lines)
    assert "data.train 0 0 1 1" in lines
    told = " ".join(" ".join(lines).split())
    assert (
        "1 test text also in data.train: take them out of data.train, as figures on these may be too high; train.py "
        "leaves these out of stage 1 (data.contamination=drop)"
    ) in told
    assert told.count("1 test text also in data.train") == told.count("1 test text nearly also in data.train") == 1
    joined = "".join(told.split())  # a long path is broken
    assert f"near0.98:test10({tmp_path}/test.tsv,row10),labelledbadakettleofthebetterkind" in joined
    exact = (f"test9({tmp_path}/test.tsv,row9),labelledgood", f"train1({tmp_path}/train.tsv,row1),labelledgood")
    assert "exact:" + "".join(f"{row}thefinefilmnumber0" for row in exact) in joined
    conflict = (f"test2({tmp_path}/test.tsv,row2),labelledbad", f"test11({tmp_path}/test.tsv,row11),labelledgood")
    assert f"conflicting:{conflict[0]}thisdullsongnumber0{conflict[1]}ThisDULLsongnumber0!" in joined
    assert f"wronglydecoded:train62({tmp_path}/train.tsv,row62),labelledgoodcaf\u00c3\u00a9fine" in joined
    assert (
        "1 exact, 1 near, 2 conflicting, 4 repeated, 1 wrongly decoded; numbers of texts count within the split" in told
    )
    assert (
        "2 labelled texts with another label elsewhere (see above): one may be wrong; they are alike but for case"
        in told
    )
    assert "1 text with mojibake in train of stage 1 and 2 (62)" in told
    found = r"about 5 s, from [1-9] timed steps?"
    reading = "time reading took under 5 s; tokenising: under 5 s"
    assert re.search(f"{reading}; stage 1: {found}; stage 2: {found}", told), told[told.index("time ") :]
    command = ["python", "train.py", "stage=mlm", f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    assert printed.splitlines()[-1] == f"next      {shlex.join([*command, *own])}"
    assert not (tmp_path / "runs").exists()
    assert sorted(place.name for place in (tmp_path / "cache").iterdir()) == ["rows", "vocabularies"]


def test_the_list_names_every_text_and_its_place(inspected, own, tmp_path):
    code, printed = inspected(*own, "--out", str(tmp_path / "list.csv"), "stage=mlm")
    assert code == 0
    assert printed.splitlines()[-3] == f"9 rows written to {tmp_path / 'list.csv'}"
    with (tmp_path / "list.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == [
        *("exact", "near", "conflicting", "conflicting"),
        *(4 * ["repeated"]),
        "wrongly decoded",
    ]
    assert rows[2] == {
        "kind": "conflicting",
        **{"split": "test", "number": "2", "other split": "test", "other number": "11"},
        **{"label": "bad", "other label": "good", "text beginning": "this dull song number 0"},
        **{"place": f"{tmp_path}/test.tsv, row 2", "other place": f"{tmp_path}/test.tsv, row 11"},
    }
    assert [(row["number"], row["other number"], row["place"]) for row in rows[4:7]] == [
        (f"{n + 63}", f"{n + 1}", f"{tmp_path}/train.tsv, row {n + 63}") for n in range(3)
    ]
    code, printed = inspected(*own, "--out", str(tmp_path / "absent" / "list.csv"))
    assert (code, "there is no folder" in printed) == (2, True)


def test_rows_that_training_refuses_are_a_finding(inspected, own, tmp_path):
    with (tmp_path / "train.tsv").open("a") as file:
        file.write("a film without a label\t\nanother one\tN/A\n")
    code, printed = inspected(*own)
    assert code == 1
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert any(line.startswith("1, 2 train 65 2 3 ") for line in lines)
    joined = "".join(printed.split())
    assert f"1.{tmp_path}/train.tsv:2labelsempty(rows66,67);fillthemin,orhavedata.empty=dropleavetherowsout" in joined
    assert "train.pyrefusesthedatauntilthen;thispageleavesthemout" in joined
    assert "training: not known, as train.py refuses the data" in " ".join(lines)
    assert inspected(*own, "data.empty=drop")[0] == 0


def test_lengths_are_told_beyond_max_length(inspected, tmp_path):
    lengths = [*(40 * [26]), *(40 * [200]), *(15 * [400]), *(5 * [600])]
    (tmp_path / "text.txt").write_text("".join(f"{length * 'a '}{n}\n" for n, length in enumerate(lengths)))
    words = ["stage=mlm", "data=files", *MODEL, f"data.text={tmp_path / 'text.txt'}", "data.max_length=16"]
    lines = [" ".join(line.split()) for line in inspected(*words, "data.text_dev_share=0.01")[1].splitlines()]
    shown = [line.split()[1] for line in lines if re.match(r"(to|over) \d", line)]
    assert shown == ["32", "48", "64", "96", "128", "192", "256", "384", "512", "512"]
    longer = next(line for line in lines if line.startswith("longer than 16"))
    shares = dict(re.findall(r"(\d+): ([\d.]+)%", longer))
    assert shares.keys() == {"16", "128", "256", "512"}
    assert (shares["16"], float(shares["128"])) == ("100.0", pytest.approx(60, abs=1))
    assert "(data.max_length is 16, and may be 512 with this model)" in " ".join(lines)


def test_classes_and_windows_as_train_py_takes_them(inspected, tmp_path):
    for split in ("train", "dev", "test"):
        stars = [*(12 * ["10"]), *(7 * ["2"]), *(10 * ["1"])]
        rows = [f"the {split} film number {n}\t{star}" for n, star in enumerate(stars)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["text\tstars", *rows, f"{2 * (split + ' fine ')} {LONG}\t1"]))
    files = [f"data.{split}={tmp_path / split}.tsv" for split in ("train", "dev", "test")]
    words = ["data=files", *MODEL, *files, "data.max_length=16", "data.long_texts=windows"]
    code, printed = inspected(*words)
    assert code == 0
    lines = [line.split() for line in printed.splitlines()]
    assert lines[2][-2:] == ["windows", "unknown"]
    assert lines[3][:5] == ["1,", "2", "train", "30", "0"]
    page = inspect_data.DataPage(inspect_data.settings_of_runs([*words, f"cache_dir={tmp_path / 'cache'}"]))
    read = tokenise(page.splits[0].rows, page.tokenizer, 16, tmp_path / "tokens", page.settings.data.reading)
    assert lines[3][-2] == str(len(read.windows)) == "34"
    assert [line[0] for line in lines if len(line) == 4 and line[0] in ("1", "2", "10")] == ["1", "2", "10"]
    told = " ".join(" ".join(words) for words in lines)
    assert "windows: of data.max_length=16 that they are read in, so that none is cut" in told
    assert "few texts of 2 (the largest class has 1.7 times as many as the smallest)" in told
    assert "protocol.imbalance has training do so too" in told


def test_the_exit_code_is_1_where_train_py_will_refuse(inspected, own):
    code, printed = inspected(*own, "data.contamination=error")
    assert code == 1
    assert "train.py refuses" in printed
    assert "next  " not in printed


COLUMN = shlex.quote("data.text_column='Review, full'")
"""One column, whose name holds a comma."""


@pytest.mark.parametrize(
    ("words", "following"),
    [
        ("stage=mlm 'data.text=my texts.txt' data=files", "stage=mlm 'data.text=my texts.txt' data=files"),
        ("repr=mean data=imdb model=minilm stage1.epochs=2", "stage=mlm data=imdb model=minilm pretraining.epochs=2"),
        ("data.max_length=64 repr=cls,mean seed=1,2 -m", "stage=mlm data.max_length=64"),
        ("repr=cls,mean stage1.seed=1,2 -m", "stage=mlm seed=1,2 -m"),
        (f"data=files data.text=a.csv {COLUMN} repr=cls,mean -m", f"stage=mlm data=files data.text=a.csv {COLUMN}"),
        ("repr=cls,mean encoder=base -m", "repr=cls,mean encoder=base -m"),
    ],
)
def test_the_command_that_comes_next(words, following):
    typed = [word for word in shlex.split(words) if word != "-m"]
    sweeps = words.endswith("-m")
    runs = inspect_data.settings_of_runs(typed, sweeps)
    assert inspect_data.next_command(typed, sweeps, runs) == f"python train.py {following}"


@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        ("repr=cls,mean encoder=base", 6),
        ("repr=cls,mean seed=4 encoder=base", 2),
        ("protocol=finetune_rates encoder=base", 9),
        ("stage=mlm", 1),
    ],
)
def test_a_sweep_has_the_seeds_that_train_gives_it(words, jobs):
    assert len(inspect_data.settings_of_runs(words.split(), sweeps=True)) == jobs


def test_near_copies_count_where_they_are_asked_for(inspected, own, tmp_path):
    (tmp_path / "test.tsv").write_text(f"text\tlabel\n{LONG} 8\tbad\n{DEV_LIKE}\tgood\n")
    code, printed = inspected(*own, "data.contamination=error")
    told = " ".join(printed.split())
    assert code == 0
    assert (
        "nearly also in data.train: look at them; with data.near_copies=true data.contamination=error is about" in told
    )
    code, printed = inspected(*own, "data.contamination=error", "data.near_copies=true")
    assert code == 1
    told = " ".join(printed.split())
    assert "1 test text nearly also in data.train: train.py refuses that (data.contamination=error)" in told


def test_dev_texts_of_stage_1_among_its_training_texts_are_told(inspected, tmp_path):
    words = ENGLISH.split()
    lines = [" ".join(words[9 * n : 9 * n + 9]) for n in range(20)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "dev.txt").write_text(f"{lines[3].upper()}\n{lines[5]} again\n{DEV_LIKE}\n")
    own = ["stage=mlm", "data=files", *MODEL, "data.max_length=16"]
    own += [f"data.text={tmp_path / 'text.txt'}", f"data.text_dev={tmp_path / 'dev.txt'}"]
    code, printed = inspected(*own, "--out", str(tmp_path / "list.csv"))
    told = " ".join(printed.split())
    assert code == 0
    assert "dev of stage 1, also in its training texts: 1 exact, 1 near" in told
    assert "also in data.train" not in told
    found = "1 stage-1 dev text also in the texts of stage 1: train.py leaves these out of stage 1 "
    assert f"{found}(data.contamination=drop)" in told
    assert "1 stage-1 dev text nearly also in the texts of stage 1: look at them" in told
    with (tmp_path / "list.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["kind"], row["place"], row["other place"]) for row in csv.DictReader(file)]
    dev, text = tmp_path / "dev.txt", tmp_path / "text.txt"
    assert rows == [("exact", f"{dev}, line 1", f"{text}, line 4"), ("near", f"{dev}, line 2", f"{text}, line 6")]
    assert inspected(*own, "data.contamination=error")[0] == 1


def test_another_script_and_unknown_word_pieces_are_told(inspected, tmp_path, tokenizer, config):
    BertModel(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    (tmp_path / "text.txt").write_text("\n".join(f"хороший фильм номер {n}" for n in range(40)) + "\n")
    words = ["stage=mlm", "data=files", f"model={tmp_path / 'encoder'}", f"data.text={tmp_path / 'text.txt'}"]
    code, printed = inspected(*words, "data.max_length=32")
    told = " ".join(printed.split())
    assert code == 0
    assert "no labels: stage 1 only" in told
    assert "100.0% of the letters are Cyrillic, as are 0% of the word pieces" in told
    assert "unknown word pieces: " in told
    assert "of train of stage 1, " in told
    assert "(often хороший фильм номер" in told


def test_the_time_of_a_sweep_is_that_of_its_runs(inspected, own):
    told = " ".join(inspected(*own, "repr=cls,mean", "-m", "seed=1,2,3")[1].split())
    found = r"from [1-9] timed steps?"
    assert re.search(rf"stage 1: about 5 s, {found}; stage 2: about \d+ s for 6 runs, {found}", told), told


@pytest.mark.slow
def test_runs_that_are_the_same_or_read_the_same_states_count_once(inspected, own, monkeypatch):
    """Base and two stage-1 runs; each with two draws of 2 labels a class and, once, with all."""
    timed = []

    def estimate(make):
        timed.append(make().identity.material.get("labels"))
        return Estimate(0.0, 600.0, "from 8 timed steps") if len(timed) == 1 else Estimate(60.0, 120.0, "from 9 texts")

    monkeypatch.setattr("poolwise.jobs.timing.estimate", estimate)
    sweep = ["encoder=base,stage1", "labels_per_class=2,all", "label_seed=1,2", "stage1.seed=1,2", "seed=1", "repr=cls"]
    told = " ".join(inspected(*own, "stage=sentiment", "protocol=probe", *sweep, "-m")[1].split())
    assert "stage 1: about 20 min for 2 runs, from 8 timed steps; " in told
    assert f"stage 2: about {3 + 2 * 9} min for 9 runs, from 9 texts of each of 2 kinds" in told
    assert len(timed) == 3


@pytest.mark.slow
def test_near_copies_are_not_looked_for_in_very_many_texts_unless_asked(inspected, own, monkeypatch):
    monkeypatch.setattr(inspect_data, "NEAR_TEXTS", 60)
    lines = [" ".join(line.split()) for line in inspected(*own)[1].splitlines()]
    assert "data.train 0 ? 1 ?" in lines
    assert any("?: not looked for among more than 60 texts" in line for line in [" ".join(lines)])
    lines = [" ".join(line.split()) for line in inspected(*own, "data.near_copies=true")[1].splitlines()]
    assert "data.train 0 0 1 1" in lines


@pytest.mark.parametrize(
    ("text", "language"),
    [("una habitación muy pequeña y un servicio bastante malo, el número", "es"), ("a very small room, number", "en")],
)
def test_texts_in_another_language_than_the_vocabulary_are_told(inspected, tmp_path, text, language):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *sorted(set(ENGLISH.split())), *"0123456789"]) + "\n")
    (tmp_path / "text.txt").write_text("\n".join(f"{text} {n}" for n in range(40)) + "\n")
    words = ["stage=mlm", "data=files", *MODEL, f"data.text={tmp_path / 'text.txt'}", "data.max_length=32"]
    told = " ".join(inspected(*words, f"model.vocabulary={tmp_path / 'vocab.txt'}")[1].split())
    assert f"language texts {language} 100.0%; words of the vocabulary en 100.0%" in told
    finding = "the texts seem to be in another language (es) than this vocabulary (en)"
    assert (finding in told) == (language == "es")


@pytest.mark.parametrize(("text", "pieces"), [("a short review of a film", "1.0"), ("ein kurzer Bericht", "3.2")])
def test_words_in_many_pieces_tell_that_the_vocabulary_is_of_other_text(inspected, tmp_path, text, pieces):
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    whole = "[PAD] [UNK] [CLS] [SEP] [MASK] a short review of film ein ber 0 1 2 3 4 5 6 7 8 9".split()
    known = [*whole, *letters]
    (tmp_path / "vocab.txt").write_text("\n".join(dict.fromkeys(known)) + "\n")
    (tmp_path / "text.txt").write_text("\n".join(f"{text} {n}" for n in range(10)) + "\n")
    words = ["stage=mlm", "data=files", *MODEL, f"data.text={tmp_path / 'text.txt'}", "data.max_length=32"]
    told = " ".join(inspected(*words, f"model.vocabulary={tmp_path / 'vocab.txt'}")[1].split())
    finding = "word pieces a word (1.0 to 1.4 are usual for text that the vocabulary was made for): this vocabulary was"
    assert (finding in told) == (pieces != "1.0")
    assert (f"{pieces} {finding}" in told) == (pieces != "1.0")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data=files"], "data=files needs data.text"),
        (["data.text=absent.txt", "data=files"], "absent.txt cannot be read"),
        (["data.lenght=3"], "data.lenght=3: no such setting"),
        (["data.contamination=dorp"], "must be one of error, warn, drop (did you mean drop?)"),
        (["data.train=64,65"], "several data sets or models; inspect one at a time"),
    ],
)
def test_a_mistake_is_one_message(inspected, words, told):
    code, printed = inspected(*MODEL, *words)
    assert code == 2
    assert told in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_threads_are_set_before_torch_is_there():
    """Else the estimates are those of other settings than training has, on a busy machine by a factor of five."""
    told = "machine.prepare = lambda: print('torch' in sys.modules)"
    ran = "sys.argv[1:] = ['--help']; runpy.run_module('poolwise.inspect_data', run_name='__main__')"
    code = f"import runpy, sys; from poolwise import machine; {told}; {ran}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "False"
