import numpy as np
import pytest

from helpers import SMALL_STAGE1, settings
from poolwise.data.tokens import TokenisedTexts
from poolwise.encoder import export
from poolwise.jobs import MLMJob
from poolwise.jobs.mlm import demo_by_default


@pytest.mark.parametrize(
    ("written", "changes", "epochs"),
    [
        ("null", [], 1),
        ("6steps", [], 2),
        ("7steps", [], 3),
        ("7steps", ["+trainer.accumulate_grad_batches=2"], 4),
        ("7steps", ["+trainer.limit_train_batches=1"], 7),
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
