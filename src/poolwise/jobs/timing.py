"""How long a run should take: some of its steps on a sample of its texts, timed, times how many there will be."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import numpy as np
import torch
from datasets import Dataset

from poolwise import machine
from poolwise.data.module import TextDataModule
from poolwise.jobs.mlm import MLMJob
from poolwise.jobs.probe import ProbeJob
from poolwise.jobs.sentiment import SentimentJob
from poolwise.settings import (
    TRAINER_LENGTHS,
    Budget,
    Finetune,
    MLMSettings,
    Pretraining,
    SentimentSettings,
    TrainedProtocol,
    UserError,
)
from poolwise.stages.loop import Job, choices_of, isolated, limited_batches, work_of_step
from poolwise.stages.pooler import PoolerTraining, cls_states, same_rows_each_epoch
from poolwise.stages.stage import Stage
from poolwise.words import counted, roughly

SECONDS = 4.0
"""Of training after the step that warms up, after which no further step is timed."""
STEPS = 8
"""That are timed, at most; one at least, however long it takes."""
FEW_TEXTS = 64
"""Of each split that is evaluated, and of all where a frozen encoder reads them before training."""
SHORT = 16
"""Tokens of a text, by which there are enough texts where `batch_tokens` says what a batch holds."""


class Clock(lightning.Callback):
    """Notes time and tokens of training after each step, ends it when there are enough, and times the evaluation.

    Attributes:
        seconds: of training after each step (see `Stage.seconds`).
        tokens: read after each step.
        evaluation: seconds of the last evaluation.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        self.evaluation = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the step, when the device has done it."""
        assert isinstance(pl_module, Stage)
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(pl_module.seconds)
        self.tokens.append(pl_module.tokens)
        if self.has_enough:
            trainer.should_stop = True

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """An evaluation begins."""
        self.evaluation = -time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """It ends."""
        self.evaluation += time.perf_counter()

    @property
    def has_enough(self) -> bool:
        """Whether no further step need be timed."""
        return self.steps == STEPS or (self.steps > 0 and self.seconds[-1] - self.seconds[0] > SECONDS)

    @property
    def steps(self) -> int:
        """How many are timed: all but the first, in which libraries make ready what they use from then on."""
        return len(self.seconds) - 1

    @property
    def tokens_of_step(self) -> float:
        """The mean over the timed steps."""
        return (self.tokens[-1] - self.tokens[0]) / self.steps

    @property
    def seconds_of_step(self) -> float:
        """Of one with so many tokens, by the median over the timed steps of the seconds for a token.

        A step whose shapes are new to the libraries takes longer, as the first one does, and is not what many are like.
        """
        return float(np.median(np.diff(self.seconds) / np.diff(self.tokens))) * self.tokens_of_step


Settings = MLMSettings | SentimentSettings
JobOf = Callable[[Any], Job]


def time_in_words(runs: Sequence[Settings], job_of: JobOf) -> str:
    """How long these runs should take together, by one of each kind; or why that is not known.

    Args:
        runs: their settings.
        job_of: makes the job of some.
    """
    kinds: dict[tuple[Any, ...], list[Settings]] = {}
    try:
        for run in distinct(runs, job_of):
            kinds.setdefault(kind_of(run), []).append(run)
        found = [estimate(partial(job_of, unadapted(several[0]))) for several in kinds.values()]
    except UserError as error:
        return f"not known: {error.messages[0]}"
    reading = [run for each, several in zip(found, kinds.values(), strict=True) for run in several if each.shared]
    shared = max(each.shared for each in found) * len({repr(encoder_of(run)) for run in reading})
    own = sum(each.own * len(several) for each, several in zip(found, kinds.values(), strict=True))
    number = sum(map(len, kinds.values()))
    together = f" for {counted(number, 'run')}" if number > 1 else ""
    each_kind = f" of each of {len(kinds)} kinds" if len(kinds) > 1 else ""
    return f"{roughly(shared + own)}{together}, {found[0].source}{each_kind}"


def unadapted(run: Settings) -> Settings:
    """The run on the encoder as it is before stage 1, which is there."""
    return replace(run, encoder="base") if isinstance(run, SentimentSettings) and run.encoder == "stage1" else run


def encoder_of(run: Settings) -> tuple[Any, ...]:
    """What makes the encoder that a run of stage 2 reads."""
    return (run.encoder, run.stage1) if isinstance(run, SentimentSettings) and run.encoder == "stage1" else (run.model,)


def distinct(runs: Iterable[Settings], job_of: JobOf) -> Iterator[Settings]:
    """The runs without those that are the same as another one."""
    found: set[str] = set()
    for run in runs:
        key = repr((encoder_of(run), job_of(unadapted(run)).identity.key))
        if key not in found:
            found.add(key)
            yield run


def kind_of(run: Settings) -> tuple[Any, ...]:
    """What makes runs take as long: budget and objective of stage 1; protocol, labels and batches of stage 2."""
    if isinstance(run, MLMSettings):
        return (repr(run.pretraining), repr(run.objective), run.control)
    return (
        type(run.protocol),
        run.labels_per_class,
        *(getattr(run.protocol, what, None) for what in ("epochs", "batch_size")),
    )


@dataclass(frozen=True)
class Estimate:
    """Seconds that a run should take.

    Attributes:
        shared: of them, those that runs on the same encoder and texts take once: its states are kept.
        own: the others.
        source: of the estimate, in words.
    """

    shared: float
    own: float
    source: str


def estimate(make: Callable[[], Job]) -> Estimate:
    """How long the job that is made should take. Nothing of it is kept.

    Two steps are done however long they take, and further ones for `SECONDS`. What is done at the end (exports,
    figures), and the fit of a probe, is not in it.

    Raises:
        UserError: that is not known; with the reason.
    """
    try:
        with isolated(), silent(), TemporaryDirectory() as folder:
            job = make()
            if not job.trains:
                return Estimate(0.0, 0.0, "as nothing is trained")
            if job.budget is not None and job.budget.unit == "seconds":
                return Estimate(0.0, job.budget.amount, "by the budget")
            lightning.seed_everything(job.seed, workers=True, verbose=False)
            return _estimate(job, Path(folder))
    except Exception as error:
        if machine.is_out_of_memory(error):
            raise UserError(
                "memory does not suffice for a step; a smaller batch or data.max_length would do"
            ) from error
        raise


@contextmanager
def silent() -> Iterator[None]:
    """Log nothing below errors: what a run warns of is told when it is done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _estimate(job: Job, folder: Path) -> Estimate:
    """See `estimate`; the job is of no use afterwards."""
    budget, job.budget = job.budget, None
    reads_first = _reads_first(job)
    whole = {split: len(rows) for split, rows in _rows(job).items()}
    labelled = sum(map(len, job.corpus.labelled.values())) if isinstance(job, SentimentJob) else 0
    _take_sample(job, folder, FEW_TEXTS if reads_first else (STEPS + 1) * _texts_a_batch(job))
    share = {split: whole[split] / max(len(rows), 1) for split, rows in _rows(job).items()}
    reading = 0.0
    if isinstance(job, SentimentJob) and reads_first:
        model, texts = job.load()[0], job.texts()
        read = sum(map(len, texts.values()))
        reading = _seconds(job.stored, model, texts) * labelled / read
        if isinstance(job, ProbeJob):
            return Estimate(reading, 0.0, f"from {counted(read, 'text')} that the encoder read")
    stage, data = job.build()
    if isinstance(stage, PoolerTraining) and same_rows_each_epoch(stage.objective.needs.arrangement):
        device, arrangement = job.identity.material["platform"]["device"], stage.objective.needs.arrangement
        reading = _seconds(cls_states, stage.model, data.texts["train"], device, arrangement) * share["train"]
    clock = _timed(job, stage, data, STEPS + 1 if reads_first else 1 + (data.batches_an_epoch == 1))
    a_step = clock.seconds_of_step * (1.0 if reads_first else _work_of_mean_batch(data, len(clock.seconds)))
    batches = max(round((data.batches_an_epoch or 1) * share["train"]), 1)
    epochs, steps = _length(job, budget, batches, clock.tokens_of_step)
    evaluation = clock.evaluation * (share["dev"] * epochs + share.get("test", 0.0))
    return Estimate(reading, steps * a_step + evaluation, f"from {counted(clock.steps, 'timed step')}")


def _reads_first(job: Job) -> bool:
    """Whether the encoder is frozen: for most ways to train it then reads each text once, before training."""
    if isinstance(job, SentimentJob):
        return not isinstance(job.settings.protocol, Finetune)
    return isinstance(job, MLMJob) and job.pooler_only


def _rows(job: Job) -> Mapping[str, Dataset]:
    """The texts of the job by split."""
    if isinstance(job, SentimentJob):
        return {**job.corpus.labelled, "train": job.corpus.labelled["train"].select(job.drawn)}
    assert isinstance(job, MLMJob)
    return job.rows


def _texts_a_batch(job: Job) -> int:
    """Texts of a training batch, at least."""
    if isinstance(job, MLMJob):
        given: Pretraining | TrainedProtocol = job.settings.pretraining
    else:
        assert isinstance(job, SentimentJob)
        assert isinstance(job.settings.protocol, TrainedProtocol)
        given = job.settings.protocol
    return given.batch_size if given.batch_tokens is None else given.batch_tokens // SHORT + 1


def _take_sample(job: Job, folder: Path, texts: int) -> None:
    """Have the job train on some of its texts, evenly spread, and keep what it keeps in a folder."""
    sample = {
        split: rows.select(
            np.unique(np.linspace(0, len(rows) - 1, texts if split == "train" else FEW_TEXTS).astype(int))
        )
        for split, rows in _rows(job).items()
    }
    job.settings = replace(job.settings, cache_dir=folder, workers=0)
    if isinstance(job, SentimentJob):
        job.corpus = replace(job.corpus, labelled=sample)
        job.drawn = np.arange(len(sample["train"]))
    elif isinstance(job, MLMJob):
        job.rows, job.stream = sample, None


def _seconds(do: Callable[..., object], *arguments: Any) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    do(*arguments)
    return time.perf_counter() - began


def _timed(job: Job, stage: Stage, data: TextDataModule, epochs: int) -> Clock:
    """What a clock showed of some steps, and of an evaluation of the sample of dev."""
    machine.fit_threads(work_of_step(stage, data), data.workers)
    clock = Clock()
    arguments = machine.trainer_arguments(job.settings.trainer)
    own = ("limit_train_batches", "limit_val_batches", "val_check_interval", "overfit_batches", *TRAINER_LENGTHS)
    trainer = lightning.Trainer(
        **{key: value for key, value in arguments.items() if key not in own},
        logger=False,
        callbacks=[clock],
        max_epochs=epochs,
        enable_checkpointing=False,
        **choices_of(job),
    )
    trainer.fit(stage, data)
    return clock


def _work_of_mean_batch(data: TextDataModule, steps: int) -> float:
    """How many times as many tokens a batch has as those of the timed ones of so many steps, on average."""
    lengths = data.texts["train"].lengths
    order = data.train_dataloader().sampler
    work = [lengths[[example for _, example in requests]].sum() for requests in order]
    return float(np.mean(work) / np.mean(work[1:steps] or work))


def _length(job: Job, budget: Budget | None, batches: int, tokens: float) -> tuple[float, float]:
    """How many epochs the whole of training has, and how many batches.

    Args:
        job: whose settings say so.
        budget: of stage 1, in steps or tokens; None for epochs.
        batches: of an epoch.
        tokens: of a batch.
    """
    an_epoch = limited_batches(job, batches)
    if budget is None:
        return float(job.epochs), float(job.epochs * an_epoch)
    accumulated = job.settings.trainer.get("accumulate_grad_batches", 1)
    steps = budget.amount * accumulated if budget.unit == "steps" else budget.amount / tokens
    return steps / an_epoch, float(steps)
