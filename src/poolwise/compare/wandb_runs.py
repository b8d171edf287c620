"""Finished runs read from W&B: the files of their records, as folders like those of local runs."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from poolwise.runs import damaged_file, read_record, run_folder
from poolwise.settings import UserError
from poolwise.tracking import RECORD_FILES, wandb_account, what_hinders
from poolwise.words import counted


@dataclass(frozen=True)
class FetchedRuns:
    """What was read of a project.

    Attributes:
        path: `ENTITY/PROJECT`.
        folder: where the runs lie now, as under `runs/`.
        complete: how many runs have all files.
        lacking: how many finished runs have not, and are left out.
    """

    path: str
    folder: Path
    complete: int
    lacking: int

    def in_words(self) -> str:
        """For the screen."""
        words = f"{counted(self.complete, 'run')} of {self.path}, kept in {self.folder}"
        if self.lacking:
            words += f"; left out: {counted(self.lacking, 'finished run')} without the whole files of a poolwise record"
        return words


def fetch_runs(path: str, runs: Path) -> FetchedRuns:
    """Download the records of all finished runs of a project that do not lie in `runs/from_wandb/PATH` yet.

    What lies there and is no longer in the project is removed.

    Args:
        path: `ENTITY/PROJECT`.
        runs: the folder of local runs.

    Raises:
        UserError: the project is misspelled or not there, or W&B cannot be reached.
    """
    if not re.fullmatch(r"(?!\.+/)[^/\\#?%:]+/(?!\.+$)[^/\\#?%:]+", path):
        raise UserError(f"--from-wandb={path} is not of the form ENTITY/PROJECT")
    if hindrance := what_hinders():
        raise UserError(f"the runs of {path} cannot be read: {hindrance}")
    target = runs / "from_wandb" / path
    found: set[Path] = set()
    lacking = 0
    with wandb_account(f"the runs of {path} could not be read from W&B") as account:
        for run in account.runs(path, filters={"state": "finished"}, lazy=False):
            folder = _fetched(run, target)
            if folder is None:
                lacking += 1
            else:
                found.add(folder)
    for folder in [folder for stage in RECORD_FILES for folder in target.glob(f"{stage}/*")]:
        if folder not in found:
            shutil.rmtree(folder)
    return FetchedRuns(path, target, len(found), lacking)


def _fetched(run: Any, target: Path) -> Path | None:
    """The folder under `target` that the run's files lie in, downloaded if need be; None if the run lacks them."""
    stage, key = run.job_type, str(run.config.get("key"))
    if stage not in RECORD_FILES or not re.fullmatch("[0-9a-f]{64}", key):
        return None
    folder = run_folder(target, stage, str(run.name), key)
    if _is_complete(folder, stage, key):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as draft:
        files = Path(draft) / folder.name
        files.mkdir()
        for file in run.files(names=list(RECORD_FILES[stage])):
            if file.name not in RECORD_FILES[stage]:
                raise UserError(f"{run.name}: W&B gave the file {file.name!r}, which nobody asked for")
            file.download(root=str(files)).close()
        if not _is_complete(files, stage, key):
            return None
        shutil.rmtree(folder, ignore_errors=True)
        files.rename(folder)
    return folder


def _is_complete(folder: Path, stage: str, key: str) -> bool:
    if not all((folder / name).is_file() for name in RECORD_FILES[stage]):
        return False
    record = read_record(folder)
    if record is None or (record["key"], record["stage"], record["status"]) != (key, stage, "finished"):
        return False
    return damaged_file(folder, record) is None
