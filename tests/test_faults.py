"""A short version of `make faults`, which also kills, fills disks and turns clocks: see experiments/faults.

Kills and damaged checkpoints are in `stages/test_resume.py`, W&B's failures in `test_wandb.py`.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from helpers import REPOSITORY, SMALL_STAGE1, SMALL_STAGE2, kept_weights
from poolwise import app, durable
from poolwise.checkpoints import SUMS_FILE, check_checkpoint
from poolwise.compare.records import read_runs
from poolwise.encoder import export
from poolwise.jobs import SentimentJob
from poolwise.runs import EXPORT_FOLDER, claimed, read_record
from poolwise.settings import UserError

STAGE_1 = ["stage=mlm", *SMALL_STAGE1, "logger=csv"]
STAGE_2 = ["stage=sentiment", "encoder=base", "repr=mean", *SMALL_STAGE2, "logger=csv", "seed=1"]


def bit_flipped(file: Path, share: float = 0.4) -> None:
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 1
    file.write_bytes(content)


def left(folder: Path) -> tuple:
    """Weights, predictions and figures of a run."""
    record = read_record(folder)
    figures = {name: value for name, value in record["metrics"].items() if "per_second" not in name}
    weights = {name: tensor.numpy().tobytes() for name, tensor in kept_weights(folder).items()}
    return record["status"], figures, record["predictions_sha256"], weights


def test_damage_is_found_and_made_good(program, tmp_path, capfd):
    """Of a finished run: its record and its predictions, and the tokens that it read."""
    assert program(*STAGE_2) == 0
    (folder,) = (tmp_path / "runs/sentiment").iterdir()
    whole = left(folder)
    started = (folder / "record.json").stat().st_mtime_ns
    assert program(*STAGE_2) == 0
    assert (folder / "record.json").stat().st_mtime_ns == started
    bit_flipped(folder / "predictions.parquet")
    assert len(read_runs(tmp_path / "runs", "sentiment")) == 0
    tokens = sorted((tmp_path / "cache/tokens").iterdir())
    bit_flipped(tokens[0])
    assert program(*STAGE_2) == 0
    assert left(folder) == whole
    record = (folder / "record.json").read_text()
    for changed in (record.replace('"seed": 1', '"seed": 3'), record[:-300]):
        (folder / "record.json").write_text(changed)
        assert read_record(folder) is None
    printed = "".join(capfd.readouterr())
    for told in ("predictions.parquet is damaged", f"{tokens[0]}: not what was written", "fit its checksum"):
        assert told in printed


def test_a_damaged_export_is_refused(model, tokenizer, tmp_path):
    provenance = {"pooler_status": "trained", "parts": {}}
    export(model, tokenizer, provenance, "# card", tmp_path / "export")
    sums = (tmp_path / "export" / SUMS_FILE).read_text().splitlines()
    names = {line.split("  ")[1] for line in sums}
    assert names == {file.name for file in (tmp_path / "export").iterdir()} - {SUMS_FILE}
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", SUMS_FILE], cwd=tmp_path / "export", check=True)
    check_checkpoint(str(tmp_path / "export"), refuse_unexpected=True)
    for name in names:
        file = tmp_path / "export" / name
        before = file.read_bytes()
        bit_flipped(file, 0.9)
        with pytest.raises(UserError, match=f"{name} is not what was written there"):
            check_checkpoint(str(tmp_path / "export"), refuse_unexpected=True)
        file.write_bytes(before)
    (tmp_path / "export" / SUMS_FILE).write_text(f"{64 * 'a'}  ../export/README.md\n")
    with pytest.raises(UserError, match="is not what was written there"):
        check_checkpoint(str(tmp_path / "export"), refuse_unexpected=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_run_goes_on(program, tmp_path, monkeypatch, capfd):
    flush = durable.flush

    def no_room(path: Path) -> None:
        if path.name.startswith("predictions.parquet"):
            raise OSError(28, "No space left on device")
        flush(path)

    monkeypatch.setattr(durable, "flush", no_room)
    assert program(*STAGE_2) == 2
    (folder,) = (tmp_path / "runs/sentiment").iterdir()
    assert f"the disk of {folder} is full; make room" in capfd.readouterr().err
    assert not list(folder.glob("*.draft"))
    monkeypatch.setattr(durable, "flush", flush)
    assert program(*STAGE_2) == 0
    assert read_record(folder)["status"] == "finished"


def wrapped(monkeypatch, where, wrapper) -> None:
    """Put something around what a command does at that time."""
    if where == "while data are read":
        monkeypatch.setattr(SentimentJob, "build", wrapper(SentimentJob.build))
    else:
        monkeypatch.setattr(app, "planned", wrapper(app.planned))


@pytest.mark.parametrize(
    ("where", "number", "by"),
    [("while jobs are planned", signal.SIGUSR1, "SIGUSR1"), ("while data are read", signal.SIGTERM, "SIGTERM")],
)
def test_a_signal_outside_of_training_ends_a_sweep_with_its_summary(program, monkeypatch, capfd, where, number, by):
    def signalled(function):
        def instead(*given):
            os.kill(os.getpid(), number)
            return function(*given)

        return instead

    wrapped(monkeypatch, where, signalled)
    assert program(*STAGE_2[:-1], "seed=1,2", "-m") == 75
    printed = capfd.readouterr().out
    assert printed.count(f"stopped by {by}; the same command") == 1
    assert ("sweep: 0 of 2 jobs finished" in printed) == (where == "while data are read")
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.parametrize("where", ["while jobs are planned", "while data are read"])
@pytest.mark.parametrize("made_of_it", [None, AttributeError("_invalidate_flags_cache")])
def test_a_signal_that_a_library_swallows_is_not_lost(program, monkeypatch, capfd, where, made_of_it):
    """What is raised while the collector calls back, for one, is forgotten; OmegaConf makes errors of it."""

    def swallowing(function):
        def instead(*given):
            with suppress(SystemExit):
                os.kill(os.getpid(), signal.SIGTERM)
            if made_of_it:
                raise made_of_it
            return function(*given)

        return instead

    wrapped(monkeypatch, where, swallowing)
    assert program(*STAGE_2) == 75
    assert capfd.readouterr().out.count("stopped by SIGTERM; the same command") == 1


def test_a_stage_1_that_is_being_made_is_not_called_missing(program, tmp_path, capfd):
    settings = [*STAGE_2[:1], "repr=mean", *SMALL_STAGE2, "logger=csv"]
    assert program(*settings) == 2
    told = capfd.readouterr().err
    assert "The stage-1 encoder is missing: " in told
    folder = Path(told.split("The stage-1 encoder is missing: ")[1].split("\n")[0])
    assert folder.name == EXPORT_FOLDER
    with claimed(folder.parent, tmp_path / "runs", wait=False):
        assert program(*settings) == 2
    assert f"not there yet: process {os.getpid()} on " in capfd.readouterr().err


@pytest.mark.slow
def test_kills_and_signals_as_in_the_suite(tmp_path):
    """One moment of each kind, in processes of their own."""
    suite = REPOSITORY / "experiments/faults/faults.py"
    results = tmp_path / "results.csv"
    command = [sys.executable, suite, "kills", "signals", "--tries=1", f"--results={results}"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert len(results.read_text().splitlines()) == 1 + 5 + 9
