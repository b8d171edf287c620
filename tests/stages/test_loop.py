import json

import pytest
import torch

from helpers import SMALL_STAGE1, SMALL_STAGE2
from poolwise.stages.loop import in_words, mean_in_words, plain


def test_plain_metrics_are_json():
    assert json.dumps(plain({"dev/loss": torch.tensor(0.5)})) == '{"dev/loss": 0.5}'


def test_words_are_the_named_figures_that_there_are():
    metrics = {"dev/loss": 1.0, "test/accuracy": 0.5}
    assert in_words(metrics, ["test/accuracy", "test/loss", "dev/loss"]) == "test/accuracy 0.5000, dev/loss 1.0000"


def test_mean_and_spread_over_runs():
    runs = [{"test/accuracy": 0.5}, {"test/accuracy": 0.7}]
    assert mean_in_words(runs, ["test/accuracy"]) == "test/accuracy 0.6000 ± 0.1414 (2 runs)"
    assert mean_in_words(runs[:1], ["test/accuracy"]) == "test/accuracy 0.5000 (1 run)"


@pytest.mark.slow
def test_a_job_alone_equals_the_same_job_after_another(program, tmp_path):
    """Nothing leaks from one job of a process to the next."""
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv") == 0
    both = ["stage=sentiment", "repr=cls_linear", *SMALL_STAGE2, "logger=csv"]
    assert program(*both, "seed=1,2", "-m") == 0
    in_sweep = figures(tmp_path / "runs")
    (tmp_path / "runs/sentiment").rename(tmp_path / "first")
    assert program(*both, "seed=2") == 0
    assert figures(tmp_path / "runs") == {2: in_sweep[2]}


def figures(runs) -> dict[int, dict[str, float]]:
    records = [json.loads(file.read_text()) for file in (runs / "sentiment").glob("*/record.json")]
    return {record["seed"]: record["metrics"] for record in records}


@pytest.mark.slow
def test_workers_change_no_number(program, tmp_path):
    found = []
    for workers in (0, 2):
        runs = tmp_path / f"runs{workers}"
        assert program("stage=mlm", *SMALL_STAGE1, "logger=csv", f"workers={workers}", f"runs_dir={runs}") == 0
        (file,) = runs.glob("mlm/*/record.json")
        metrics = json.loads(file.read_text())["metrics"]
        found.append({name: value for name, value in metrics.items() if name != "train/tokens_per_second"})
    assert found[0] == found[1]
