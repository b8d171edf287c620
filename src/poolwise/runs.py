"""Run keys and run records: what a run was, in files that need no account and no network.

This module imports torch only where a run measures memory: a report reads records without it.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import resource
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas

from poolwise import ranks
from poolwise.command_line import conf_dir
from poolwise.durable import draft_of, flush, hash_of_file
from poolwise.settings import UserError
from poolwise.words import kind_and_words, without_secrets

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

NUMERICS_VERSION = 7
"""Raised by hand when the code's numbers change for the same settings, by more than rounding, which threads and
processors change too; part of every run key."""

RECORD_FILE = "record.json"
METRICS_FILE = "metrics.jsonl"
PREDICTIONS_FILE = "predictions.parquet"
EXPORT_FOLDER = "export"
MODEL_FOLDER = "model"
LOCK_FILE = ".lock"
HASH = "sha256"
"""Entry of a record file: of all other entries; records of the first days have none."""
PREDICTIONS_HASH, METRICS_HASH = "predictions_sha256", "metrics_sha256"
"""Entries of a record: of these files of the run, as they are; records of the first days have none of the metrics."""
STUDY = "study"
"""Entry of a record, also of a run's `flat` settings: the study of `poolwise.tune` that the run is a trial of."""
RESUMED = "resumed_at_steps"
"""Entry of a record: after how many steps of the optimiser the run was stopped and went on, each time."""
RECORDED_LIBRARIES = ("poolwise torch lightning transformers datasets tokenizers hydra-core torchmetrics wandb").split()


def hash_of(material: Any) -> str:
    """SHA-256 in hex of plain data (dicts, lists, numbers, text), whatever the order of its keys."""
    return hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()


def without_nan(value: Any) -> Any:
    """Plain data with null in place of numbers that JSON does not have: NaN and the infinities."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def without_seeds(settings: Any) -> Any:
    """Plain settings less every `seed`: what makes a condition."""
    if isinstance(settings, Mapping):
        return {k: without_seeds(v) for k, v in settings.items() if not k.endswith("seed")}
    return settings


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader never sees half of it, nor a kill or a power cut leaves half of it."""
    with draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class RunIdentity:
    """What a run is called and what tells it from others.

    Attributes:
        stage: `mlm` or `sentiment`.
        name: readable, with the seed.
        condition: the same without seeds.
        material: plain data: all that changes the run's numbers.
        condition_material: plain data: `material` less everything that seeds decide.
        flat: settings at the top level by which tables and W&B group runs.
    """

    stage: str
    name: str
    condition: str
    material: dict[str, Any]
    condition_material: dict[str, Any]
    flat: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """Hash of the material and of the version of the code's numbers."""
        return hash_of([NUMERICS_VERSION, self.material])

    @cached_property
    def group(self) -> str:
        """The condition's name and the first letters of its hash; runs that differ in seeds only share it."""
        return f"{self.condition}-{hash_of([NUMERICS_VERSION, self.condition_material])[:8]}"

    def folder(self, runs: Path) -> Path:
        """Where the run lies: named readably, plus the key's first letters."""
        return run_folder(runs, self.stage, self.name, self.key)


def run_folder(runs: Path, stage: str, name: str, key: str) -> Path:
    """The folder of a run: its name in letters that any file system takes, and its key's first letters."""
    return runs / stage / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{key[:8]}"


class HeldElsewhereError(Exception):
    """Another process does this run."""


@contextmanager
def claimed(folder: Path, runs: Path, wait: bool) -> Iterator[None]:
    """Hold a run's folder against other processes while the block runs, by a lock on its file `.lock`.

    The kernel frees the lock when its holder ends, however that ends, so what a dead process left is taken over. On a
    network file system the lock holds between machines if the server passes locks on, as NFS does from version 4;
    where the file system has no locks, it is said, and two processes may then do one run at once.

    Args:
        folder: of the run; it is made if need be.
        runs: the folder of all runs, which `folder` must not leave by a link.
        wait: whether to wait while another process holds it.

    Raises:
        HeldElsewhereError: another process holds it, and `wait` is false.
        UserError: a link leads out of `runs`.
    """
    check_inside((folder.parent, folder), runs)
    folder.mkdir(parents=True, exist_ok=True)
    check_inside(folder.iterdir(), runs)
    file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = f"{folder.name} is being done by {os.pread(file, 200, 0).decode(errors='replace')}"
            if not wait:
                raise HeldElsewhereError(holder) from None
            log.info("%s; waiting for it", holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            log.warning("%s: no locks there (%s); start no second command on these runs", folder, error.strerror)
        with suppress(OSError):  # who holds it is a courtesy, for which a full disk has no room
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)  # closing would not do where a loader process has a copy of it
        os.close(file)


def held_by(folder: Path) -> str | None:
    """Who does the run of a folder now, in words; None if nobody does."""
    try:
        file = os.open(folder / LOCK_FILE, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(file, 200, 0).decode(errors="replace")
    except OSError:
        pass
    finally:
        os.close(file)
    return None


def check_inside(places: Iterable[Path], runs: Path) -> None:
    """Raise a UserError if one of the places is a link that leads out of `runs`."""
    inside = runs.resolve()
    for place in places:
        if not place.resolve().is_relative_to(inside):
            raise UserError(f"{place} is a link that leads out of {runs}, and nothing is written there; remove it")


@dataclass
class RunRecord:
    """The record of one run, a context manager around its work. Of several processes the first one alone writes it.

    On entry the record says `running`, on exit `finished`, `interrupted` by person or system, or `failed` with the
    error; the exception goes on. What happens after `finish` changes nothing in it.

    Attributes:
        identity: what the run is.
        folder: where its files lie.
        config: the resolved config as plain data.
        results: filled while it runs: metrics, throughput, provenance and so on.
        left: the record of an attempt at this very run that did not come to an end; empty if there was none.
    """

    identity: RunIdentity
    folder: Path
    config: dict[str, Any]
    results: dict[str, Any] = field(default_factory=dict)
    left: dict[str, Any] = field(default_factory=dict)
    _started: float = 0.0
    _is_finished: bool = False
    _commit: str | None = None

    def __enter__(self) -> "RunRecord":
        earlier = read_record(self.folder)
        if earlier and earlier["key"] == self.identity.key and earlier["status"] in ("running", "interrupted"):
            self.left = earlier
        if ranks.is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / METRICS_FILE).write_text("")
        self.results = {"started": datetime.now(UTC).isoformat(timespec="seconds")}
        self._started = time.perf_counter()
        self._is_finished = False
        self._commit = git_commit()
        forget_peak_memory()
        self._write("running")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        elif self._is_finished:
            return
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            self._write_end("interrupted")
        else:
            self.results["error"] = kind_and_words(error)
            self.results["traceback"] = [without_secrets(part) for part in traceback.format_exception(error)]
            self._write_end("failed")

    def progress(self) -> dict[str, Any]:
        """What a later attempt at this run needs of this one, as plain data, for `go_on`."""
        return {
            "metrics": (self.folder / METRICS_FILE).read_text(),
            "wall_seconds": time.perf_counter() - self._started,
            "results": {name: self.results[name] for name in ("started", "wandb", RESUMED) if name in self.results},
        }

    def go_on(self, progress: Mapping[str, Any], step: int) -> None:
        """Be the record of an earlier attempt as it was after so many steps of the optimiser; notes that it was so."""
        if ranks.is_first():
            write_atomically(self.folder / METRICS_FILE, progress["metrics"])
        self._started = time.perf_counter() - progress["wall_seconds"]
        self.results |= progress["results"]
        self.results[RESUMED] = [*self.results.get(RESUMED, []), step]

    def note(self) -> None:
        """Write what is known so far."""
        self._write("running")

    def finish(self) -> None:
        """Write the record in its last state, unless that is done, so that it can be copied before the block ends."""
        if not self._is_finished:
            if ranks.is_first():
                flush(self.folder / METRICS_FILE)
                self.results[METRICS_HASH] = hash_of_file(self.folder / METRICS_FILE)
            self._write_end("finished")
            self._is_finished = True

    def _write_end(self, status: str) -> None:
        self.results["wall_seconds"] = round(time.perf_counter() - self._started, 2)
        self.results["peak_memory_mib"] = peak_memory_mib()
        self._write(status)

    def _write(self, status: str) -> None:
        identity = self.identity
        record = {
            "key": identity.key,
            "numerics_version": NUMERICS_VERSION,
            "status": status,
            "stage": identity.stage,
            "name": identity.name,
            "condition": identity.group,
            **identity.flat,
            **self.results,
            "config": self.config,
            "material": identity.material,
            "versions": library_versions(),
            "git_commit": self._commit,
        }
        if ranks.is_first():
            write_record(self.folder, record)

    def write_predictions(self, predictions: Mapping[str, Mapping[str, "Tensor"]]) -> None:
        """Write `predictions.parquet`: split, example number, label, logits (C numbers) of each example.

        What else a split has of its examples, a number each, becomes a column of that name: NaN in other splits.
        """
        named = ("examples", "labels", "logits")
        frames = [
            pandas.DataFrame(
                {
                    "split": split,
                    "example": columns["examples"].numpy(),
                    "label": columns["labels"].numpy(),
                    "logits": list(columns["logits"].numpy()),
                    **{name: column.numpy() for name, column in columns.items() if name not in named},
                }
            )
            for split, columns in predictions.items()
        ]
        with draft_of(self.folder / PREDICTIONS_FILE) as draft:
            pandas.concat(frames).to_parquet(draft, index=False)
            self.results[PREDICTIONS_HASH] = hash_of_file(draft)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder; None where there is none that can be read."""
    file = folder / RECORD_FILE
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(record, dict) and {"key", "status"} <= record.keys():
            noted = record.pop(HASH, None)
            if noted in (None, hash_of(record)):
                return record
            reason = "its content does not fit its checksum"
        else:
            reason = "it holds no key and status"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    log.warning("%s is broken and left out (%s)", file, reason)
    return None


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a record into a run's folder, with its checksum."""
    kept = json.loads(json.dumps(without_nan(record), allow_nan=False))
    kept.pop(HASH, None)
    write_atomically(folder / RECORD_FILE, json.dumps({**kept, HASH: hash_of(kept)}, indent=2) + "\n")


def count_as_run(folder: Path) -> None:
    """Make a finished trial of a study an ordinary run, as somebody asks for this very run."""
    record = read_record(folder)
    if record is not None and record.pop(STUDY, None) is not None:
        write_record(folder, record)


def finished(identity: RunIdentity, runs: Path) -> bool:
    """Whether this very run has been done, and what it left is there, and as it was written."""
    folder = identity.folder(runs)
    record = read_record(folder)
    if record is None or record["key"] != identity.key or record["status"] != "finished":
        return False
    damaged = damaged_file(folder, record)
    if damaged is not None:
        log.warning("%s is damaged: this run is done anew", damaged)
    elif identity.stage == "mlm" and not (folder / EXPORT_FOLDER).is_dir():
        log.warning("%s is missing: this run is done anew", folder / EXPORT_FOLDER)
    else:
        return True
    return False


def damaged_file(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The first of a run's files that is not what its record was written with, if it tells; None if all are."""
    for name, entry in ((PREDICTIONS_FILE, PREDICTIONS_HASH), (METRICS_FILE, METRICS_HASH)):
        file = folder / name
        if entry in record and not (file.is_file() and hash_of_file(file) == record[entry]):
            return file
    return None


@cache
def library_versions() -> dict[str, str]:
    """Of those that numbers may depend on; looking them up takes some milliseconds each."""
    return {name: version(name) for name in RECORDED_LIBRARIES}


@cache
def git_commit(*further: Path) -> str | None:
    """The commit of the checkout that this code lies in, when it is first asked for; None outside git.

    With `+changes` if the code, the config or one of `further` files was edited since it.
    """
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    with suppress(OSError, subprocess.CalledProcessError):
        git("ls-files", "--error-unmatch", __file__)  # a package may be installed in somebody else's checkout
        changes = git("status", "--porcelain", "--", str(here), str(conf_dir()), *map(str, further))
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    return None


def forget_peak_memory() -> None:
    """Start measuring peak memory anew: the jobs of a sweep share a process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib() -> dict[str, float]:
    """Peak memory in MiB since `forget_peak_memory`: the process's resident set, and the GPU's if there is one.

    Where the system cannot forget a peak (other than Linux), the figure is the process's own.
    """
    import torch

    try:
        status = Path("/proc/self/status").read_text()
        resident = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024
    except (OSError, IndexError):
        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    peaks = {"resident": round(resident, 1)}
    if torch.cuda.is_available():
        peaks["gpu"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peaks
