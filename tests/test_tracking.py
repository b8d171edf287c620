import http.server
import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import lightning
import pytest
import torch
import wandb

from helpers import read_wandb
from poolwise import machine
from poolwise.machine import answers
from poolwise.runs import RunIdentity, RunRecord, read_record
from poolwise.settings import LocalLogging, WandbLogging
from poolwise.tracking import RecordLogger, logged_in, loggers, wandb_mode

WANDB = WandbLogging(
    name="wandb", project="poolwise", entity=None, mode="auto", start_seconds=5, finish_seconds=5, upload_texts=False
)
KEY = "local-" + 40 * "a"


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    answers.cache_clear()


def record(tmp_path: Path, seed: int = 1) -> RunRecord:
    flat = {"repr": "mean", "objective": "bow", "seed": seed}
    material = {"seed": seed}
    identity = RunIdentity("sentiment", f"demo-mean-seed{seed}", "demo-mean", material, {}, flat)
    return RunRecord(identity, tmp_path / f"run{seed}", {"protocol": {"epochs": 2}})


def test_offline_run_holds_the_records_figures(tmp_path):
    with record(tmp_path) as running, loggers(WANDB, running, tmp_path) as (own, online):
        for logger in (own, online):
            logger.log_metrics({"train/loss": 0.5}, step=1)
        running.results["metrics"] = {"test/accuracy": 0.875, "dev/macro_f1": 0.75}
    found = read_wandb(running.results["wandb"]["folder"])
    assert running.results["wandb"]["mode"] == "offline"
    assert {name: found["summary"][name] for name in running.results["metrics"]} == running.results["metrics"]
    assert {name: found["config"][name] for name in ("repr", "objective", "seed")} == running.identity.flat
    assert found["exit_code"] == 0
    assert wandb.run is None
    kept = Path(running.results["wandb"]["folder"]) / "files/record.json"
    assert not kept.is_symlink()
    assert kept.read_bytes() == (running.folder / "record.json").read_bytes()
    assert json.loads(kept.read_text())["status"] == "finished"


def test_a_failed_job_is_a_failed_wandb_run(tmp_path):
    running = record(tmp_path)
    with pytest.raises(RuntimeError), running, loggers(WANDB, running, tmp_path):
        raise RuntimeError("out of luck")
    in_wandb = read_wandb(running.results["wandb"]["folder"])
    assert (in_wandb["exit_code"], in_wandb["summary"]["error"]) == (1, "RuntimeError: out of luck")
    assert not list(Path(running.results["wandb"]["folder"]).glob("files/record.json"))
    assert json.loads((running.folder / "record.json").read_text())["status"] == "failed"
    assert wandb.run is None


def test_each_job_of_a_process_has_a_run_of_its_own(tmp_path):
    """Held away: a second WandbLogger in one process goes on with the first one's run."""
    folders = []
    for seed in (1, 2):
        with record(tmp_path, seed) as running, loggers(WANDB, running, tmp_path) as (_, online):
            online.log_metrics({"train/loss": float(seed)}, step=0)
            running.results["metrics"] = {"test/accuracy": seed / 10}
        folders.append(running.results["wandb"]["folder"])
    summaries = [read_wandb(folder)["summary"] for folder in folders]
    assert folders[0] != folders[1]
    assert [s["test/accuracy"] for s in summaries] == [0.1, 0.2]
    assert [s["train/loss"] for s in summaries] == [1.0, 2.0]


def test_an_attempt_that_a_kill_ended_leaves_one_offline_run_of_its_id(tmp_path):
    """Also where no checkpoint was written; another folder that something names is left alone."""
    running = record(tmp_path)
    with suppress(SystemExit), running, loggers(WANDB, running, tmp_path):
        first = dict(running.results["wandb"])
        assert read_record(running.folder)["wandb"] == first
        raise SystemExit
    elsewhere = tmp_path / "wandb/mine"
    elsewhere.mkdir()
    again = record(tmp_path)
    with again, loggers(WANDB, again, tmp_path):
        pass
    assert again.results["wandb"]["id"] == first["id"]
    assert [folder.name for folder in (tmp_path / "wandb").glob("offline-run-*")] == [
        Path(again.results["wandb"]["folder"]).name
    ]
    assert elsewhere.is_dir()
    third = record(tmp_path)
    with third, loggers(WANDB, third, tmp_path):
        pass
    assert third.results["wandb"]["id"] != first["id"]  # that run was finished


def test_a_run_goes_on_where_wandb_itself_does_not_start(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(wandb, "init", Mock(side_effect=wandb.errors.WandbCoreNotAvailableError("no wandb-core")))
    with record(tmp_path) as running, loggers(WANDB, running, tmp_path) as own:
        assert [type(logger) for logger in own] == [RecordLogger]
    assert "W&B did not start (no wandb-core)" in caplog.text
    assert read_record(running.folder)["status"] == "finished"


def test_figures_that_json_does_not_have_are_left_out(tmp_path):
    RecordLogger(tmp_path).log_metrics({"a": float("nan"), "b": 1.0, "c": float("inf")}, step=3)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3, "b": 1.0}\n'


def test_mode_without_an_account_is_offline():
    assert not logged_in()
    assert wandb_mode("auto") == "offline"


def test_online_without_an_account_is_offline_and_said(monkeypatch, caplog):
    """Held away: W&B asks at the terminal, and waits."""
    assert wandb_mode("online") == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert wandb_mode("auto") == "offline"
    assert caplog.text.count("nobody is logged in") == 2


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode("auto") == "offline"


@pytest.mark.parametrize("place", ["environment", "netrc"])
def test_a_login_is_found(monkeypatch, tmp_path, place):
    if place == "environment":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    else:
        (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert logged_in()


@pytest.fixture
def silent_service():
    """A service that takes connections and never answers."""
    release = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            release.wait(30)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    release.set()
    server.shutdown()
    server.server_close()


def test_a_service_that_does_not_answer_means_offline_soon(monkeypatch, silent_service, tmp_path, caplog):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", silent_service)
    monkeypatch.setattr(machine, "ANSWER_SECONDS", 1)
    started = time.monotonic()
    for seed in (1, 2):
        with record(tmp_path, seed) as running, loggers(WANDB, running, tmp_path):
            running.results["metrics"] = {"test/accuracy": 0.5}
        assert running.results["wandb"]["mode"] == "offline"
    assert time.monotonic() - started < 45  # W&B by itself waits 100 s
    assert caplog.text.count("did not answer within 1 s") == 2


@pytest.mark.slow
def test_a_service_that_breaks_at_the_start_means_offline(monkeypatch, tmp_path, caplog):
    """It answers the first question and refuses the run."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def do_POST(self):
            self.send_error(401)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    with record(tmp_path) as running, loggers(WANDB, running, tmp_path):
        running.results["metrics"] = {"test/accuracy": 0.5}
    server.shutdown()
    server.server_close()
    assert running.results["wandb"]["mode"] == "offline"
    assert "did not start online" in caplog.text
    assert read_wandb(running.results["wandb"]["folder"])["summary"]["test/accuracy"] == 0.5


def test_metrics_file_has_a_line_a_step(tmp_path):
    logger = RecordLogger(tmp_path)
    logger.log_metrics({"train/loss": 0.5}, step=3)
    logger.log_metrics({"dev/loss": 0.25}, step=4)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 3, "train/loss": 0.5}, {"step": 4, "dev/loss": 0.25}]


@pytest.mark.parametrize(("name", "pattern"), [("csv", "csv/metrics.csv"), ("tensorboard", "tensorboard/events*")])
def test_other_loggers_write_into_the_runs_folder(tmp_path, name, pattern):
    class OneStep(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def training_step(self, batch, batch_idx):
            loss = (self.weight * batch).sum()
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with record(tmp_path) as running, loggers(LocalLogging(name=name), running, tmp_path) as found:
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=found,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        trainer.fit(OneStep(), torch.utils.data.DataLoader([torch.ones(1)] * 2))
        running.results["metrics"] = {}
    assert len(list(running.folder.glob(pattern))) == 1
    assert (running.folder / "metrics.jsonl").read_text().count("train/loss") == 2
