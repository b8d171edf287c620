import json
from pathlib import Path

import pyarrow
import pytest
from datasets import Dataset

from helpers import SMALL_RUN, settings
from poolwise.data.corpus import batches_of_rows, content_hash
from poolwise.jobs.corpus import checked_corpus, corpus_of, stage1_text, warnings_of
from poolwise.settings import UserError
from poolwise.stages.loop import warn_once

TRAIN = [f"the {word} film number {n}" for n in range(12) for word in ("fine", "dull")]
DEV = [f"one {word} book number {n}" for n in range(4) for word in ("fine", "dull")]
TEST = [f"this {word} song number {n}" for n in range(4) for word in ("fine", "dull")]


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """Own files: the text holds two test texts and a dev text, train holds a test text."""
    splits = {"train": [*TRAIN, TEST[4]], "dev": DEV, "test": TEST}
    for split, rows in splits.items():
        lines = [f"{text},{text.split()[1]}" for text in rows]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    known = [TEST[0].upper(), f"{TEST[1]} !", DEV[0]]
    (tmp_path / "text.txt").write_text("\n".join([f"a text number {n}" for n in range(30)] + known) + "\n")
    named = [f"data.{split}={tmp_path / split}.csv" for split in splits]
    return ["data=files", *named, f"data.text={tmp_path / 'text.txt'}", "data.max_length=16"]


def data_of(*words: str):
    return settings("stage=mlm", *words).data


def test_dev_and_test_texts_are_left_out_of_stage_1(own):
    checked = checked_corpus(data_of(*own))
    assert checked.report["copies"] == {"dev": {"in_train": 0, "in_stage1": 1}, "test": {"in_train": 1, "in_stage1": 2}}
    assert checked.report["dropped_from_stage1"] == 3
    assert list(checked.corpus.text["train"]["text"]) == [f"a text number {n}" for n in range(30)]
    assert len(checked.corpus.labelled["train"]) == len(TRAIN) + 1
    assert list(warnings_of(checked.report, "mlm")) == [
        "1 dev text and 2 test texts also in the texts of stage 1; 3 texts left out there"
    ]
    assert list(warnings_of(checked.report, "sentiment")) == [
        "1 test text also in data.train; figures on these may be too high"
    ]


def test_texts_that_are_left_after_one_is_dropped_stay_on_the_disk(own, tmp_path):
    """10 MB of them; read in pieces, these are the rows of the file less one, in their order."""
    lines = [f"{number} {10_000 * 'x'}" for number in range(1_000)]
    (tmp_path / "text.txt").write_text("\n".join([*lines[:500], TEST[0], *lines[500:]]) + "\n")
    before = pyarrow.total_allocated_bytes()
    checked = checked_corpus(data_of(*own), tmp_path / "cache")
    left = checked.corpus.text["train"]
    assert checked.report["dropped_from_stage1"] == 1
    assert [text for rows in batches_of_rows(left) for text in rows["text"]] == lines
    assert content_hash(left) == content_hash(Dataset.from_dict({"text": lines}))
    assert pyarrow.total_allocated_bytes() - before < 1_000_000


def test_rows_that_are_empty_or_badly_decoded_are_warned_of(own, tmp_path):
    (tmp_path / "dev.csv").write_text("text,label\ncaf\u00c3\u00a9,fine\nbook,\n,dull\nalso,dull\n")
    (tmp_path / "text.txt").write_text("one\n\ntwo\n" + "".join(f"three {n}\n" for n in range(30)))
    report = checked_corpus(data_of(*own, "data.empty=drop", "data.contamination=warn")).report
    decoded = "texts that were decoded wrongly once (U+FFFD, or UTF-8 read as another encoding): dev 1"
    assert list(warnings_of(report, "mlm")) == [decoded]
    assert list(warnings_of(report, "sentiment"))[1:] == [
        decoded,
        "rows without text or label, left out: dev 2",
    ]


def test_without_text_of_its_own_stage_1_reads_train_less_the_copies(own):
    words = [word for word in own if not word.startswith("data.text=")]
    assert list(stage1_text(data_of(*words))["train"]["text"]) == TRAIN


def test_a_warning_leaves_all_in_and_an_error_refuses_it(own):
    checked = checked_corpus(data_of(*own, "data.contamination=warn"))
    assert len(checked.corpus.text["train"]) == 33
    assert checked.report["dropped_from_stage1"] == 0
    assert list(warnings_of(checked.report, "mlm")) == [
        "1 dev text and 2 test texts also in the texts of stage 1; figures on these may be too good"
    ]
    told = "data.contamination=error: 1 test text also in data.train; 1 dev text and 2 test texts also in the texts of"
    with pytest.raises(UserError, match=told):
        corpus_of(data_of(*own, "data.contamination=error"))


NEARLY = "this fine song is one that I would gladly hear again and again"


@pytest.fixture
def unlabelled(tmp_path: Path) -> list[str]:
    """Text for stage 1 alone: two of its dev texts are also in train, one of them twice, and one is nearly."""
    (tmp_path / "text.txt").write_text("\n".join([*TRAIN, "ONE", "two", "One.", f"{NEARLY} today"]) + "\n")
    (tmp_path / "dev.txt").write_text(f"one\n{NEARLY}\ntwo!\nthree\n")
    return ["data=files", f"data.text={tmp_path / 'text.txt'}", f"data.text_dev={tmp_path / 'dev.txt'}"]


def test_dev_texts_of_stage_1_are_left_out_of_its_training_texts(unlabelled):
    checked = checked_corpus(data_of(*unlabelled))
    assert checked.report["copies"] == {"text_dev": {"in_stage1": 2}}
    assert list(checked.corpus.text["train"]["text"]) == [*TRAIN, f"{NEARLY} today"]
    told = "2 stage-1 dev texts also in the texts of stage 1; 3 texts left out there"
    assert next(warnings_of(checked.report, "mlm")) == told
    assert list(warnings_of(checked.report, "sentiment")) == []


def test_dev_texts_of_stage_1_among_its_training_texts_are_warned_of(unlabelled):
    checked = checked_corpus(data_of(*unlabelled, "data.contamination=warn"))
    assert checked.report["dropped_from_stage1"] == 0
    assert len(checked.corpus.text["train"]) == len(TRAIN) + 4
    told = "2 stage-1 dev texts also in the texts of stage 1; figures on these may be too good"
    assert next(warnings_of(checked.report, "mlm")) == told


def test_dev_texts_of_stage_1_among_its_training_texts_are_refused(unlabelled):
    with pytest.raises(UserError, match=r"error: 2 stage-1 dev texts also in the texts of stage 1\. Take them out"):
        corpus_of(data_of(*unlabelled, "data.contamination=error"))


def test_near_copies_of_dev_texts_of_stage_1_are_left_out_where_asked_for(unlabelled):
    checked = checked_corpus(data_of(*unlabelled, "data.near_copies=true"))
    assert checked.report["near_copies"] == {"text_dev": {"in_stage1": 1}}
    assert list(checked.corpus.text["train"]["text"]) == TRAIN


def test_stage_2_may_train_on_what_is_dev_of_stage_1_alone(own, tmp_path):
    (tmp_path / "dev.txt").write_text(f"{TRAIN[3]}\nanother\n")
    words = [*(word for word in own if not word.startswith("data.text=")), f"data.text_dev={tmp_path / 'dev.txt'}"]
    checked = checked_corpus(data_of(*words))
    assert checked.report["copies"]["text_dev"] == {"in_stage1": 1}
    assert list(checked.corpus.text["train"]["text"]) == [*TRAIN[:3], *TRAIN[4:]]
    assert list(checked.corpus.labelled["train"]["text"]) == [*TRAIN, TEST[4]]


def test_near_copies_are_dropped_told_and_refused_where_asked_for(own, tmp_path):
    nearly = "this fine song is one that I would gladly hear again and again"
    (tmp_path / "dev.csv").write_text("text,label\na dull book,dull\na fine book,fine\n")
    (tmp_path / "test.csv").write_text(f"text,label\n{nearly},fine\na short one,fine\na dull song,dull\n")
    with (tmp_path / "text.txt").open("a") as stream:
        stream.write(f"{nearly} today\nNow {nearly}\nA short one!\n")
    assert checked_corpus(data_of(*own)).report["dropped_from_stage1"] == 1
    checked = checked_corpus(data_of(*own, "data.near_copies=true"))
    near = {"dev": {"in_train": 0, "in_stage1": 0}, "test": {"in_train": 0, "in_stage1": 1}}
    assert checked.report["near_copies"] == near
    assert checked.report["dropped_from_stage1"] == 3
    assert nearly not in " ".join(checked.corpus.text["train"]["text"])
    assert next(warnings_of(checked.report, "mlm")) == (
        "1 test text also in the texts of stage 1, 1 test text nearly also in the texts of stage 1; "
        "3 texts left out there"
    )
    with pytest.raises(UserError, match="1 test text nearly also in the texts of stage 1"):
        corpus_of(data_of(*own, "data.near_copies=true", "data.contamination=error"))


def test_a_stage_1_of_which_nothing_is_left_is_told(own, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(TEST) + "\n")
    data = data_of(*own)
    assert len(corpus_of(data).labelled["test"]) == len(TEST)  # which serves an encoder that is not adapted
    with pytest.raises(UserError, match="every text of stage 1 is a dev or test text"):
        stage1_text(data)


@pytest.mark.slow
def test_a_run_trains_on_no_near_copies_where_it_looks_for_them(program, tmp_path, own):
    nearly = "this fine song is one that I would gladly hear again and again"
    (tmp_path / "dev.csv").write_text("text,label\na dull book,dull\na fine book,fine\n")
    (tmp_path / "test.csv").write_text(f"text,label\n{nearly},fine\na dull song,dull\n")
    with (tmp_path / "text.txt").open("a") as stream:
        stream.write(f"{nearly} today\nNow {nearly}\n")
    model = [setting for setting in SMALL_RUN if setting.startswith(("model", "trainer"))]
    words = [*own, *model, "data.max_length=32", "pretraining.epochs=1", "logger=csv"]
    read = []
    for near in ("false", "true"):
        assert program("stage=mlm", *words, f"data.near_copies={near}", f"runs_dir={tmp_path / near}") == 0
        (file,) = (tmp_path / near / "mlm").glob("*/record.json")
        record = json.loads(file.read_text())
        report = record["data_report"]
        read.append((report["dropped_from_stage1"], report.get("near_copies"), record["tokens"], record["key"]))
    dropped, near, tokens, keys = zip(*read, strict=True)
    assert dropped == (0, 2)
    assert near == (None, {"dev": {"in_train": 0, "in_stage1": 0}, "test": {"in_train": 0, "in_stage1": 1}})
    assert tokens[0] - tokens[1] >= 2 * len(nearly.split())
    assert keys[0] != keys[1]


@pytest.mark.slow
def test_both_stages_agree_on_the_texts_and_record_them(program, tmp_path, own, capsys):
    warn_once.cache_clear()
    model = [setting for setting in SMALL_RUN if setting.startswith(("model", "trainer"))]
    assert program("stage=mlm", *own, *model, "pretraining.epochs=1", "logger=csv") == 0
    assert "WARNING: data=files: 1 dev text and 2 test texts also in" in capsys.readouterr().out
    both = [*own, *model, "stage1.epochs=1", "protocol.epochs=1", "logger=csv", "seed=1,2", "-m"]
    assert program("stage=sentiment", "repr=mean", *both) == 0
    assert capsys.readouterr().out.count("1 test text also in data.train") == 1
    (first,) = (json.loads(file.read_text()) for file in (tmp_path / "runs/mlm").glob("*/record.json"))
    assert first["data_report"]["dropped_from_stage1"] == 3
    assert first["data_report"]["stage1"]["train"] == {
        **{"texts": 33, "empty": 0, "repeated": 0, "badly_decoded": 0},
    }
    assert set(first["data_report"]["truncated"]) == {"train", "dev"}
    for file in (tmp_path / "runs/sentiment").glob("*/record.json"):
        run = json.loads(file.read_text())
        assert run["data_report"]["copies"]["test"] == {"in_train": 1, "in_stage1": 2}
        assert run["data_report"]["truncated"] == {"train": 0.0, "dev": 0.0, "test": 0.0}
        assert (run["stage1_saw_test_text"], run["test_texts_in_stage1"]) == (False, 0)
    # The same encoder of a stage 1 that did read them: found by what it read.
    reading = [*own, *model, "data.contamination=warn", "pretraining.epochs=1", "logger=csv"]
    assert program("stage=mlm", *reading) == 0
    (export,) = (
        file.parent / "export"
        for file in (tmp_path / "runs/mlm").glob("*/record.json")
        if json.loads(file.read_text())["key"] != first["key"]
    )
    probe = [*own, *model, f"encoder={export}", "protocol=probe", "repr=mean", "logger=csv"]
    assert program("stage=sentiment", *probe) == 0
    (run,) = (
        json.loads(file.read_text())
        for file in (tmp_path / "runs/sentiment").glob("*/record.json")
        if "probe" in file.parent.name
    )
    assert run["test_texts_in_stage1"] == 2
