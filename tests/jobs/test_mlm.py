import numpy as np
import pytest

from helpers import SMALL_STAGE1, settings
from poolwise.data.tokens import TokenisedTexts
from poolwise.jobs import MLMJob


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
