"""W&B from end to end: the real client, and a stand-in of the service that it talks to."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from wandb import wandb_agent

from helpers import REPOSITORY, SMALL_STAGE1, SMALL_STAGE2, read_wandb
from poolwise import app, report
from poolwise.compare.report import Report, write_report
from poolwise.compare.wandb_runs import fetch_runs
from poolwise.data.demo import generate_reviews
from poolwise.representations import REPRESENTATIONS
from poolwise.runs import RunIdentity, RunRecord, read_record
from poolwise.settings import SentimentSettings, WandbLogging
from poolwise.stages.mlm import MaskedLanguageModelling
from poolwise.tracking import loggers, wandb_mode
from wandb_service import ENTITY, KEY, LONGEST_SECONDS, ReceivedRun, WandbService


def wandb_command(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "wandb", *words]
    found = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
        timeout=LONGEST_SECONDS,
    )
    return found.stdout + found.stderr


def own(values: dict[str, Any]) -> dict[str, Any]:
    """Without what W&B adds: its own clock and counters."""
    return {name: value for name, value in values.items() if not name.startswith("_")}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def check_figures(received: ReceivedRun, folder: Path, parameters: dict[str, Any]) -> None:
    """Config, each row of the history and summary are those of the run's own files; a sweep adds its parameters."""
    record = json.loads((folder / "record.json").read_text())
    assert received.exit_code == 0
    config = {name: value for name, value in received.config.items() if name not in parameters}
    assert config.keys() >= {"objective", "data", "model", "key", "config"}
    assert config == {name: record[name] for name in config}
    assert {name: received.config.get(name) for name in parameters} == parameters
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [own(row) for row in received.history]
    assert [{"step": row.pop("trainer/global_step"), **row} for row in rows] == steps
    last = {name: value for row in received.history for name, value in own(row).items()}
    assert own(received.summary) == last | record["metrics"]


def test_an_online_run_has_the_figures_of_its_record_and_no_text(program, service, tmp_path):
    assert program("stage=mlm", *SMALL_STAGE1, "logger.mode=online") == 0
    (folder,) = (tmp_path / "runs/mlm").iterdir()
    record = json.loads((folder / "record.json").read_text())
    ((run, received),) = service.runs.items()
    check_figures(received, folder, {})
    assert record["wandb"]["mode"] == "online"
    assert record["wandb"]["url"] == f"{service.url}/{ENTITY}/poolwise/runs/{run}"
    facts = received.facts
    assert (facts["displayName"], facts["groupName"]) == (record["name"], record["condition"])
    texts = [review.text.encode() for review in generate_reviews(record["config"]["data"]["text"], seed=0)]
    assert not [text for text in texts if any(text in body for body in service.received)]
    fetched = fetch_runs(f"{ENTITY}/poolwise", tmp_path / "elsewhere")
    assert (fetched.complete, fetched.lacking) == (1, 0)
    copy = tmp_path / "elsewhere/from_wandb" / ENTITY / "poolwise/mlm" / folder.name
    assert contents(copy) == {name: (folder / name).read_bytes() for name in ("record.json", "metrics.jsonl")}


def test_a_run_that_fails_with_a_secret_in_its_error_sends_and_keeps_none(
    program, service, tmp_path, monkeypatch, capfd
):
    secrets = {"HF_TOKEN": "hf_" + 30 * "q", "MY_PASSWORD": "swordfish-0xdeadbeef"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)

    def refused(self, batch, batch_idx):
        raise RuntimeError(f"401: {secrets} and {os.environ['WANDB_API_KEY']}")

    monkeypatch.setattr(MaskedLanguageModelling, "training_step", refused)
    assert program("stage=mlm", *SMALL_STAGE1, "logger.mode=online") == 1
    (received,) = service.runs.values()
    record = read_record(next((tmp_path / "runs/mlm").iterdir()))
    told = "RuntimeError: 401: {'HF_TOKEN': '[HF_TOKEN]', 'MY_PASSWORD': '[MY_PASSWORD]'} and [WANDB_API_KEY]"
    assert (record["status"], record["error"]) == ("failed", told)
    assert (received.state, received.summary["error"]) == ("failed", told)
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    printed = "".join(capfd.readouterr()).encode()
    for secret in [*secrets.values(), KEY]:
        assert not [each for each in [*kept, *service.received, printed] if secret.encode() in each]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_run_that_goes_on_is_one_run_of_wandb(program, service, tmp_path, monkeypatch, mode):
    settings = ["stage=mlm", *SMALL_STAGE1, f"logger.mode={mode}", "trainer.log_every_n_steps=1"]
    step = MaskedLanguageModelling.training_step

    def stopped(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(MaskedLanguageModelling, "training_step", stopped)
    assert program(*settings) == 75
    monkeypatch.setattr(MaskedLanguageModelling, "training_step", step)
    assert program(*settings) == 0
    (folder,) = (tmp_path / "runs/mlm").iterdir()
    if mode == "offline":
        (lies_in,) = (tmp_path / "runs/wandb").glob("offline-run-*")
        wandb_command(tmp_path, "sync", str(lies_in))
    ((run, received),) = service.runs.items()
    record = json.loads((folder / "record.json").read_text())
    assert (record["wandb"]["id"], record["resumed_at_steps"]) == (run, [1])
    check_figures(received, folder, {})


@pytest.mark.slow
def test_a_synced_offline_run_has_the_figures_of_its_record(program, service, tmp_path, monkeypatch, capsys):
    # Of three epochs, the one that is chosen need not be the last, whose figures W&B would show by itself.
    assert program("stage=sentiment", "encoder=base", *SMALL_STAGE2, "logger.mode=offline", "protocol.epochs=3") == 0
    (folder,) = (tmp_path / "runs/sentiment").iterdir()
    record = json.loads((folder / "record.json").read_text())
    assert service.runs == {}
    printed = wandb_command(tmp_path, "sync", record["wandb"]["folder"])
    assert "ERROR" not in printed
    ((run, received),) = service.runs.items()
    assert run == record["wandb"]["id"]
    check_figures(received, folder, {})
    local = write_report(tmp_path / "runs")
    fetched = fetch_runs(f"{ENTITY}/poolwise", tmp_path / "elsewhere")
    copied = write_report(fetched.folder)
    assert copied.csv.read_bytes() == local.csv.read_bytes()
    assert copied.sections == local.sections
    assert copied.page.read_text().replace(str(fetched.folder), str(tmp_path / "runs")) == local.page.read_text()
    check_command(service, tmp_path / "anew", local, monkeypatch, capsys)


def check_command(service: WandbService, folder: Path, local: Report, monkeypatch, capsys) -> None:
    """`--from-wandb --wandb` as typed: the local report's figures, saved to the project; once more, over the first."""
    words = ["report", "--runs", str(folder), "--from-wandb", f"{ENTITY}/poolwise", "--wandb"]
    monkeypatch.setattr(sys, "argv", words)
    capsys.readouterr()
    for _ in range(2):
        report.main()
        ((view, saved),) = service.views.items()
        *_, last = capsys.readouterr().out.splitlines()
        assert last.startswith(f"in W&B   {service.url}/{ENTITY}/poolwise/reports/")
        assert last.endswith(f"--{view}")
        assert json.dumps(local.sections[0].answer)[1:-1] in saved["spec"]
    (table,) = folder.rglob("comparison.csv")
    assert table.read_bytes() == local.csv.read_bytes()


SWEEP = REPOSITORY / "conf/wandb_sweep.yaml"


def agents_commands(sweep: dict[str, Any], choices: list[dict[str, Any]], monkeypatch, tmp_path) -> list[list[str]]:
    """The command line that W&B's agent would start for each choice of parameters."""
    commands: list[list[str]] = []
    monkeypatch.setattr(wandb_agent, "AgentProcess", lambda command, **_: commands.append(command) or Mock())
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets it
    agent = wandb_agent.Agent(api=None, queue=None)
    agent._sweep_command = list(sweep["command"])
    for number, choice in enumerate(choices):
        arguments = {key: {"value": value} for key, value in choice.items()}
        agent._command_run({"run_id": str(number), "program": sweep["program"], "args": arguments})
    return commands


def choices_of(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """What a grid runs over."""
    values = [parameter["values"] for parameter in sweep["parameters"].values()]
    return [dict(zip(sweep["parameters"], chosen, strict=True)) for chosen in product(*values)]


def test_the_agents_command_lines_mean_what_the_sweep_says(monkeypatch, tmp_path):
    sweep = yaml.safe_load(SWEEP.read_text())
    choices = choices_of(sweep)
    assert len(choices) == 4 * 3 * 3
    some = choices[::5]
    for name, parameter in sweep["parameters"].items():
        assert {choice[name] for choice in some} == set(parameter["values"])
    app.register_schemas()
    for command, choice in zip(agents_commands(sweep, some, monkeypatch, tmp_path), some, strict=True):
        assert command[:3] == ["/usr/bin/env", "python", sweep["program"]]
        settings = app.typed_settings(app.composed(app.prepared(command[3:])))
        assert isinstance(settings, SentimentSettings)
        found = [settings.representation["name"], settings.protocol.optimisation.learning_rate, settings.seed]
        assert found == list(choice.values())
    assert set(sweep["parameters"]["repr"]["values"]) <= set(REPRESENTATIONS)


@pytest.mark.slow
def test_an_agent_runs_the_sweep(program, service, tmp_path, monkeypatch):
    """`wandb sweep` and `wandb agent` as a person starts them, for one of its runs."""
    sweep = yaml.safe_load(SWEEP.read_text())
    small = ["encoder=base", *SMALL_STAGE2, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache"]
    sweep["command"] = [*sweep["command"][:-1], *small, sweep["command"][-1]]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    shutil.copy(REPOSITORY / "train.py", tmp_path)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    printed = wandb_command(tmp_path, "sweep", "sweep.yaml")
    service.choices = choices_of(sweep)[-1:]
    agent = re.search(r"wandb (agent \S+)", printed).group(1)
    wandb_command(tmp_path, *agent.split(), "--count", "1")
    (received,) = service.runs.values()
    (folder,) = (tmp_path / "runs/sentiment").iterdir()
    assert received.facts["sweep"] == "sweep1"
    check_figures(received, folder, choices_of(sweep)[-1])


ONLINE = WandbLogging(
    name="wandb", project="poolwise", entity=None, mode="online", start_seconds=20, finish_seconds=1, upload_texts=False
)


def die(service: WandbService) -> None:
    service.shutdown()
    service.server_close()


def fall_silent(service: WandbService) -> None:
    service.before_answer = partial(time.sleep, 20)


def become_slow(service: WandbService) -> None:
    service.before_answer = partial(time.sleep, 1)


def end_its_client(service: WandbService) -> None:
    """W&B's own process on this machine, as the system does that has no memory."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"wandb-core" in (place / "cmdline").read_bytes():
                os.kill(int(place.name), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the client that was ended
@pytest.mark.parametrize("fail", [die, fall_silent, become_slow, end_its_client])
def test_a_run_outlives_wandb(service, tmp_path, caplog, fail):
    """It waits for nothing while it trains and a second at its end, has all figures, and says how to upload them."""
    runs, waited = tmp_path / "runs", {}
    identity = RunIdentity("sentiment", "a", "a", {}, {}, {"seed": 1})
    with RunRecord(identity, identity.folder(runs), {}) as record, loggers(ONLINE, record, runs) as both:
        started = time.monotonic()
        for step in range(20):
            if step == 3:
                fail(service)
            for logger in both:
                logger.log_metrics({"train/loss": float(step)}, step)
        waited["training"] = time.monotonic() - started
        record.results["metrics"] = {"test/accuracy": 0.5}
    waited["end"] = time.monotonic() - started - waited["training"]
    assert waited["training"] < 5
    assert waited["end"] < 15
    assert record.results["wandb"]["mode"] == "online"
    told = json.loads((record.folder / "record.json").read_text())
    assert (told["status"], told["metrics"]) == ("finished", {"test/accuracy": 0.5})
    assert len((record.folder / "metrics.jsonl").read_text().splitlines()) == 20
    folder = record.results["wandb"]["folder"]
    assert f"to upload: wandb sync --no-skip-online {folder}" in caplog.text
    assert wandb_mode("online") == "offline"  # the next job of a sweep does not wait again
    service.before_answer = lambda: None
    gc.collect()
    if fail is die:
        found = read_wandb(folder)
        assert (found["summary"]["train/loss"], found["summary"]["test/accuracy"]) == (19.0, 0.5)


@pytest.mark.slow
def test_a_start_that_is_not_answered_is_bounded(service, tmp_path, caplog):
    service.before_answer = partial(time.sleep, 20)
    started = time.monotonic()
    identity = RunIdentity("sentiment", "a", "a", {}, {}, {"seed": 1})
    bounded = replace(ONLINE, start_seconds=2)
    with RunRecord(identity, tmp_path / "a", {}) as record, loggers(bounded, record, tmp_path):
        assert time.monotonic() - started < 20
        record.results["metrics"] = {}
    assert record.results["wandb"]["mode"] == "offline"
    assert "did not start online" in caplog.text
    service.before_answer = lambda: None


@pytest.mark.slow
def test_a_run_that_lost_its_service_is_synced_later(program, service, tmp_path, monkeypatch, capfd):
    step = MaskedLanguageModelling.training_step

    def losing(self, batch, batch_idx):
        service.before_answer = partial(time.sleep, 2)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(MaskedLanguageModelling, "training_step", losing)
    assert program("stage=mlm", *SMALL_STAGE1, "logger.mode=online", "logger.finish_seconds=1") == 0
    service.before_answer = lambda: None
    service.runs.clear()
    (folder,) = (tmp_path / "runs/mlm").iterdir()
    record = json.loads((folder / "record.json").read_text())
    words = ["wandb", "sync", "--no-skip-online", record["wandb"]["folder"]]
    assert " ".join(words) in capfd.readouterr().out
    wandb_command(tmp_path, *words[1:])
    ((run, received),) = service.runs.items()
    assert run == record["wandb"]["id"]
    check_figures(received, folder, {})
