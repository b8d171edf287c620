"""The one loop: both stages fit, record and log through it."""

import gc
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from rich.console import Console

from poolwise import machine
from poolwise.data.module import TextDataModule
from poolwise.runs import RunIdentity, RunRecord, finished
from poolwise.settings import CommonSettings, Optimisation
from poolwise.stages.stage import Stage
from poolwise.tracking import loggers

log = logging.getLogger(__name__)

OWN_TRAINER_ARGUMENTS = (
    "logger callbacks max_epochs default_root_dir enable_checkpointing gradient_clip_val num_sanity_val_steps "
    "use_distributed_sampler enable_model_summary enable_progress_bar strategy num_nodes fast_dev_run"
).split()
"""Arguments of `lightning.Trainer` that this loop sets itself: from settings of its own, or to train on one device."""


class Job(ABC):
    """One run of one stage: its identity, its parts, and what is done when it is trained.

    Attributes:
        identity: names and key.
        settings: the typed settings of the run.
        epochs: how often training passes over the data.
        optimisation: of the optimiser; its clipping norm is the trainer's.
        selection_metric: the dev metric whose highest value picks the checkpoint; None keeps the last step.
    """

    identity: RunIdentity
    settings: CommonSettings
    epochs: int
    optimisation: Optimisation
    selection_metric: str | None = None

    @abstractmethod
    def build(self) -> tuple[Stage, TextDataModule]:
        """The module to train, and its data. Called after the seed is set."""

    @abstractmethod
    def conclude(self, trainer: lightning.Trainer, stage: Stage, data: TextDataModule, record: RunRecord) -> None:
        """Evaluate, export, and fill in the record."""


def run(job: Job) -> None:
    """Do a job, unless this very run is finished; leave a record of it whatever happens."""
    settings, identity = job.settings, job.identity
    folder = identity.folder(settings.runs_dir)
    if finished(identity, settings.runs_dir):
        log.info("%s is finished: %s", identity.name, folder)
        return
    log.info("%s: training, into %s", identity.name, folder)
    with (
        freed_memory(),
        RunRecord(identity, folder, settings.config) as record,
        loggers(settings.logger, record, settings.runs_dir) as run_loggers,
    ):
        lightning.seed_everything(settings.seed, workers=True, verbose=False)
        stage, data = job.build()
        machine.fit_threads(sum(parameter.numel() for parameter in stage.parameters()))
        trainer = make_trainer(job, folder, run_loggers, len(data.train_dataloader()))
        trainer.fit(stage, data)
        record.results["metrics"] = plain(trainer.callback_metrics)
        record.results["tokens_per_second"] = round(stage.throughput, 1)
        job.conclude(trainer, stage, data, record)
    log.info("%s: finished, %s", identity.name, in_words(record.results["metrics"]))


def make_trainer(job: Job, folder: Path, run_loggers: list[Any], steps_per_epoch: int) -> lightning.Trainer:
    """Lightning's Trainer with the project's own arguments and those of `trainer.*`; logs at least once an epoch."""
    arguments = dict(job.settings.trainer)
    arguments["log_every_n_steps"] = min(arguments["log_every_n_steps"], steps_per_epoch)
    callbacks: list[lightning.Callback] = []
    if job.selection_metric is not None:
        callbacks.append(best_checkpoint(folder, job.selection_metric))
    on_screen = Console().is_terminal
    if on_screen:
        callbacks.append(RichProgressBar(leave=False))
    return lightning.Trainer(
        **arguments,
        logger=run_loggers,
        callbacks=callbacks,
        max_epochs=job.epochs,
        default_root_dir=folder,
        enable_checkpointing=job.selection_metric is not None,
        gradient_clip_val=job.optimisation.gradient_clip_norm,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=on_screen,
    )


def best_checkpoint(folder: Path, metric: str) -> ModelCheckpoint:
    """Keep the weights of the epoch in which `metric` is highest, the earlier one of equals."""
    return ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor=metric,
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )


def plain(metrics: dict[str, torch.Tensor]) -> dict[str, float]:
    """Metrics as numbers that JSON can hold."""
    return {name: float(value) for name, value in metrics.items()}


def in_words(metrics: dict[str, float]) -> str:
    """The figures of the last split evaluated, on one line."""
    split = "test" if any(name.startswith("test/") for name in metrics) else "dev"
    return ", ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()) if name.startswith(split))


@contextmanager
def freed_memory() -> Iterator[None]:
    """Give the memory of one job back before the next: the jobs of a sweep share a process."""
    try:
        yield
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
