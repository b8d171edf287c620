from pathlib import Path

import numpy as np
import pytest

from helpers import SMALL_RUN, SMALL_STAGE1, settings
from poolwise.data.tokens import TokenisedTexts
from poolwise.encoder import export
from poolwise.jobs import MLMJob
from poolwise.jobs.mlm import demo_by_default
from poolwise.runs import read_record
from poolwise.stages.mlm import MaskedLanguageModelling


@pytest.mark.parametrize(
    ("written", "changes", "epochs"),
    [
        ("null", [], 1),
        ("6steps", [], 2),
        ("7steps", [], 3),
        ("7steps", ["+trainer.accumulate_grad_batches=2"], 4),
        ("7steps", ["+trainer.limit_train_batches=1"], 7),
        ("7steps", ["+trainer.limit_train_batches=null"], 3),
        ("1200tokens", [], 2),
        ("1201tokens", [], 3),
        ("1201tokens", ["objective=views"], 2),
        ("5s", [], 1),
    ],
)
def test_the_epochs_over_which_masking_changes(written, changes, epochs):
    """96 texts in 3 batches, 600 tokens in all."""
    job = MLMJob(settings("stage=mlm", *SMALL_STAGE1, f"pretraining.budget={written}", *changes))
    texts = TokenisedTexts(np.zeros(600, np.int32), np.r_[np.arange(96) * 6, 600], np.empty(0, np.int64), 0)
    assert job.planned_epochs(texts, 2 if "objective=views" in changes else 1) == epochs


def test_each_window_is_a_row_of_stage_1(tmp_path):
    given = ["data.long_texts=windows", "data.max_length=10", "objective=rating", f"cache_dir={tmp_path}"]
    job = MLMJob(settings("stage=mlm", *SMALL_STAGE1, *given))
    _, data = job.build()
    train = data.texts["train"]
    assert train.lengths.max() == 10
    assert len(train) == len(train.ratings) > 96


@pytest.mark.parametrize(
    ("noted", "named", "warns"),
    [({}, [], True), ({"data": "files"}, [], True), ({"data": "demo"}, [], False), ({}, ["data.text=96"], False)],
)
def test_a_checkpoint_of_other_origin_is_not_trained_on_the_demo_without_a_word(
    model, tokenizer, tmp_path, noted, named, warns
):
    export(model, tokenizer, {"pooler_status": "trained", "parts": {}, **noted}, "# card", tmp_path)
    given = settings("stage=mlm", "model=pretrained", f"model.path={tmp_path}", *named)
    warning = "generated reviews, as no data is named; name your own: data=files data.text=my_texts.txt"
    assert demo_by_default(given) == ([warning] if warns else [])


def streamed(folder: Path) -> list[str]:
    """Settings of a run on files: 150 texts in a stream of three blocks, two of which are test texts."""
    words = "a good film ; the bad one is dull and slow".split()
    lines = [" ".join(words[(n * k) % len(words)] for k in range(1, 4 + n % 7)) + f" {n}" for n in range(150)]
    (folder / "text.txt").write_text("\n".join(lines))
    for split, first in (("train", 200), ("dev", 300), ("test", 400)):
        rows = [f"{words[n % len(words)]} film {n}\t{n % 2}" for n in range(first, first + 20)]
        rows += [f"{lines[60].upper()}!\t0", f"{lines[149]}\t1"] if split == "test" else []
        (folder / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *"0123456789", *(f"##{n}" for n in range(10))]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    data = [f"data.{split}={folder / split}.tsv" for split in ("train", "dev", "test")]
    model = [setting for setting in SMALL_RUN if not setting.startswith(("data.", "model.vocabulary_size"))]
    return [
        *("data=files", f"data.text={folder / 'text.txt'}", *data, "data.streaming=true", "data.shuffle_buffer=50"),
        *("data.max_length=16", *model, f"model.vocabulary={folder / 'vocab.txt'}", "logger=csv"),
    ]


@pytest.mark.slow
def test_a_stream_is_trained_on_until_the_budget_is_spent_and_stage_2_reads_the_export(program, tmp_path, capsys):
    settings = streamed(tmp_path)
    stage1 = ["pretraining.batch_size=16", "objective=combined", "workers=2"]
    assert program("stage=mlm", *settings, *stage1, "budget=22steps") == 0
    (run,) = (tmp_path / "runs/mlm").iterdir()
    assert run.name.startswith("files-tiny_vocab-bow_halves-22steps-seed1-")
    record = read_record(run)
    assert record["steps"] == 22  # two passes of four, four and four batches less what is left out
    assert record["data_report"]["stream"]["texts_read"] in (300, 350)
    assert record["data_report"]["dropped_from_stage1"] == record["data_report"]["stream"]["copies"] >= 2
    assert record["data_report"]["first_texts_of_stream"] == 50
    assert record["material"]["text"]["train"]["buffer"] == 50
    assert len(list((tmp_path / "cache/tokens").glob("*.arrow"))) == 1  # dev
    printed = capsys.readouterr()
    assert "are copies of dev or test texts; left out" in printed.out + printed.err
    again = ["stage1.batch_size=16", "objective@stage1.objective=combined", "stage1.budget=22steps"]
    assert program("stage=sentiment", *settings, *again, "repr=pooler", "protocol.epochs=1", "seed=1") == 0
    (run,) = (tmp_path / "runs/sentiment").iterdir()
    assert read_record(run)["encoder"] == "stage1"


@pytest.mark.slow
def test_a_stream_that_was_stopped_goes_on(program, tmp_path, monkeypatch):
    settings = [*streamed(tmp_path), "pretraining.batch_size=16", "budget=30steps", "checkpoint_minutes=0"]
    assert program("stage=mlm", *settings, f"runs_dir={tmp_path / 'whole'}") == 0
    step = MaskedLanguageModelling.training_step
    for stops_at in (3, 7, 9):  # of the batches since the last stop: within the first pass, and the second
        batches = iter(range(1, 100))

        def stopping(self, batch, batch_idx, batches=batches, stops_at=stops_at):
            if next(batches) == stops_at:
                raise RuntimeError("the plug was pulled")
            return step(self, batch, batch_idx)

        monkeypatch.setattr(MaskedLanguageModelling, "training_step", stopping)
        assert program("stage=mlm", *settings) == 1
    monkeypatch.setattr(MaskedLanguageModelling, "training_step", step)
    assert program("stage=mlm", *settings) == 0
    (whole,), (stopped,) = ((tmp_path / runs / "mlm").iterdir() for runs in ("whole", "runs"))
    weights = [(folder / "export/model.safetensors").read_bytes() for folder in (whole, stopped)]
    assert weights[0] == weights[1]
    records = [read_record(folder) for folder in (whole, stopped)]
    assert records[1]["resumed_at_steps"] == [2, 8, 16]
    for name in ("steps", "tokens", "data_report"):
        assert records[0][name] == records[1][name]
