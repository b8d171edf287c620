import gzip
import itertools
import json
import os
import resource
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from poolwise.data.contamination import THRESHOLD, jaccard
from poolwise.data.files import load_files, texts_in
from poolwise.data.parts import Layout, find_parts
from poolwise.data.reading import READERS
from poolwise.settings import FilesData, UserError

SETTINGS = {
    "source": "files",
    "name": "own",
    "text": None,
    "text_dev": None,
    "train": None,
    "dev": None,
    "test": None,
    "text_column": None,
    "label_column": None,
    "rating_column": None,
    "text_dev_share": 0.2,
    "dev_share": 0.1,
    "test_share": 0.2,
    "split_seed": 0,
    "max_length": 32,
}
ROWS = [("a fine film", "pos"), ("dull", "neg"), ('said "go", loudly', "pos")]


def settings(**changes) -> FilesData:
    return FilesData(**{**SETTINGS, **changes})


@pytest.fixture
def labelled(tmp_path):
    csv, tsv, jsonl = tmp_path / "train.csv", tmp_path / "dev.tsv", tmp_path / "test.jsonl"
    csv.write_text('text,label\na fine film,pos\ndull,neg\n"said ""go"", loudly",pos\n')
    tsv.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS))
    jsonl.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    return {"train": str(csv), "dev": str(tsv), "test": str(jsonl)}


def test_csv_tsv_and_jsonl_hold_the_same(labelled):
    corpus = load_files(settings(**labelled))
    assert corpus.label_names == ("neg", "pos")
    for split in ("train", "dev", "test"):
        assert list(corpus.labelled[split]["text"]) == [text for text, _ in ROWS]
        assert list(corpus.labelled[split]["label"]) == [1, 0, 1]
    assert list(corpus.text["train"]["text"]) == [text for text, _ in ROWS]
    assert list(corpus.text["dev"]["text"]) == [text for text, _ in ROWS]


def many(folder: Path, positive: int = 60, negative: int = 30) -> str:
    labels = ["pos"] * positive + ["neg"] * negative
    file = folder / "many.csv"
    file.write_text("text,label\n" + "".join(f"text {n},{label}\n" for n, label in enumerate(labels)))
    return str(file)


def test_dev_and_test_are_made_of_train(tmp_path):
    corpus = load_files(settings(train=many(tmp_path)))
    labels = {split: np.bincount(rows["label"]).tolist() for split, rows in corpus.labelled.items()}
    assert labels == {"train": [21, 42], "dev": [3, 6], "test": [6, 12]}
    texts = [text for rows in corpus.labelled.values() for text in rows["text"]]
    assert sorted(texts) == sorted(f"text {n}" for n in range(90))
    assert corpus.made_splits == {
        "test": {"from": "train", "share": 0.2, "seed": 0, "stratified": True, "texts": 18},
        "dev": {"from": "train", "share": 0.1, "seed": 0, "stratified": True, "texts": 9},
    }
    assert len(corpus.unsplit) == 90
    assert list(corpus.text["train"]["text"]) == list(corpus.labelled["train"]["text"])  # stage 1 reads no test text
    again, other = (load_files(settings(train=many(tmp_path), split_seed=seed)) for seed in (0, 1))
    assert list(again.labelled["test"]["text"]) == list(corpus.labelled["test"]["text"])
    assert list(other.labelled["test"]["text"]) != list(corpus.labelled["test"]["text"])


def test_classes_too_rare_for_three_splits_are_warned_of(tmp_path, labelled, caplog):
    train = many(tmp_path)
    with Path(train).open("a") as stream:
        stream.write("one of its kind,mixed\n")
    load_files(settings(train=train))
    told = f"data.train={train}: fewer than 3 texts of 'mixed' (1), which may never reach dev or test; add some, or"
    assert [message.startswith(told) for message in caplog.messages if "fewer" in message] == [True]
    caplog.clear()
    load_files(settings(**labelled))
    assert not caplog.messages


def test_one_split_that_is_not_given_is_made(tmp_path, labelled):
    file = many(tmp_path)
    corpus = load_files(settings(train=file, test=labelled["test"]))
    assert {split: len(rows) for split, rows in corpus.labelled.items()} == {"train": 81, "dev": 9, "test": 3}
    assert list(corpus.made_splits) == ["dev"]
    assert corpus.unsplit is None
    corpus = load_files(settings(train=file, dev=labelled["dev"]))
    assert {split: len(rows) for split, rows in corpus.labelled.items()} == {"train": 72, "dev": 3, "test": 18}
    assert load_files(settings(train=file, dev=labelled["dev"], test=labelled["test"])).made_splits == {}


def test_too_few_texts_to_make_a_split_are_told(tmp_path):
    file = tmp_path / "few.csv"
    file.write_text("text,label\na,1\nb,2\n")
    with pytest.raises(UserError, match=r"few\.csv: 2 texts are too few to hold some of a class out as test; give"):
        load_files(settings(train=str(file)))
    with pytest.raises(UserError, match=r"stage 2 needs data\.train; given: data\.test"):
        load_files(settings(test=str(file)))


def test_shares_that_leave_nothing_for_training_are_told(tmp_path, labelled):
    file = many(tmp_path)
    with pytest.raises(
        UserError, match=r"data\.dev_share=0\.9 and data\.test_share=0\.5 leave nothing of data\.train="
    ):
        load_files(settings(train=file, dev_share=0.9, test_share=0.5))
    corpus = load_files(settings(train=file, dev=labelled["dev"], dev_share=0.9, test_share=0.5))
    assert len(corpus.labelled["test"]) == 45


def test_own_text_a_text_a_line(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffone\r\n\r\ntwo\nthree\nfour\nfive\n".encode())
    corpus = load_files(settings(text=str(file)))
    assert corpus.labelled == {}
    assert len(corpus.text["dev"]) == 2
    found = [*corpus.text["train"]["text"], *corpus.text["dev"]["text"]]
    assert sorted(found) == ["five", "four", "one", "three", "two"]


def test_dev_text_of_its_own(tmp_path, labelled):
    file = tmp_path / "dev.txt"
    file.write_text("held out\n")
    corpus = load_files(settings(**labelled, text=labelled["train"], text_dev=str(file)))
    assert list(corpus.text["dev"]["text"]) == ["held out"]


def test_a_folder_or_pipe_is_told_at_once(tmp_path, labelled):
    os.mkfifo(tmp_path / "pipe.csv")
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        load_files(settings(**{**labelled, "dev": str(empty), "train": str(tmp_path / "pipe.csv")}))
    assert error.value.messages == (
        f"{tmp_path}/pipe.csv cannot be read: it is a pipe or device",
        f"{empty} is a folder without files that can be read; they end in {', '.join(READERS)}",
    )


def test_a_suffix_in_capitals_and_an_empty_setting(tmp_path):
    capitals = tmp_path / "TRAIN.CSV"
    capitals.write_text("\n\ntext,label\nx,1\n\ny,2\n")
    corpus = load_files(settings(train=str(capitals), dev=str(capitals), test=str(capitals), text="", text_dev="."))
    assert list(corpus.text["dev"]["text"]) == list(corpus.labelled["train"]["text"]) == ["x", "y"]
    with pytest.raises(UserError, match="too few to hold some of a class out as dev"):
        load_files(settings(train=str(capitals), dev="", test=str(capitals)))


def test_labels_that_mean_the_same_are_one_class_in_all_files(tmp_path):
    jsonl, csv = tmp_path / "labels.jsonl", tmp_path / "labels.csv"
    jsonl.write_text("".join(f'{{"text": "a", "label": {label}}}\n' for label in ("1", "1.0", '"1 "', "true")))
    csv.write_text("text,label\nx, 1\ny,1.0\nz,true \n")
    corpus = load_files(settings(train=str(jsonl), dev=str(csv), test=str(csv)))
    assert corpus.label_names == ("1", "true")
    assert list(corpus.labelled["train"]["label"]) == [0, 0, 0, 1]
    assert list(corpus.labelled["dev"]["label"]) == [0, 0, 1]


def test_one_text_is_told_with_its_file(tmp_path):
    (tmp_path / "one.txt").write_text("a line\n")
    with pytest.raises(UserError, match=r"data\.text=.*one\.txt: 1 text; at least 2"):
        load_files(settings(text=str(tmp_path / "one.txt")))


def test_what_is_wrong_with_several_files_is_told_together(tmp_path, labelled):
    (tmp_path / "blank.csv").write_text("text,label\nx,neg\n ,pos\ny,\n,neg\n")
    with pytest.raises(UserError) as error:
        load_files(settings(train=labelled["train"], dev=str(tmp_path / "blank.csv"), test="absent.csv", text="no.txt"))
    assert [message.removeprefix(f"{tmp_path}/") for message in error.value.messages] == [
        "blank.csv: 2 texts empty (rows 2, 4); fill them in, or have data.empty=drop leave the rows out",
        "blank.csv: 1 label empty (row 3); fill them in, or have data.empty=drop leave the rows out",
        "absent.csv cannot be read: No such file or directory",
        "no.txt cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize("kept", [True, False])
def test_rows_without_text_or_label_are_left_out_where_that_is_asked_for(tmp_path, labelled, kept):
    cache = tmp_path / "cache" if kept else None
    (tmp_path / "gaps.csv").write_text("text,label\na,neg\n ,pos\nb,N/A\nc,pos\n,\nd,nan\n")
    (tmp_path / "texts.txt").write_text("one\n\ntwo\n")
    paths = {**labelled, "train": str(tmp_path / "gaps.csv"), "text": str(tmp_path / "texts.txt")}
    for _ in range(2):  # the second time from the cache
        corpus = load_files(settings(**paths, empty="drop"), cache)
        assert [*corpus.labelled["train"]["text"]] == ["a", "c"]
        assert corpus.left_out == {
            "stage1": {"train": 1, "dev": 0},
            "stage2": {"train": 4, "dev": 0, "test": 0},
        }
    for _ in range(2):
        with pytest.raises(UserError, match=r"gaps\.csv: 2 texts empty \(rows 2, 5\)"):
            load_files(settings(**paths), cache)
    assert load_files(settings(**{**paths, "text": None}, empty="drop"), cache).left_out["stage1"]["train"] == 4


def test_a_train_of_rows_without_text_or_label_is_told(tmp_path):
    (tmp_path / "gaps.csv").write_text("text,label\n,pos\nb,\n")
    with pytest.raises(UserError, match=r"gaps\.csv: no row of train has a text and a label"):
        load_files(settings(train=str(tmp_path / "gaps.csv"), empty="drop"))


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "une très belle histoire, à voir"),
        ("gb18030", "这个酒店非常好。房间很大。服务态度也不错。"),
        ("cp1251", "это очень хороший фильм, мне понравилось"),
    ],
)
def test_the_encoding_of_a_file_is_guessed_and_its_place_told(tmp_path, encoding, text):
    file = tmp_path / "texts.txt"
    file.write_bytes(("a plain line\n" * 500).encode() + text.encode(encoding))
    with pytest.raises(UserError) as error:
        load_files(settings(text=str(file)))
    assert f"{file}, line 501: not UTF-8" in str(error.value)
    assert f"iconv -f {encoding} -t utf-8" in str(error.value)


def test_that_no_file_is_named_is_told():
    with pytest.raises(UserError, match=r"needs data\.text"):
        load_files(settings())


def test_a_text_file_without_text_is_told(tmp_path):
    file = tmp_path / "blank.txt"
    file.write_text("\n  \n")
    with pytest.raises(UserError, match="holds no text"):
        load_files(settings(text=str(file)))


def rows_of(corpus, split="train"):
    return [
        (text, corpus.label_names[label])
        for text, label in zip(corpus.labelled[split]["text"], corpus.labelled[split]["label"], strict=True)
    ]


def test_a_pattern_names_files_of_several_kinds(tmp_path, labelled):
    (tmp_path / "part").mkdir()
    for name in ("train", "dev", "test"):
        Path(labelled[name]).rename(tmp_path / "part" / Path(labelled[name]).name)
    pattern = str(tmp_path / "part/*.*")
    corpus = load_files(settings(train=pattern, dev=pattern, test=pattern))
    assert rows_of(corpus) == 3 * ROWS
    assert rows_of(load_files(settings(train=str(tmp_path / "part/t*"), dev=pattern, test=pattern))) == 2 * ROWS


def test_each_file_or_each_line_of_text_files_is_a_text_as_one_says(tmp_path):
    folder, cache = tmp_path / "reviews", tmp_path / "cache"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"first line {number}\nsecond line {number}\n")
    files = [f"first line {number}\nsecond line {number}" for number in range(4)]
    lines = [line for text in files for line in text.split("\n")]

    def texts(path: Path, text_per: str | None = None) -> list[str]:
        text = load_files(settings(text=str(path), text_per=text_per), cache).text
        return sorted([*text["train"]["text"], *text["dev"]["text"]])

    assert texts(folder) == texts(folder / "*.txt", "file") == sorted(files)
    assert texts(folder / "*.txt") == texts(folder, "line") == sorted(lines)
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.txt").write_text("one\ntwo\n")
    rows = [list(texts_in(str(place))) for place in (one, one / "a.txt")]
    assert rows == [["one\ntwo"], ["one", "two"]]
    (whole,), (by_line,) = (find_parts(str(place))[""] for place in (one, one / "a.txt"))
    assert whole.content() != by_line.content()
    assert whole.fingerprint() != by_line.fingerprint()
    (folder / "more.csv").write_text("text\nof a table\n")
    assert texts(folder / "*", "file") == sorted([*files, "of a table"])


def test_each_line_of_the_files_of_a_class_is_a_text_where_one_says_so(tmp_path):
    for label, lines in {"neg": ["bad", "worse"], "pos": ["good", "", "better", "best"]}.items():
        (tmp_path / label).mkdir()
        for number in range(10):
            (tmp_path / label / f"{number}.txt").write_text(
                "".join(f"{line} {number}\n" if line else "\n" for line in lines)
            )
    corpus = load_files(settings(train=str(tmp_path), text_per="line"))
    rows = [(row["text"], corpus.label_names[row["label"]]) for split in corpus.labelled.values() for row in split]
    good = [(f"{word} {n}", "pos") for word in ("good", "better", "best") for n in range(10)]
    assert sorted(rows) == sorted([*good, *((f"{word} {n}", "neg") for word in ("bad", "worse") for n in range(10))])
    with pytest.raises(UserError, match=r"no column stars \(data.rating_column\): .txt files hold text only"):
        load_files(settings(text=str(tmp_path), text_per="line", rating_column="stars"))


def test_a_split_is_the_one_that_is_called_so_and_not_another_of_its_kind(tmp_path):
    def rows(word: str, count: int) -> Dataset:
        return Dataset.from_dict({"text": [f"{word} {n}" for n in range(count)], "label": ["a", "b"] * (count // 2)})

    saved = DatasetDict({"train": rows("train", 40), "train_extra": rows("extra", 10), "test": rows("test", 20)})
    saved.save_to_disk(str(tmp_path / "saved"))
    corpus = load_files(settings(train=str(tmp_path / "saved")))
    assert len(corpus.labelled["test"]) == 20
    assert not any("extra" in text for text in corpus.labelled["train"]["text"])
    DatasetDict({"train": rows("a", 4), "test_a": rows("b", 4), "test_b": rows("c", 4)}).save_to_disk(
        str(tmp_path / "two")
    )
    with pytest.raises(UserError, match=r"two: test_a, test_b may each be test; save the one"):
        load_files(settings(train=str(tmp_path / "two")))
    (tmp_path / "tables").mkdir()
    for name in ("train-0-of-2", "train-1-of-2", "test", "test_hard"):
        rows(name, 8).to_csv(str(tmp_path / f"tables/{name}.csv"), index=False)
    with pytest.raises(UserError, match=r"test.csv, .*test_hard.csv may each be test by their names"):
        load_files(settings(train=str(tmp_path / "tables")))
    (tmp_path / "tables/test_hard.csv").unlink()
    (tmp_path / "tables/~$train.csv").write_bytes(b"\0lock")  # as Excel leaves beside a file that is open
    assert len(load_files(settings(train=str(tmp_path / "tables"))).labelled["test"]) == 8


@pytest.mark.parametrize("lines", [20, 100, 2000])
def test_an_encoding_is_guessed_from_whole_characters(tmp_path, lines):
    reviews = [f"这个酒店的房间很干净。服务态度也不错。第{n}次入住。早餐一般。,{n % 2}" for n in range(lines)]
    (tmp_path / "zh.csv").write_bytes("\n".join(["text,label", *reviews]).encode("gb18030"))
    with pytest.raises(UserError, match=r"line 2: not UTF-8 .* it seems to be gb18030; convert it: iconv -f gb18030"):
        load_files(settings(train=str(tmp_path / "zh.csv")))


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".xlsx"])
def test_a_table_without_a_header_has_columns_by_number(tmp_path, kind):
    rows = [(n % 2 * 4, f"user{n}", f"text {n}, and more") for n in range(40)]
    file = tmp_path / f"tweets{kind}"
    table = pandas.DataFrame(rows)
    if kind == ".xlsx":
        table.to_excel(file, header=False, index=False)
    else:
        table.to_csv(file, sep={".csv": ",", ".tsv": "\t"}[kind], header=False, index=False)
    corpus = load_files(settings(train=str(file), header=False, text_column="3", label_column="1"))
    found = [(corpus.label_names[row["label"]], row["text"]) for split in corpus.labelled.values() for row in split]
    assert sorted(found) == sorted((str(label), text) for label, _, text in rows)
    with pytest.raises(UserError, match="no column text; it has 1, 2, 3"):
        load_files(settings(train=str(file), header=False))
    assert len({find_parts(str(file), layout=Layout(header=header))[""][0].content() for header in (True, False)}) == 2


def test_near_copies_are_in_one_split_where_they_are_looked_for(tmp_path):
    # Of each chain the ends are no near-copies, but by way of those between them.
    chains = [[" ".join(f"{10 * c}word{n}" for n in range(first, first + 20)) for first in range(5)] for c in range(12)]
    texts = [text for chain in chains for text in chain]
    assert jaccard(chains[0][0], chains[0][4]) < THRESHOLD < jaccard(chains[0][0], chains[0][1])
    file = tmp_path / "all.csv"
    pandas.DataFrame({"text": texts, "label": [n // 5 % 2 for n in range(60)]}).to_csv(file, index=False)
    across = []
    for near in (False, True):
        splits = load_files(settings(train=str(file), near_copies=near)).labelled
        of = {text: split for split, rows in splits.items() for text in rows["text"]}
        assert len(of) == 60
        across.append(sum(len({of[text] for text in texts[n : n + 5]}) > 1 for n in range(0, 60, 5)))
        sizes = {split: len(rows) for split, rows in splits.items()}
    assert across[0] > 0 == across[1]
    assert sizes == {"train": 40, "dev": 10, "test": 10}


def test_near_copies_of_a_made_stage_1_dev_go_with_it_where_they_are_looked_for(tmp_path):
    texts = [f"a long enough film of the year {100 + 7 * n} was seen by number {n}" for n in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join([*texts, *(f"{text} times" for text in texts)]))
    across = []
    for near in (False, True):
        dev = set(load_files(settings(text=str(tmp_path / "texts.txt"), near_copies=near)).text["dev"]["text"])
        assert dev
        across.append(sum((text in dev) != (f"{text} times" in dev) for text in texts))
    assert across[0] > 0 == across[1]


def test_a_folder_of_tables_is_read_by_the_splits_in_their_names(tmp_path):
    (tmp_path / "data").mkdir()
    for name, count in {"train-00000-of-00002": 20, "train-00001-of-00002": 10, "validation-00000-of-00001": 4}.items():
        rows = Dataset.from_dict({"text": [f"{name} {n}" for n in range(count)], "label": ["a", "b"] * (count // 2)})
        rows.to_parquet(str(tmp_path / f"data/{name}.parquet"))
    (tmp_path / "README.md").write_text("no table")
    corpus = load_files(settings(train=str(tmp_path), text=str(tmp_path)))
    assert {split: len(rows) for split, rows in corpus.labelled.items()} == {"train": 24, "dev": 4, "test": 6}
    assert list(corpus.made_splits) == ["test"]
    assert len(corpus.text["train"]) == 30
    with pytest.raises(UserError, match="no split test; it has train, dev"):
        load_files(settings(train=str(tmp_path), test=str(tmp_path)))
    (tmp_path / "data/more.csv").write_text("text,label\na,1\n")
    with pytest.raises(UserError, match=r"data/more\.csv: of train, dev or test\? Other files there say it"):
        load_files(settings(train=str(tmp_path)))


def test_a_saved_data_set_keeps_the_names_of_its_classes(tmp_path):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    rows = Dataset.from_dict({"sentence": ["x", "y", "z"], "label": [1, 0, 1]}, features=features)
    DatasetDict({"train": rows, "validation": rows, "test": rows.select([0])}).save_to_disk(str(tmp_path / "saved"))
    corpus = load_files(settings(train=str(tmp_path / "saved")), tmp_path / "cache")
    assert rows_of(corpus) == rows_of(corpus, "dev") == [("x", "good"), ("y", "bad"), ("z", "good")]
    assert rows_of(corpus, "test") == [("x", "good")]
    rows.save_to_disk(str(tmp_path / "one"))
    same = load_files(settings(**dict.fromkeys(("train", "dev", "test"), str(tmp_path / "one"))), tmp_path / "cache")
    assert rows_of(same) == rows_of(corpus)


def test_texts_of_a_folder_are_a_file_each_with_the_folder_as_class(tmp_path):
    """The layout of aclImdb: `unsup` is text of no class, and what lies beside the classes is none."""
    for split, name in itertools.product(("train", "test"), ("neg", "pos", "unsup")):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / split / name / f"{number}.txt").write_text(f"{split} {name} {number}\nsecond line\n")
    (tmp_path / "train/urls.txt").write_text("http://x\n")
    corpus = load_files(
        settings(train=str(tmp_path / "train"), dev=str(tmp_path / "test"), test=str(tmp_path / "test"))
    )
    assert rows_of(corpus) == [(f"train {name} {n}\nsecond line", name) for name in ("neg", "pos") for n in range(2)]
    texts = load_files(settings(text=str(tmp_path / "train"), text_dev=str(tmp_path / "test/pos"))).text
    assert len(texts["train"]) == 6
    assert list(texts["dev"]["text"]) == ["test pos 0\nsecond line", "test pos 1\nsecond line"]
    assert rows_of(load_files(settings(train=str(tmp_path))), "test")[0] == ("test neg 0\nsecond line", "neg")


FOLDERS: dict[str, tuple[list[str], list[str] | str]] = {
    "deeper than one level, and compressed": (["neg/a.txt", "pos/b/c.txt", "pos/d.txt.gz"], ["neg", "pos", "pos"]),
    "texts beside folders of texts": (["a.txt", "neg/b.txt", "pos/c.txt"], "(3 .txt; in itself, neg, pos)"),
    "texts beside a table": (["a.csv", "b.txt", "c.txt"], "such as '{}/*.txt'"),
    "a competition's files": (
        ["sample_submission.csv", "test.csv", "train.csv"],
        "name files, such as data.train={}/train.csv (and data.dev",
    ),
    "JSON beside a table": (["a.csv", "b.json"], "(1 .csv, 1 .json; in itself)"),
    "folders beside a table": (["a.csv", "sub/b.csv"], "such as '{}/**/*.csv'"),
    "what is about data": (["neg/a.txt", "pos/b.txt", "README.txt", "dataset_info.json"], ["neg", "pos"]),
    "another split in that of one": (["train/test.csv", "test/a.csv"], "train by its name, with files of test"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_no_file_of_a_folder_is_left_out_untold(tmp_path, case):
    names, expected = FOLDERS[case]
    folder = tmp_path / "all"
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = b"text,label\na,neg\nb,pos\n" if file.suffix == ".csv" else name.encode()
        file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    same = settings(**dict.fromkeys(("train", "dev", "test"), str(folder)))
    if isinstance(expected, str):
        with pytest.raises(UserError) as error:
            load_files(same)
        assert expected.format(folder) in error.value.messages[0]
    else:
        found = rows_of(load_files(same, tmp_path / "cache"))
        assert found == list(zip(names, expected, strict=False))[: len(expected)]


def test_a_class_that_changes_two_folders_up_changes_the_kept_rows(tmp_path):
    for name in ("neg/a/1.txt", "pos/b/2.txt"):
        (tmp_path / "all" / name).parent.mkdir(parents=True)
        (tmp_path / "all" / name).write_text(name)
    same = settings(**dict.fromkeys(("train", "dev", "test"), str(tmp_path / "all")))
    assert rows_of(load_files(same, tmp_path / "cache")) == [("neg/a/1.txt", "neg"), ("pos/b/2.txt", "pos")]
    (tmp_path / "all/neg").rename(tmp_path / "all/bad")
    assert rows_of(load_files(same, tmp_path / "cache")) == [("neg/a/1.txt", "bad"), ("pos/b/2.txt", "pos")]


def test_columns_are_found_by_common_names_or_told(tmp_path):
    file = tmp_path / "shop.csv"
    file.write_text("id,Review,stars,verdict\n1,a,5,good\n2,b,1,bad\n")
    same = dict.fromkeys(("train", "dev", "test"), str(file))
    assert load_files(settings(**same)).label_names == ("1", "5")
    assert load_files(settings(**same, label_column="verdict")).label_names == ("bad", "good")
    corpus = load_files(settings(**same, label_column="verdict", rating_column="stars"))
    assert list(corpus.text["train"]["rating"]) == ["5", "1"]


def test_ratings_are_looked_for_in_what_stage_1_reads_only(tmp_path):
    rated, plain = tmp_path / "rated.csv", tmp_path / "plain.csv"
    rated.write_text("text,stars,label\na,5,good\nb,1,bad\n")
    plain.write_text("text,label\na,good\nb,bad\n")
    for own in (
        {"text": rated, "text_dev": rated, "train": plain, "dev": plain},
        {"text": rated, "train": plain, "dev": rated},
        {"text_dev": rated, "train": rated, "dev": plain},
    ):
        paths = {name: str(file) for name, file in {**own, "test": plain}.items()}
        corpus = load_files(settings(**paths, rating_column="stars"))
        assert [list(corpus.text[split]["rating"]) for split in ("train", "dev")] == [["5", "1"]] * 2
    with pytest.raises(UserError, match=f"{plain}: no column stars"):  # of which stage 1's dev is made
        load_files(settings(text=str(rated), train=str(plain), rating_column="stars"))


@pytest.mark.parametrize("header", [True, False])
def test_text_and_labels_may_be_tables_of_different_kinds(tmp_path, header):
    posts, labels, named = tmp_path / "posts.csv", tmp_path / "labels.xlsx", "entry" if header else "2"
    texts = [f"post {n}" for n in range(20)]
    pandas.DataFrame({"note": "of mine", "entry": texts}).to_csv(posts, index=False, header=header)
    rows = [(f"opinion {n}", n % 2) for n in range(40)]
    pandas.DataFrame(rows, columns=["verdict", "points"]).to_excel(labels, index=False)
    own = {"text": str(posts), "train": str(labels), "text_column": "verdict", "label_column": "points"}
    with pytest.raises(UserError, match=r"posts\.csv: no column verdict; it has .*data\.stage1_text_column="):
        load_files(settings(**own))
    own |= {"stage1_text_column": named, "stage1_header": header}
    corpus = load_files(settings(**own), tmp_path / "cache")
    assert list(corpus.text["train"]["text"]) == texts
    assert sorted(text for split in corpus.labelled.values() for text in split["text"]) == sorted(t for t, _ in rows)
    assert list(load_files(settings(**own, text_dev=str(posts))).text["dev"]["text"]) == texts
    stream = load_files(settings(**own, streaming=True, shuffle_buffer=5)).stream
    assert list(stream.read()) == texts


def test_rows_come_from_the_cache_until_a_file_changes(tmp_path, labelled, monkeypatch):
    cache = tmp_path / "cache"
    first = load_files(settings(**labelled), cache)
    kept = {file: file.stat().st_mtime_ns for file in (cache / "rows").iterdir()}
    assert len(kept) == 3
    second = load_files(settings(**labelled), cache)
    assert {file: file.stat().st_mtime_ns for file in (cache / "rows").iterdir()} == kept
    assert rows_of(second) == rows_of(first) == rows_of(load_files(settings(**labelled)))
    Path(labelled["train"]).write_text("text,label\nnew,pos\nold,neg\n")
    assert rows_of(load_files(settings(**labelled), cache)) == [("new", "pos"), ("old", "neg")]
    assert len(list((cache / "rows").iterdir())) == 4


def test_rows_are_not_held_in_memory(tmp_path, monkeypatch):
    """10 MB of texts pass through a reader and lie in a mapped file; what Arrow holds beside is labels."""
    monkeypatch.setattr("poolwise.data.files.ROWS_AT_A_TIME", 50)
    file = tmp_path / "large.csv"
    with file.open("w") as stream:
        stream.write("text,label\n")
        for number in range(1_000):
            stream.write(f"{number} {10_000 * 'x'},{number % 2}\n")
    same = dict.fromkeys(("train", "dev", "test"), str(file))
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    corpus = load_files(settings(**same), tmp_path / "cache")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(corpus.labelled["train"]) == 1_000
    assert pyarrow.total_allocated_bytes() - before < 1_000_000
    assert peak < 4_000_000


def test_a_disk_without_room_is_told_and_leaves_nothing(tmp_path, labelled):
    """A limit on the size of files stands for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cache/rows cannot be written: .*File too large"):
            load_files(settings(**labelled), tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "cache/rows").iterdir()) == []


def test_stage_1_reads_texts_whose_labels_are_hidden(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    Dataset.from_dict({"text": ["x", "y"], "label": [-1, -1]}, features=features).save_to_disk(str(tmp_path / "hidden"))
    assert len(load_files(settings(text=str(tmp_path / "hidden"))).text["train"]) == 1


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_kept_rows_that_were_cut_off_are_made_anew(tmp_path, kept):
    """As a power cut may leave them: the file of Arrow ends with what it holds, so that a part is not taken for all."""
    source = tmp_path / "all.csv"
    source.write_text("text,label\n" + "".join(f"film {n},{n % 2}\n" for n in range(5000)))
    data = settings(train=str(source))
    whole = load_files(data, tmp_path / "cache").unsplit[:]
    (file,) = (tmp_path / "cache/rows").glob("*.arrow")
    content = file.read_bytes()
    file.unlink()  # it is mapped
    file.write_bytes(content[: int(kept * len(content))])
    assert load_files(data, tmp_path / "cache").unsplit[:] == whole
    assert file.read_bytes() == content


def test_labels_that_some_objects_leave_out_are_told_or_dropped(tmp_path):
    rows = [{"text": "c"}, {"text": "a", "label": 1}, {"label": 2}, {"text": "b", "label": 2}]
    (tmp_path / "partly.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "good.csv").write_text("text,label\na,1\nb,2\n")
    paths = {"train": str(tmp_path / "partly.jsonl"), **dict.fromkeys(("dev", "test"), str(tmp_path / "good.csv"))}
    with pytest.raises(UserError, match=r"1 text empty \(line 3\)[^|]*\n[^|]*1 label empty \(line 1\)"):
        load_files(settings(**paths))
    assert load_files(settings(**paths, empty="drop")).labelled["train"]["text"][:] == ["a", "b"]
