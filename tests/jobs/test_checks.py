import pytest

from helpers import SMALL_STAGE1, SMALL_STAGE2, settings
from poolwise.jobs import check_inputs
from poolwise.settings import UserError


@pytest.mark.parametrize("stage", ["mlm", "sentiment"])
def test_arguments_of_the_trainer_are_tried_before_work_starts(stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = ["runs_dir=runs", "cache_dir=cache", f"stage={stage}", *(SMALL_STAGE1 if stage == "mlm" else SMALL_STAGE2)]
    found = settings(*places, "+trainer.limit_val_batches=0", "+trainer.val_check_interval=x")
    message = {"mlm": "trainer.val_check_interval=x: Lightning does not", "sentiment": "limit_val_batches=0: without"}
    with pytest.raises(UserError, match=message[stage]):
        check_inputs(found)
    check_inputs(settings(*places, "+trainer.limit_train_batches=0.5", "+trainer.max_steps=3"))
    assert list(tmp_path.iterdir()) == []
