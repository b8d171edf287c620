"""The jobs of a process leave nothing to each other: numbers, memory, settings."""

import gc
import json
import logging
import os
import random
import warnings
import weakref
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf
from safetensors.torch import load_file

from helpers import SMALL_STAGE1, SMALL_STAGE2, kept_weights
from poolwise.app import SweepCheck
from poolwise.jobs import MLMJob, SentimentJob
from poolwise.machine import is_out_of_memory
from poolwise.process import global_settings_restored
from poolwise.stages.mlm import MaskedLanguageModelling
from poolwise.stages.sentiment import Sentiment

STAGES = {
    "mlm": (MLMJob, ["stage=mlm", *SMALL_STAGE1, "logger=csv"]),
    "sentiment": (SentimentJob, ["stage=sentiment", "encoder=base", *SMALL_STAGE2, "logger=csv"]),
}


@pytest.fixture(autouse=True)
def hydra_is_left_clean():
    yield
    GlobalHydra.instance().clear()


def made_by_seed_3(runs: Path) -> tuple[dict[str, torch.Tensor], dict[str, float], pandas.DataFrame | None]:
    """Weights, metrics less speed, and predictions."""
    (folder,) = [file.parent for file in runs.glob("*/record.json") if json.loads(file.read_text())["seed"] == 3]
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "finished"
    metrics = {name: value for name, value in record["metrics"].items() if "per_second" not in name}
    if (folder / "export").is_dir():
        return load_file(folder / "export/model.safetensors"), metrics, None
    return kept_weights(folder), metrics, pandas.read_parquet(folder / "predictions.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_job_after_two_others_is_the_job_alone(program, tmp_path, monkeypatch, stage):
    """The first of them turns switches of torch, the second fails; neither's module outlives it."""
    kind, command = STAGES[stage]
    modules: list[weakref.ref] = []
    build = kind.build

    def watched(self):
        assert [module for module in modules if module() is not None] == []
        built = build(self)
        modules.append(weakref.ref(built[0]))
        return built

    def spoiling(self):
        seed = int(os.environ["PL_GLOBAL_SEED"])
        if seed == 1:
            torch.use_deterministic_algorithms(True)
            torch.set_default_dtype(torch.float64)
            os.environ["LEFT_BEHIND"] = "1"
        if seed == 2:
            raise RuntimeError("out of luck")

    monkeypatch.setattr(kind, "build", watched)
    monkeypatch.setattr(Sentiment if stage == "sentiment" else MaskedLanguageModelling, "on_fit_end", spoiling, False)
    assert program(*command, "seed=1,2,3", "-m") == 1
    gc.collect()
    assert [module() for module in modules] == [None] * 3
    assert "LEFT_BEHIND" not in os.environ
    assert program(*command, "seed=3", f"runs_dir={tmp_path / 'alone'}") == 0
    after_others, alone = made_by_seed_3(tmp_path / "runs" / stage), made_by_seed_3(tmp_path / "alone" / stage)
    assert after_others[0].keys() == alone[0].keys()
    assert all(torch.equal(weight, alone[0][name]) for name, weight in after_others[0].items())
    assert after_others[1] == alone[1]
    assert after_others[2] is alone[2] or str(after_others[2].to_dict("list")) == str(alone[2].to_dict("list"))


def test_settings_of_the_process_are_restored():
    torch.use_deterministic_algorithms(False)  # what an earlier test may have left
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    logger = logging.getLogger("poolwise.some_library")

    def all_of_them():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
            torch.is_anomaly_enabled(),
            logger.level,
            dict(os.environ),
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
        )

    before = all_of_them()

    @global_settings_restored()
    def change_and_fail():
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = True
        torch.set_num_threads(before[2] + 1)
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        torch.set_grad_enabled(False)
        with warnings.catch_warnings(action="ignore"):
            torch.autograd.set_detect_anomaly(True)
        logger.setLevel(logging.ERROR)
        os.environ["LEFT_BEHIND"] = "1"
        del os.environ["HOME"]
        torch.rand(3), random.random(), np.random.rand()
        assert all(was != now for was, now in zip(before, all_of_them(), strict=True))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    assert all_of_them() == before


@pytest.mark.parametrize(
    "ask",
    [lambda: torch.empty(2**52), lambda: np.empty(2**52), lambda: bytearray(2**60)],
    ids=["torch", "numpy", "python"],
)
def test_what_is_out_of_memory(ask):
    with pytest.raises((RuntimeError, MemoryError)) as error:
        ask()
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"))
    assert not is_out_of_memory(RuntimeError("out of luck"))


@pytest.mark.parametrize("stage", STAGES)
def test_out_of_memory_says_the_batch_and_what_to_lower(program, tmp_path, capsys, monkeypatch, stage):
    kind = Sentiment if stage == "sentiment" else MaskedLanguageModelling
    monkeypatch.setattr(kind, "training_step", lambda self, batch, batch_idx: torch.empty(2**52))
    assert program(*STAGES[stage][1]) == 2
    printed = capsys.readouterr().err
    group, texts = ("pretraining", 32) if stage == "mlm" else ("protocol", 16)
    assert printed.startswith("poolwise: out of memory at a batch of ")
    assert f" tokens; lower {group}.batch_size={texts} or data.max_length=48; +trainer.accumulate_grad" in printed
    assert "tried to allocate 18014398509481984 bytes" in printed
    assert printed.count("\n") == 1
    (file,) = tmp_path.glob(f"runs/{stage}/*/record.json")
    record = json.loads(file.read_text())
    assert record["status"] == "failed"
    assert record["error"].startswith(f"OutOfMemoryError: out of memory at a batch of {texts} texts by ")


def test_hydra_keeps_no_config_of_a_job_that_is_done():
    done = JobReturn(cfg={"a": 1}, hydra_cfg={"b": 2}, _return_value=3)
    SweepCheck().on_job_end(OmegaConf.create({}), done)
    assert (done.cfg, done.hydra_cfg, done._return_value) == (None, None, 3)
