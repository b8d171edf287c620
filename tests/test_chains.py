"""What one stage-1 run passes on to those that start from its export, and to stage 2."""

import shutil
from pathlib import Path

import pytest

from helpers import SMALL_STAGE1, SMALL_STAGE2
from poolwise.runs import read_record

MLM = ["stage=mlm", *SMALL_STAGE1, "logger=csv"]
SENTIMENT = ["stage=sentiment", *SMALL_STAGE2, "logger=csv", "repr=pooler", "seed=1"]


def without_model(settings: list[str]) -> list[str]:
    return [setting for setting in settings if not setting.startswith("model.")]


def only(folder: Path) -> Path:
    (run,) = folder.iterdir()
    return run


@pytest.mark.slow
def test_labels_that_were_read_once_mark_all_that_comes_after(program, tmp_path):
    assert program(*MLM, "objective=rating", f"runs_dir={tmp_path / 'rated'}") == 0
    start = tmp_path / "start"
    shutil.copytree(only(tmp_path / "rated/mlm") / "export", start)
    assert program(*without_model(MLM), "objective=bow", f"model={start}") == 0
    again = read_record(only(tmp_path / "runs/mlm"))
    assert again["model"] == "start (reads labels)"
    assert again["provenance"]["objectives"]["bow"]["reads_labels"] is False
    assert again["provenance"]["start_reads_labels"] is True
    for number, encoder in enumerate(("base", str(only(tmp_path / "runs/mlm") / "export"))):
        runs = tmp_path / f"stage2_{number}"
        settings = [*without_model(SENTIMENT), f"model={start}", f"encoder={encoder}", f"runs_dir={runs}"]
        assert program(*settings) == 0
        record = read_record(only(runs / "sentiment"))
        assert record["model"] == "start (reads labels)"
        assert record["encoder"] == ("base" if number == 0 else f"{encoder} (reads labels)")


def test_stage_2_says_that_it_reads_a_pooler_which_nothing_trained(program, tmp_path, capsys):
    assert program(*MLM, "objective=none") == 0
    capsys.readouterr()
    assert program(*SENTIMENT, "objective@stage1.objective=none") == 0
    export = only(tmp_path / "runs/mlm") / "export"
    data = " ".join(setting for setting in SMALL_STAGE2 if setting.startswith("data."))
    advice = f"train it: python train.py stage=mlm model={export} trainable=pooler"
    places = f"runs_dir={tmp_path / 'runs'} cache_dir={tmp_path / 'cache'} {data} trainer.accelerator=cpu"
    assert f"WARNING: repr=pooler reads a pooler that is random; {advice} {places}" in capsys.readouterr().out
    assert program(*SENTIMENT, "objective@stage1.objective=none", "repr=cls") == 0
    assert "WARNING" not in capsys.readouterr().out
