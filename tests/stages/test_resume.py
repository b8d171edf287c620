"""A run that is stopped and goes on ends as one that was never stopped, bit for bit."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest

from helpers import REPOSITORY, SMALL_RUN, SMALL_STAGE2, kept_weights
from poolwise.durable import save_checked
from poolwise.stages.mlm import MaskedLanguageModelling
from poolwise.stages.pooler import PoolerTraining
from poolwise.stages.resume import CHECKPOINT, FORMAT, FORMER_CHECKPOINT, latest
from poolwise.stages.sentiment import Sentiment
from poolwise.stages.stage import Stage
from poolwise.stages.stopping import Stopped, StopSignals

OFTEN = ["checkpoint_minutes=0", "logger=csv", "trainer.log_every_n_steps=1"]
STAGE1 = ["stage=mlm", *SMALL_RUN, "pretraining.epochs=2", "pretraining.batch_size=32", *OFTEN]
STAGE2 = ["stage=sentiment", "encoder=base", "repr=mean", *SMALL_RUN, "protocol.batch_size=16", *OFTEN]
KINDS = (MaskedLanguageModelling, PoolerTraining, Sentiment)
WALL_CLOCK = ("train/tokens_per_second",)


@pytest.fixture
def stopped_at(monkeypatch):
    """Makes each further run fail as it is about to train on its n-th batch; never for None."""
    steps = {kind: kind.training_step for kind in KINDS}

    def choose(number: int | None) -> None:
        done = 0

        def counted(self, batch, batch_idx):
            nonlocal done
            done += 1
            if done == number:
                raise RuntimeError("the plug was pulled")
            return steps[type(self)](self, batch, batch_idx)

        for kind in KINDS:
            monkeypatch.setattr(kind, "training_step", counted)

    return choose


def folder_of(runs: Path) -> Path:
    (record,) = runs.glob("*/*/record.json")
    return record.parent


def outcome(folder: Path) -> dict:
    """All that a run leaves behind, less what wall clocks say."""

    def timeless(figures: dict) -> dict:
        return {name: value for name, value in figures.items() if name not in WALL_CLOCK}

    record = json.loads((folder / "record.json").read_text())
    found = {
        "status": record["status"],
        "figures": timeless(record["metrics"]),
        "counts": [record.get(name) for name in ("steps", "tokens", "epochs")],
        "lines": [timeless(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()],
        "provenance": record.get("provenance"),
    }
    if (folder / "export").exists():
        found["weights"] = (folder / "export/model.safetensors").read_bytes()
    else:
        found["weights"] = {name: tensor.numpy().tobytes() for name, tensor in kept_weights(folder).items()}
        predictions = pandas.read_parquet(folder / "predictions.parquet")
        found["predictions"] = {
            name: [np.asarray(value).tolist() for value in predictions[name]] for name in predictions
        }
        found["predictions"] = json.dumps(found["predictions"])
    return found


def last(folder: Path) -> tuple[Path | None, dict | None]:
    """The last checkpoint of the run that lies there."""
    return latest(folder, json.loads((folder / "record.json").read_text())["key"])


def resumed_at(folder: Path) -> list[int]:
    return json.loads((folder / "record.json").read_text())["resumed_at_steps"]


def assert_same(whole: Path, stopped: Path) -> None:
    expected, found = outcome(whole), outcome(stopped)
    for part in expected:
        assert found[part] == expected[part], part
    rows = [pandas.read_csv(folder / "csv/metrics.csv").drop(columns=[*WALL_CLOCK]) for folder in (whole, stopped)]
    pandas.testing.assert_frame_equal(*rows, check_like=True, rtol=1e-12)
    assert not [file.name for file in stopped.iterdir() if "resume" in file.name or "draft" in file.name]


SETTINGS = {
    "stage 1": (
        [*STAGE1, "objective.weight_schedule=decay", "pretraining.masking.final_mask_probability=0.3"],
        3,
        [2, 4],
    ),
    "accumulated and evaluated within epochs": (
        [*STAGE1, "pretraining.batch_size=8", "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=4"],
        *(5, [2, 4, 6, 8, 10]),
    ),
    "a budget of tokens": ([*STAGE1, "budget=20000tokens", "objective=views"], 3, [2, 4, 6]),
    "stage 2": (
        [*STAGE2, "protocol.epochs=5", "protocol.gradual_unfreezing=true", "protocol.early_stopping=2"],
        *(6, [5, 10]),
    ),
    "a frozen encoder": ([*STAGE2, "protocol=frozen", "protocol.epochs=2", "repr=layer_mix"], 3, [2, 4, 6]),
}
QUICK = ("stage 1", "stage 2")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in SETTINGS])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(program, tmp_path, stopped_at, name):
    settings, batches, steps = SETTINGS[name]
    stopped_at(None)
    assert program(*settings, f"runs_dir={tmp_path / 'whole'}") == 0
    for _ in steps:
        stopped_at(batches)
        assert program(*settings) == 1
    stopped_at(batches)
    assert program(*settings) == 0
    stopped = folder_of(tmp_path / "runs")
    assert resumed_at(stopped) == steps
    assert_same(folder_of(tmp_path / "whole"), stopped)


@pytest.mark.slow
def test_the_pooler_alone_goes_on(program, tmp_path, stopped_at):
    stopped_at(None)
    assert program(*STAGE1, f"runs_dir={tmp_path / 'before'}") == 0
    settings = [*STAGE1, f"model={folder_of(tmp_path / 'before')}/export", "trainable=pooler", "objective=decoder"]
    settings = [setting for setting in settings if not re.match(r"model\.", setting)]
    assert program(*settings, f"runs_dir={tmp_path / 'whole'}") == 0
    stopped_at(3)
    assert program(*settings) == 1
    stopped_at(None)
    assert program(*settings) == 0
    assert_same(folder_of(tmp_path / "whole"), folder_of(tmp_path / "runs"))


@pytest.mark.slow
def test_a_run_with_workers_goes_on(program, tmp_path, stopped_at):
    """Held away: workers that fetch the first batches of the epoch before they are told where to go on."""
    stopped_at(None)
    assert program(*STAGE1, f"runs_dir={tmp_path / 'whole'}") == 0
    stopped_at(6)
    assert program(*STAGE1, "workers=2") == 1
    stopped_at(None)
    assert program(*STAGE1, "workers=2") == 0
    assert resumed_at(folder_of(tmp_path / "runs")) == [5]
    assert_same(folder_of(tmp_path / "whole"), folder_of(tmp_path / "runs"))


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def bit_flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damaged", [truncated, bit_flipped])
def test_the_checkpoint_before_a_damaged_one_is_used(program, tmp_path, stopped_at, capfd, damaged):
    stopped_at(5)
    assert program(*STAGE1) == 1
    folder = folder_of(tmp_path / "runs")
    assert last(folder)[1]["global_step"] == 4
    damaged(folder / CHECKPOINT)
    stopped_at(1)
    assert program(*STAGE1) == 1
    assert f"{folder / CHECKPOINT} is damaged" in "".join(capfd.readouterr())
    assert resumed_at(folder) == [3]
    assert last(folder)[1]["global_step"] == 3


def test_two_damaged_checkpoints_are_none(tmp_path, caplog):
    for name in (CHECKPOINT, FORMER_CHECKPOINT):
        (tmp_path / name).write_bytes(b"no checkpoint")
    (tmp_path / f"{CHECKPOINT}.1.draft").write_bytes(b"of a killed process")
    assert latest(tmp_path, "key") == (None, None)
    assert caplog.text.count("is damaged") == 2
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_version_is_told_and_left_out(tmp_path, caplog):
    save_checked({"resume": {"key": "key", "format": FORMAT - 1}}, tmp_path / CHECKPOINT)
    assert latest(tmp_path, "key") == (None, None)
    assert "was written by another version of poolwise" in caplog.text


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_leaves_its_workers_to_it(program, tmp_path, stopped_at):
    """As SLURM and systemd send it; torch ends a run whose worker has died."""
    stopped_at(None)
    settings = [*STAGE1, "pretraining.epochs=8"]
    assert program(*settings, f"runs_dir={tmp_path / 'whole'}") == 0
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "trainer.precision=32-true"]
    command = [sys.executable, str(REPOSITORY / "train.py"), *settings, *places, "workers=2", "checkpoint_minutes=5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment, start_new_session=True) as process:
        while not any(file.stat().st_size for file in tmp_path.glob("runs/*/*/metrics.jsonl")):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 75
    stopped = folder_of(tmp_path / "runs")
    assert (stopped / CHECKPOINT).exists()
    assert program(*settings) == 0
    assert len(resumed_at(stopped)) == 1
    assert_same(folder_of(tmp_path / "whole"), stopped)


@pytest.mark.filterwarnings("ignore:Encountered `nan` values")
@pytest.mark.parametrize(
    ("rate", "told"),
    [
        ("1e30", r"dev/loss is (nan|inf) after step 1\. Training diverged"),
        ("1e38", r"weights are no finite numbers after step 1; the last finite loss was [\d.]+; learning rate"),
    ],
)
def test_a_last_step_that_is_far_too_large_stops_the_run(program, tmp_path, capfd, rate, told):
    one_step = ["protocol.batch_size=64", "protocol.epochs=1", "protocol.optimisation.warmup_share=0"]
    assert program(*STAGE2, *one_step, f"protocol.optimisation.learning_rate={rate}") == 2
    assert re.search(told, capfd.readouterr().err)
    assert json.loads((folder_of(tmp_path / "runs") / "record.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_the_old_checkpoint_stays(program, tmp_path, stopped_at, monkeypatch, capfd):
    stopped_at(3)
    assert program(*STAGE1) == 1
    folder = folder_of(tmp_path / "runs")
    stopped_at(None)
    capfd.readouterr()
    monkeypatch.setattr("poolwise.durable._Hashing.write", no_room)
    assert program(*STAGE1) == 2
    assert f"poolwise: demo-tiny-bow-seed1: the disk of {folder} is full" in capfd.readouterr().err
    monkeypatch.undo()
    assert last(folder)[1]["global_step"] == 2
    assert [file.name for file in folder.glob("*draft*")] == []


def no_room(self, part):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGTERM, 75, "SIGTERM"), (signal.SIGUSR1, 75, "SIGUSR1"), (signal.SIGUSR2, 75, "SIGUSR2")],
)
def test_a_signal_writes_a_checkpoint(program, tmp_path, monkeypatch, capfd, number, code, words):
    """Two minutes before its time is up a job of SLURM gets SIGUSR1 (`--signal=USR1@120`)."""
    step = MaskedLanguageModelling.training_step

    def signalled(self, batch, batch_idx):
        os.kill(os.getpid(), number)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(MaskedLanguageModelling, "training_step", signalled)
    seldom = [setting for setting in STAGE1 if not setting.startswith("checkpoint_minutes")]
    assert program(*seldom) == code
    assert f"stopped by {words}; the same command goes on where it was stopped" in capfd.readouterr().out
    folder = folder_of(tmp_path / "runs")
    assert last(folder)[1]["global_step"] == 1
    assert json.loads((folder / "record.json").read_text())["status"] == "interrupted"


def test_a_second_ctrl_c_does_not_wait(monkeypatch, capfd):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored

    def twice() -> None:
        with StopSignals() as signals:
            signals.waits = True
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped) as stop:
        twice()
    assert (stop.value.by, stop.value.code) == ("Ctrl-C", 130)
    assert capfd.readouterr().out == "stopping, as soon as a checkpoint is written; Ctrl-C again stops at once\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_worker_that_a_signal_ends_is_no_failure():
    signals = StopSignals()
    signals.waits = True

    def lose_worker() -> None:
        with signals:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    with pytest.raises(Stopped) as stop:
        lose_worker()
    assert stop.value.code == 75


@pytest.mark.slow
def test_a_run_that_was_stopped_while_test_is_read_goes_on(program, tmp_path, stopped_at, monkeypatch, capfd):
    stopped_at(None)
    settings = [*STAGE2, "protocol.epochs=2"]
    assert program(*settings, f"runs_dir={tmp_path / 'whole'}") == 0
    step = Sentiment.test_step

    def stopped(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Sentiment, "test_step", stopped)
    assert program(*settings) == 75
    monkeypatch.setattr(Sentiment, "test_step", step)
    assert program(*settings) == 0
    stopped = folder_of(tmp_path / "runs")
    assert resumed_at(stopped) == [7]
    assert_same(folder_of(tmp_path / "whole"), stopped)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "first", "last"),
    [
        ([*STAGE1, "pretraining.epochs=8"], 4, 20),
        ([*STAGE2, "protocol.epochs=4", "seed=1,2", "-m"], 18, 30),  # in the second run, which begins at the 17th line
    ],
)
def test_a_command_that_was_killed_goes_on(program, tmp_path, stopped_at, settings, first, last):
    """kill -9 at a moment that chance chooses, of a process of its own."""
    stopped_at(None)
    assert program(*settings, f"runs_dir={tmp_path / 'whole'}") == 0
    # The fixture `one_precision` does not reach another process.
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "trainer.precision=32-true"]
    command = [sys.executable, str(REPOSITORY / "train.py"), *settings, *places]
    lines = random.Random(8).randrange(first, last)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        while process.poll() is None:
            if sum(len(file.read_text().splitlines()) for file in tmp_path.glob("runs/*/*/metrics.jsonl")) >= lines:
                time.sleep(random.Random(lines).random() / 20)
                process.kill()
            time.sleep(0.002)
    assert process.returncode == -signal.SIGKILL
    (stopped,) = (file.parent for file in tmp_path.glob("runs/*/*/record.json") if is_running(file))
    assert program(*settings) == 0
    assert len(resumed_at(stopped)) == 1
    whole = sorted(file.parent for file in tmp_path.glob("whole/*/*/record.json"))
    assert len(whole) == (2 if "-m" in settings else 1)
    for folder in whole:
        assert_same(folder, tmp_path / "runs" / folder.relative_to(tmp_path / "whole"))


def is_running(record: Path) -> bool:
    """Whether a record says so, as that of a killed run does for ever."""
    return json.loads(record.read_text())["status"] == "running"


@pytest.mark.parametrize(
    "settings",
    [
        [*STAGE1, "pretraining.optimisation.gradient_clip_norm=1e-4", "trainer.log_every_n_steps=10"],
        [*STAGE2, "protocol.epochs=2", "protocol.optimisation.gradient_clip_norm=1e-4"],
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(program, tmp_path, monkeypatch, capfd, settings):
    part = Stage.as_part

    def spoiled(self, loss, *counted):
        return part(self, loss * (float("nan") if self.global_step == 3 else 1), *counted)

    monkeypatch.setattr(Stage, "as_part", spoiled)
    assert program(*settings) == 2
    message = capfd.readouterr().err
    told = re.search(
        r"the loss of step 4 is nan; the last finite one was [\d.]+; learning rate [\d.e-]+; gradient norm of "
        r"the step before it, before clipping, ([\d.]+)\. ",
        message,
    )
    assert float(told.group(1)) > 1e-3  # which was clipped to a tenth of that
    folder = folder_of(tmp_path / "runs")
    assert last(folder)[1]["global_step"] == 3
    assert all(tensor.isfinite().all() for tensor in last(folder)[1]["state_dict"].values())
    assert json.loads((folder / "record.json").read_text())["status"] == "failed"


def test_a_signal_that_python_swallows_says_nothing_and_stops_the_run_all_the_same(capfd):
    class DiesBadly:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)  # what is raised in here, Python prints and forgets

    before = sys.unraisablehook
    with pytest.raises(Stopped) as stop, StopSignals():
        DiesBadly()
    assert stop.value.code == 75
    assert capfd.readouterr().err == ""
    assert sys.unraisablehook == before


@pytest.mark.parametrize("content", [{"a": 1}, [1], {"resume": {"key": "of another run"}}, {"resume": None}, "text"])
def test_a_whole_file_that_is_no_checkpoint_of_this_run_is_passed_over(tmp_path, caplog, content):
    good = {"resume": {"key": "mine", "has_best": False, "format": FORMAT}, "global_step": 3}
    save_checked(good, tmp_path / FORMER_CHECKPOINT)
    save_checked(content, tmp_path / CHECKPOINT)
    assert latest(tmp_path, "mine")[1]["global_step"] == 3
    assert "is no checkpoint of this run" in caplog.text
    assert not (tmp_path / CHECKPOINT).exists()


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_a_planted_checkpoint_with_a_fitting_checksum_runs_no_code(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    save_checked(Planted(), tmp_path / CHECKPOINT)
    assert latest(tmp_path, "mine") == (None, None)
    assert "holds something else than tensors and plain data" in caplog.text
    assert not (tmp_path / "planted").exists()


def test_no_checkpoint_is_made_of_weights_that_are_no_numbers(program, tmp_path, capfd):
    """A step so large that the weights overflow, while the loss that led to it was a good number."""
    command = ["stage=sentiment", "encoder=base", *SMALL_STAGE2, "seed=1", "logger=csv", "checkpoint_minutes=0"]
    command += ["protocol.optimisation.learning_rate=1e38", "protocol.optimisation.warmup_share=0"]
    for _ in range(2):  # the same command again finds what the first one kept
        assert program(*command) != 0
        (folder,) = (tmp_path / "runs/sentiment").iterdir()
        weights = last(folder)[1]["state_dict"].values()
        assert all(tensor.isfinite().all() for tensor in weights)
        assert "Training diverged" in capfd.readouterr().err
