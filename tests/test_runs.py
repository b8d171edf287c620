import json
import mmap

import pandas
import pytest
import torch

from poolwise import runs
from poolwise.runs import RunIdentity, RunRecord, finished, hash_of, read_record, without_seeds


def identity(**changes) -> RunIdentity:
    material = {"stage": "mlm", "seed": 1, "objective": {"name": "bow", "weight": 3.0}, **changes}
    return RunIdentity(
        stage="mlm",
        name=f"demo-tiny-bow-seed{material['seed']}",
        condition="demo-tiny-bow",
        material=material,
        condition_material=without_seeds(material),
        flat={"objective": "bow", "seed": material["seed"]},
    )


def record(tmp_path, **changes) -> RunRecord:
    return RunRecord(identity(**changes), identity(**changes).folder(tmp_path), {"seed": 1})


def test_the_key_is_a_hash_of_what_changes_the_numbers(monkeypatch):
    assert identity().key == identity().key
    assert len({identity(**c).key for c in ({}, {"seed": 2}, {"objective": {"name": "none"}})}) == 3
    before = identity().key
    monkeypatch.setattr(runs, "NUMERICS_VERSION", runs.NUMERICS_VERSION + 1)
    assert identity().key != before


def test_a_condition_is_the_settings_less_the_seeds():
    assert identity().group == identity(seed=2).group
    assert identity().group != identity(objective={"name": "none"}).group
    assert without_seeds({"seed": 1, "a": {"stage1_seed": 2, "b": 3}}) == {"a": {"b": 3}}
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})


def test_a_finished_run_leaves_its_record(tmp_path):
    with record(tmp_path) as running:
        during = read_record(running.folder)
        running.results["metrics"] = {"dev/mlm_loss": 2.0}
    found = read_record(running.folder)
    assert (during["status"], found["status"]) == ("running", "finished")
    assert found["key"] == identity().key
    assert found["metrics"] == {"dev/mlm_loss": 2.0}
    assert (found["objective"], found["seed"], found["config"]) == ("bow", 1, {"seed": 1})
    assert found["wall_seconds"] >= 0
    assert not finished(identity(), tmp_path)  # without what stage 1 is for
    (running.folder / "export").mkdir()
    assert found["peak_memory_mib"]["resident"] > 10
    assert set(found["versions"]) >= {"torch", "transformers", "lightning"}
    assert finished(identity(), tmp_path)
    assert not finished(identity(seed=2), tmp_path)
    assert [file.name for file in running.folder.glob("*draft*")] == []


def test_a_failed_run_says_so_with_its_error(tmp_path):
    with pytest.raises(RuntimeError, match="out of luck"), record(tmp_path) as running:
        raise RuntimeError("out of luck")
    found = read_record(running.folder)
    assert found["status"] == "failed"
    assert found["error"] == "RuntimeError: out of luck"
    assert not finished(identity(), tmp_path)


def test_a_run_that_is_stopped_has_not_failed(tmp_path):
    with pytest.raises(KeyboardInterrupt), record(tmp_path) as running:
        raise KeyboardInterrupt
    assert read_record(running.folder)["status"] == "interrupted"


def test_nothing_changes_a_record_after_its_end(tmp_path):
    """The copy that W&B takes is the record; an upload that is stopped does not undo the run."""
    running = record(tmp_path)
    with running:
        running.finish()
        written = (running.folder / "record.json").read_bytes()
        running.results["metrics"] = {"dev/mlm_loss": 2.0}
    running.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert read_record(running.folder)["status"] == "finished"
    assert (running.folder / "record.json").read_bytes() == written
    with running:
        assert read_record(running.folder)["status"] == "running"


def test_a_record_is_json_whatever_the_numbers_are(tmp_path):
    with record(tmp_path) as running:
        running.results["metrics"] = {"a": float("nan"), "b": [float("inf"), 1.5]}
    assert read_record(running.folder)["metrics"] == {"a": None, "b": [None, 1.5]}


def test_a_broken_record_is_no_record(tmp_path, caplog):
    with record(tmp_path) as running:
        pass
    file = running.folder / "record.json"
    file.write_text(file.read_text()[:100])
    assert read_record(running.folder) is None
    assert f"{file} is broken and left out" in caplog.text


def test_a_finished_run_whose_metrics_are_damaged_is_done_anew(tmp_path, caplog):
    with record(tmp_path) as running:
        (running.folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n')
    (running.folder / "export").mkdir()
    assert finished(identity(), tmp_path)
    for damaged in ('{"step": 1, "train/loss": 0.4}\n', ""):
        (running.folder / "metrics.jsonl").write_text(damaged)
        assert not finished(identity(), tmp_path)
    assert caplog.text.count("metrics.jsonl is damaged: this run is done anew") == 2


def test_predictions_round_trip(tmp_path):
    columns = {
        "examples": torch.arange(2),
        "labels": torch.tensor([1, 0]),
        "logits": torch.tensor([[0.5, 1.5], [2.0, -1.0]]),
    }
    with record(tmp_path) as running:
        running.write_predictions({"dev": columns, "test": columns})
    found = pandas.read_parquet(running.folder / "predictions.parquet")
    assert found["split"].tolist() == ["dev", "dev", "test", "test"]
    assert [row.tolist() for row in found["logits"]] == [[0.5, 1.5], [2.0, -1.0]] * 2
    assert found["label"].tolist() == [1, 0, 1, 0]


def test_folder_names_are_readable_and_safe(tmp_path):
    folder = identity().folder(tmp_path)
    assert folder.parent.name == "mlm"
    assert folder.name == f"demo-tiny-bow-seed1-{identity().key[:8]}"
    odd = RunIdentity("mlm", "a/b c", "x", {}, {}, {})
    assert odd.folder(tmp_path).name.startswith("a_b_c-")


def test_peak_memory_is_forgotten_between_runs():
    runs.forget_peak_memory()
    before = runs.peak_memory_mib()["resident"]
    with mmap.mmap(-1, 2**26) as block:
        block.write(bytes(2**26))
        during = runs.peak_memory_mib()["resident"]
    assert during >= before + 60
    runs.forget_peak_memory()
    assert runs.peak_memory_mib()["resident"] < during - 50


def test_records_are_plain_json(tmp_path):
    with record(tmp_path) as running:
        pass
    text = (running.folder / "record.json").read_text()
    assert json.loads(text)["material"]["objective"] == {"name": "bow", "weight": 3.0}


def test_the_error_of_a_failed_run_holds_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "planted-1234567")
    identity = RunIdentity("mlm", "name", "condition", {}, {}, {})
    with pytest.raises(RuntimeError), RunRecord(identity, tmp_path, {}):
        raise RuntimeError("401 for https://user:planted-1234567@hub")
    text = (tmp_path / "record.json").read_text()
    assert "planted" not in text
    assert read_record(tmp_path)["error"] == "RuntimeError: 401 for https://user:[SOME_API_KEY]@hub"
