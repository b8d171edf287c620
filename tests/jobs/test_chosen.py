"""What is known of the texts that an encoder's stage 1 read."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from helpers import TEXTS
from poolwise.data.corpus import content_hash
from poolwise.jobs.chosen import texts_in_stage1, tokenizer_of

TRAIN = Dataset.from_dict({"text": TEXTS[:4]})
TESTED = Dataset.from_dict({"text": [*TEXTS[3:], TEXTS[3]], "label": [0, 1, 0, 1]})
APART = Dataset.from_dict({"text": TEXTS[4:]})


def read_by(path: Path | None, tested: Dataset = TESTED, encoder: str = "stage1") -> int | None:
    return texts_in_stage1(encoder, None if path is None else str(path), [APART, TRAIN], tested)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return written(tmp_path / "run")


def written(run: Path, **changes: Any) -> Path:
    """The export of a stage-1 run, in a few files."""
    (run / "export").mkdir(parents=True)
    (run / "export/provenance.json").write_text(json.dumps({"pooler_status": "trained", "key": "k"}))
    record = {
        "key": "k",
        "status": "finished",
        "steps": 3,
        "material": {"text": {"train": content_hash(TRAIN)}},
        "config": {"model": {}},
    }
    (run / "record.json").write_text(json.dumps(record | changes))
    return run / "export"


def test_texts_that_stage_1_read_are_counted_whatever_their_labels(export):
    assert read_by(export) == 2
    assert read_by(export, APART) == 0


def test_an_encoder_without_stage_1_has_read_none(tmp_path):
    assert read_by(None, encoder="base") == read_by(tmp_path, encoder="base") == 0
    assert read_by(written(tmp_path / "run", steps=0)) == 0


def test_what_is_not_known_is_not_guessed(tmp_path, export):
    assert read_by(tmp_path, encoder=str(tmp_path)) is None  # of other origin
    assert read_by(written(tmp_path / "other_key", key="of another run")) is None
    assert read_by(written(tmp_path / "other_text", material={"text": {"train": "of other text"}})) is None
    second = written(tmp_path / "second", config={"model": {"path": str(export)}})
    assert read_by(second, APART) is None  # the stage 1 before it may have read them
    assert read_by(second) == 2
    (export.parent / "record.json").unlink()
    assert read_by(export) is None


def test_jobs_share_the_tokenizer_of_a_folder_until_it_changes(tmp_path, tokenizer, config):
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    first = tokenizer_of(tmp_path)
    assert tokenizer_of(tmp_path) is first
    tokenizer.add_tokens(["overlong"])
    tokenizer.save_pretrained(tmp_path)
    config.vocab_size = len(tokenizer)
    config.save_pretrained(tmp_path)
    assert len(tokenizer_of(tmp_path)) == len(first) + 1
