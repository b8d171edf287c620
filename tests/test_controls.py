"""Each control through the program: what it promises of weights, time and names."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers import SMALL_STAGE1, SMALL_STAGE2
from poolwise.runs import read_record, write_record

MLM = ["stage=mlm", *SMALL_STAGE1, "pretraining.batch_size=16", "logger=csv"]
OTHER_MODEL = [setting for setting in MLM if not setting.startswith("model.")]
POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Where the run of `base` is kept for the next test."""
    return tmp_path_factory.mktemp("kept") / "base"


@pytest.fixture
def base(program, tmp_path, kept) -> Path:
    """The run whose export is the checkpoint that controls start from: its pooler is trained."""
    if kept.exists():
        shutil.copytree(kept, tmp_path / "base")
    else:
        assert program(*MLM, f"runs_dir={tmp_path / 'base'}") == 0
        shutil.copytree(tmp_path / "base", kept)
    (folder,) = (tmp_path / "base/mlm").iterdir()
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "export/model.safetensors")


def differing(first: Path, second: Path) -> set[str]:
    """The tensors in which two exports differ."""
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def runs_of(tmp_path: Path, name: str) -> list[Path]:
    return sorted((tmp_path / "runs/mlm").glob(f"{name}-*"))


def follow(program, printed: str) -> int:
    """Run the command that stage 1 printed, for one representation and small."""
    command = shlex.split(re.findall(r"next +python train\.py (.*)", printed)[-1])
    small = [setting for setting in SMALL_STAGE2 if setting.startswith(("data.", "protocol."))]
    kept = [word for word in command if not word.startswith("repr=")]
    return program(*kept, *small, "repr=pooler", "seed=1", "logger=csv")


def test_equal_steps_is_mlm_alone(program, tmp_path, capsys):
    assert program(*MLM, "control=equal_steps", "budget=4steps") == 0
    printed = capsys.readouterr().out
    (run,) = runs_of(tmp_path, "demo-tiny-none-4steps-seed1")
    record = read_record(run)
    assert (record["objective"], record["steps"]) == ("none-4steps", 4)
    assert record["provenance"]["loss_shares"] == {"mlm": 1.0}
    assert record["config"]["control"] == {"name": "equal_steps"}
    assert follow(program, printed) == 0
    assert program(*MLM, "objective=none", "budget=4steps") == 0
    assert "demo-tiny-none-4steps-seed1 is finished" in capsys.readouterr().out


@pytest.mark.slow
def test_equal_time_trains_as_long_as_the_other_run(program, tmp_path, capsys, base):
    record = read_record(base)
    seconds = 0.4
    record["material"]["platform"]["max_steps"] = 5  # another length does not matter
    write_record(base, record | {"training_seconds": seconds})
    assert program(*MLM, "control=equal_time", f"control.run={base}") == 0
    printed = capsys.readouterr().out
    (run,) = runs_of(tmp_path, "demo-tiny-none-0.4s-seed1")
    control = read_record(run)
    assert seconds <= control["training_seconds"] < seconds + 1
    assert control["material"]["pretraining"]["budget"] == {"amount": seconds, "unit": "seconds"}
    assert control["provenance"]["loss_shares"] == {"mlm": 1.0}
    assert " stage1.budget=0.4s " in printed
    assert follow(program, printed) == 0
    (found,) = (tmp_path / "runs/sentiment").glob("*/record.json")
    assert json.loads(found.read_text())["objective"] == "none-0.4s"


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, ["data.text=90"], "was run with other data, tokenizer; allowed: a run with the same"),
        ({}, ["model.layers=1"], "was run with other model; allowed"),
        ({}, ["data.max_length=40", "trainer.precision=64-true"], "other data.max_length, trainer settings; allowed"),
        ({}, ["pretraining.batch_size=8"], "other pretraining.batch_size (16 there, 8 here); allowed"),
        ({"status": "failed"}, [], "this run is failed; allowed: a finished one"),
        ({"stage": "sentiment"}, [], "holds no record of a stage-1 run"),
        ({"training_seconds": 0.0}, [], "its record has no training_seconds; allowed: a run that trained"),
    ],
)
def test_runs_that_no_equal_time_can_be_had_of(program, base, capsys, change, settings, message):
    write_record(base, read_record(base) | change)
    assert program(*MLM, "control=equal_time", f"control.run={base}", *settings) == 2
    assert f"control.run={base}: " in (said := capsys.readouterr().err)
    assert message in said


@pytest.mark.slow
def test_own_pooler_stays_while_mlm_moves_the_encoder(program, tmp_path, capsys, base):
    assert program(*OTHER_MODEL, "control=own_pooler", f"model={base / 'export'}") == 0
    printed = capsys.readouterr().out
    (run,) = runs_of(tmp_path, "demo-export-none-seed1")
    moved = differing(base, run)
    assert not moved & POOLER
    assert "bert.encoder.layer.0.output.dense.weight" in moved
    assert read_record(run)["provenance"]["pooler_status"] == "stale"
    assert follow(program, printed) == 0


@pytest.mark.slow
def test_own_pooler_with_nothing_trained_is_the_checkpoint(program, tmp_path, capsys, base):
    assert program(*OTHER_MODEL, "control=own_pooler", "trainable=pooler", f"model={base / 'export'}") == 0
    printed = capsys.readouterr().out
    assert "for    no step, only what is measured; " in printed
    (run,) = runs_of(tmp_path, "demo-export-untrained-seed1")
    assert differing(base, run) == set()
    record = read_record(run)
    assert record["provenance"]["pooler_status"] == "trained"  # as it was before
    assert (record["steps"], record["tokens"], record["training_seconds"]) == (0, 0, 0.0)
    assert record["metrics"]["dev/perplexity"] == pytest.approx(read_record(base)["metrics"]["dev/perplexity"])
    card = (run / "export/README.md").read_text()
    assert "after no training on `demo`" in card
    assert "No loss was trained." in card
    assert follow(program, printed) == 0


def test_a_checkpoint_without_a_pooler_of_its_own(program, base, tmp_path, capsys):
    from safetensors.torch import save_file

    bare = tmp_path / "bare"
    shutil.copytree(base / "export", bare)
    (bare / "SHA256SUMS").unlink()  # changed on purpose
    kept = {name: tensor for name, tensor in weights(base).items() if name not in POOLER}
    save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    assert program(*OTHER_MODEL, "control=own_pooler", f"model={bare}") == 2
    assert f"{bare} has no pooler of its own: it has no pooler; allowed: a checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_fresh_poolers_differ_in_the_pooler_only(program, tmp_path, capsys, base):
    assert program(*OTHER_MODEL, "control=fresh_poolers", f"model={base / 'export'}", "seed=1,2,3", "-m") == 0
    printed = capsys.readouterr().out
    runs = runs_of(tmp_path, "demo-export-untrained-fresh_pooler")
    assert [read_record(run)["seed"] for run in runs] == [1, 2, 3]
    for run in runs:
        assert differing(base, run) == POOLER
        record = read_record(run)
        assert (record["objective"], record["steps"]) == ("untrained-fresh_pooler", 0)
        assert record["provenance"]["pooler_status"] == "random"
        assert record["provenance"]["parts"]["pooler"]["origin"] == f"fresh: asked for (seed {record['seed']})"
        assert (weights(run)["bert.pooler.dense.bias"] == 0).all()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert differing(runs[one], runs[other]) == {"bert.pooler.dense.weight"}
    assert len({read_record(run)["condition"] for run in runs}) == 1
    assert follow(program, printed) == 0
    found = [json.loads(file.read_text()) for file in (tmp_path / "runs/sentiment").glob("*/record.json")]
    assert sorted(run["stage1_seed"] for run in found) == [1, 2, 3]
    assert {(run["objective"], run["pooler_status"]) for run in found} == {("untrained-fresh_pooler", "random")}


def test_several_controls_in_a_sweep_are_named_by_their_folders(program, tmp_path, capsys, base):
    sweep = ["control=own_pooler,fresh_poolers", "trainable=pooler", f"model={base / 'export'}", "-m"]
    assert program(*OTHER_MODEL, *sweep) == 0
    printed = capsys.readouterr().out
    exports = [
        str(run / "export")
        for name in ("untrained-seed", "untrained-fresh")
        for run in runs_of(tmp_path, f"demo-export-{name}*")
    ]
    assert f" encoder={','.join(exports)} " in printed
