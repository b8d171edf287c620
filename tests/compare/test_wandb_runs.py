import json
import shutil
from pathlib import Path

import pytest

from poolwise.compare.records import read_runs
from poolwise.compare.wandb_runs import fetch_runs
from poolwise.settings import UserError
from wandb_service import ENTITY, ReceivedRun, WandbService

PATH = f"{ENTITY}/poolwise"


def take(service: WandbService, folder: Path) -> ReceivedRun:
    """Have the service hold a finished run with the files of a folder."""
    record = json.loads((folder / "record.json").read_text())
    facts = {"displayName": record["name"], "groupName": record["condition"], "jobType": record["stage"]}
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    received = ReceivedRun({**facts, "project": "poolwise"}, {"key": record["key"]}, files=files, exit_code=0)
    service.projects.append("poolwise")
    service.runs[f"run{len(service.runs)}"] = received
    return received


def test_complete_finished_runs_are_read_and_others_are_counted(runs, service, tmp_path):
    local = read_runs(runs, "sentiment")
    received = [take(service, Path(folder)) for folder in local["folder"]]
    whole, failed, without_files, foreign, unfinished = received[:5]
    failed.exit_code = 1
    without_files.files = {"config.yaml": b"", "record.json": without_files.files["record.json"]}
    foreign.config = {"learning_rate": 0.1}
    unfinished.files["record.json"] = unfinished.files["record.json"].replace(b'"finished"', b'"running"')
    fetched = fetch_runs(PATH, tmp_path / "elsewhere")
    assert fetched.folder == tmp_path / "elsewhere/from_wandb" / PATH
    assert (fetched.complete, fetched.lacking) == (len(local) - 4, 3)
    assert fetched.in_words().endswith("left out: 3 finished runs without the whole files of a poolwise record")
    found = read_runs(fetched.folder, "sentiment")
    keys = [run.config["key"] for run in (whole, *received[5:])]
    assert sorted(found["key"]) == sorted(keys)
    expected = local[local["key"].isin(keys)]
    read, made = (runs.drop(columns="folder").to_json(orient="records") for runs in (found, expected))
    assert read == made  # as text, in which NaN equals itself
    assert sorted(path.name for path in fetched.folder.parent.iterdir()) == ["poolwise"]  # no draft is left

    # What is there is not asked for again, what is broken is, and what is gone from the project goes.
    service.operations.clear()
    first, second, third = (folder for folder in sorted((fetched.folder / "sentiment").iterdir())[:3])
    whole_predictions = (first / "predictions.parquet").read_bytes()
    (first / "predictions.parquet").write_bytes(whole_predictions[:-1])
    shutil.rmtree(second)
    gone = json.loads((third / "record.json").read_text())["key"]
    service.runs = {name: run for name, run in service.runs.items() if run.config.get("key") != gone}
    again = fetch_runs(PATH, tmp_path / "elsewhere")
    assert (again.complete, again.lacking) == (fetched.complete - 1, 2 + 1)
    assert service.operations.count("RunFiles") == 2 + 2  # those of two lacking runs, and two whole ones
    assert (first / "predictions.parquet").read_bytes() == whole_predictions
    assert second.is_dir()
    assert not third.exists()


def test_mistakes_and_refusals_are_one_message(service, tmp_path, monkeypatch):
    for path in ("poolwise", f"{PATH}/runs", "../..", f"{ENTITY}/.."):
        with pytest.raises(UserError, match="is not of the form ENTITY/PROJECT"):
            fetch_runs(path, tmp_path)
    with pytest.raises(UserError, match=rf"^the runs of {PATH} could not be read from W&B: .*project poolwise"):
        fetch_runs(PATH, tmp_path)
    service.projects.append("poolwise")
    service.refused.add("Runs")
    with pytest.raises(UserError, match="no Runs here"):
        fetch_runs(PATH, tmp_path)
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match=r"cannot be read: nobody is logged in to W&B \(`wandb login`\)"):
        fetch_runs(PATH, tmp_path)
    assert not (tmp_path / "from_wandb").exists()
