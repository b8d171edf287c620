"""Loggers of a run: its own metrics file always, and W&B, CSV or TensorBoard beside it.

W&B's client is not loaded before a run logs to it: it takes half a second.
"""

import glob
import json
import logging
import math
import netrc
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger

from poolwise import machine, ranks
from poolwise.runs import METRICS_FILE, PREDICTIONS_FILE, RECORD_FILE, RESUMED, RunRecord, check_inside
from poolwise.settings import LoggerSettings, UserError, WandbLogging
from poolwise.words import first_line, kind_and_words

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)


class RecordLogger(Logger):
    """Writes each logged step as one JSON line into the run's folder, and flushes it.

    Figures that are no finite number, which JSON does not have, are left out.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / METRICS_FILE

    @property
    def name(self) -> str:
        """The logger's name."""
        return "record"

    @property
    def version(self) -> str:
        """One file a run."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line."""
        figures = {name: value for name, value in metrics.items() if math.isfinite(value)}
        with self.file.open("a") as stream:
            stream.write(json.dumps({"step": step, **figures}, allow_nan=False) + "\n")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the record holds the config."""


class OutlivedWandbLogger(WandbLogger):
    """W&B's logger, without which a run goes on where W&B's own process has ended; the run's files hold all."""

    is_lost = False

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Hand figures over, which waits for no network."""
        if self.is_lost:
            return
        try:
            super().log_metrics(dict(metrics), step)
        except Exception as error:  # of its client, its process and its socket, each with types of its own
            self.is_lost = True
            log.warning("W&B takes no more figures of this run (%s), which goes on", first_line(error))


given_up: set[str] = set()
"""Services that a run of this process could not begin or end with; the later jobs of a sweep do not wait for them."""


@contextmanager
def outlived(run: "wandb.Run") -> Iterator[None]:
    """What ends a W&B run; where W&B does not take it, say how to upload what it lacks. Nothing is raised."""
    folder = Path(run.dir).parent
    try:
        yield
    except Exception as error:  # see `OutlivedWandbLogger`
        given_up.add(_service())
        log.warning(
            "WARNING: W&B did not take all of this run (%s); all of it is on disk; to upload: wandb sync %s%s",
            *(first_line(error), "--no-skip-online " if run.settings.mode == "online" else "", folder),
        )
        if not isinstance(error, TimeoutError):  # W&B's own process has ended, and the next job needs another
            import wandb

            with suppress(Exception):
                wandb.teardown()


@contextmanager
def loggers(settings: LoggerSettings, record: RunRecord, runs: Path) -> Iterator[list[Logger]]:
    """The loggers of one run; a W&B run is finished on every way out, as failed if an exception goes by.

    A W&B run that does not fail gets the files of the run's record, in their last state. Where a run goes on that was
    stopped, so does its W&B run; all other loggers, which start anew, are told what its record holds so far. Of several
    processes the first one alone logs.
    """
    if not ranks.is_first():
        yield [DummyLogger()]
        return
    own = RecordLogger(record.folder)
    if settings.name in ("csv", "tensorboard"):
        shutil.rmtree(record.folder / settings.name, ignore_errors=True)  # of an attempt that was stopped
        kind = CSVLogger if settings.name == "csv" else TensorBoardLogger
        beside = kind(record.folder, name=None, version=settings.name)
        tell(beside, record)
        yield [own, beside]
    elif isinstance(settings, WandbLogging):
        run = start_wandb(settings, record, runs)
        if run is None:
            yield [own]
            return
        mode = run.settings.mode
        record.results["wandb"] = {
            "id": run.id,
            "mode": mode,
            "folder": str(Path(run.dir).parent),
            "url": run.url if mode == "online" else None,
        }
        record.note()  # so that an attempt after a kill is the same W&B run
        try:
            logger = OutlivedWandbLogger(experiment=run)
            if not run.resumed:
                tell(logger, record)
            if mode == "offline":
                remove_earlier(run)
            yield [own, logger]
            record.finish()
        except BaseException as error:
            with outlived(run):
                run.summary["error"] = kind_and_words(error)
                run.finish(exit_code=1)
            raise
        with outlived(run):
            run.summary.update(record.results.get("metrics", {}))
            keep_files(run, record.folder)
            run.finish()


def remove_earlier(run: "wandb.Run") -> None:
    """Remove what stopped attempts at an offline run left beside it: else all are uploaded as one run."""
    own = Path(run.dir).parent
    for folder in own.parent.glob(f"offline-run-*-{glob.escape(run.id)}"):
        if folder != own:
            shutil.rmtree(folder, ignore_errors=True)


def tell(logger: Logger, record: RunRecord) -> None:
    """Log what the record's metrics file holds, if an earlier attempt at this run left something."""
    for line in (record.folder / METRICS_FILE).read_text().splitlines():
        figures = json.loads(line)
        logger.log_metrics(figures, figures.pop("step"))


def log_mistakes(run_loggers: list[Logger], mistakes: list[list[str]]) -> None:
    """Log texts with label and answer as a table of the W&B run. The only way by which texts get there."""
    for logger in run_loggers:
        if isinstance(logger, WandbLogger) and mistakes:
            logger.log_table("dev/mistakes", columns=["text", "label", "answer"], data=mistakes)


RECORD_FILES = {
    "mlm": (RECORD_FILE, METRICS_FILE),
    "sentiment": (RECORD_FILE, METRICS_FILE, PREDICTIONS_FILE),
}
"""By stage, what a W&B run holds of a run's folder; a report can be made from it. None holds text of examples."""


def keep_files(run: "wandb.Run", folder: Path) -> None:
    """Have the W&B run upload what is there of `RECORD_FILES`, or `wandb sync` later.

    These are copies, not the links that W&B makes: a folder of offline runs can be moved to where the network is.
    """
    for name in RECORD_FILES["sentiment"]:
        if (folder / name).is_file():
            copy = shutil.copy(folder / name, run.dir)
            run.save(copy, base_path=run.dir, policy="now", glob=False)


def start_wandb(settings: WandbLogging, record: RunRecord, runs: Path) -> "wandb.Run | None":
    """A new W&B run, or the one that a stopped run had; online if somebody is logged in and the service answers.

    Else offline; never a prompt. None where W&B's own process does not start; the run's files hold all.
    """
    import wandb

    own = runs / "wandb"
    check_inside((own, *(own.iterdir() if own.is_dir() else ())), runs)
    mode = wandb_mode(settings.mode)
    if mode == "online":
        try:
            return _start_wandb("online", settings, record, runs)
        except wandb.errors.Error as error:
            log.warning("W&B did not start online (%s); this run is offline", first_line(error))
            given_up.add(_service())
            wandb.teardown()
    try:
        return _start_wandb("offline", settings, record, runs)
    except wandb.errors.Error as error:
        log.warning("WARNING: W&B did not start (%s); this run is in its own files alone", first_line(error))
        return None


def _start_wandb(
    mode: Literal["online", "offline"], settings: WandbLogging, record: RunRecord, runs: Path
) -> "wandb.Run":
    import wandb

    identity = record.identity
    goes_on = RESUMED in record.results
    earlier = record.results.get("wandb") if goes_on else record.left.get("wandb")
    return wandb.init(
        project=settings.project,
        entity=settings.entity,
        name=identity.name,
        group=identity.group,
        job_type=identity.stage,
        config={**identity.flat, "key": identity.key, "config": record.config},
        dir=runs,
        mode=mode,
        id=earlier["id"] if earlier else None,
        # Without it W&B begins the run of this id anew.
        resume="allow" if goes_on and earlier and mode == "online" else None,
        # One run a job, also when the jobs of a sweep share a process.
        reinit="finish_previous",
        settings=wandb.Settings(
            init_timeout=settings.start_seconds,
            finish_timeout=settings.finish_seconds,
            finish_timeout_raises=True,
            silent=True,
            console="off",
            disable_git=True,
        ),
    )


def wandb_mode(wanted: Literal["auto", "online", "offline"]) -> Literal["online", "offline"]:
    """`online` or `offline`: what is wanted, or for `auto` whether somebody is logged in and W&B answers."""
    if wanted == "auto":
        chosen = os.environ.get("WANDB_MODE")
        online = chosen in ("online", "run", "shared") if chosen else logged_in()
    else:
        online = wanted == "online"
    if not online:
        return "offline"
    if hindrance := what_hinders():
        log.warning("%s: this run is offline", hindrance)
        return "offline"
    return "online"


def what_hinders() -> str | None:
    """What keeps this process from the W&B service, in words; None if somebody is logged in and it answers."""
    if not logged_in():
        return "nobody is logged in to W&B (`wandb login`)"
    if _service() in given_up:
        return "W&B failed a run of this process before"
    if not machine.answers(_service()):
        return f"W&B did not answer within {machine.ANSWER_SECONDS} s"
    return None


TRANSFER_SECONDS = 60
"""How long one request to W&B for a file may take."""


@contextmanager
def wandb_account(failure: str) -> "Iterator[wandb.Api]":  # whose own modules take 0.3 s to import
    """W&B's client for the account of whoever is logged in; no request waits for ever.

    Args:
        failure: what to say first if anything goes wrong inside the block.

    Raises:
        UserError: anything went wrong with the service, in one line.
    """
    import wandb

    wandb.setup(
        wandb.Settings(silent=True, x_file_transfer_retry_max=1, x_file_transfer_timeout_seconds=TRANSFER_SECONDS)
    )
    try:
        yield wandb.Api()
    except UserError:
        raise
    except Exception as error:  # the client raises errors of its own, ValueError and bare Exception
        raise UserError(f"{failure}: {first_line(error)}") from error


def logged_in() -> bool:
    """Whether a W&B key can be found, in the environment or in a netrc file; asks nobody."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    service = urlsplit(_service()).netloc
    hosts = {service} if os.environ.get("WANDB_BASE_URL") else {service, "api.wandb.ai"}
    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            found = netrc.netrc(path) if path else None
        except (OSError, netrc.NetrcParseError):
            continue
        entries = [found.authenticators(host) for host in hosts] if found else []
        if any(entry and entry[2] for entry in entries):
            return True
    return False


def _service() -> str:
    import wandb

    return os.environ.get("WANDB_BASE_URL") or str(wandb.Settings().base_url)
