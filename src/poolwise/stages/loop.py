"""The one loop: both stages fit, record and log through it."""

import gc
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from poolwise import machine, ranks
from poolwise.data.module import TextDataModule
from poolwise.data.tokens import TokenisedTexts, truncation
from poolwise.durable import DISK_FULL
from poolwise.process import global_settings_restored
from poolwise.runs import RECORD_FILE, STUDY, RunIdentity, RunRecord, claimed, count_as_run, finished, read_record
from poolwise.settings import Budget, CommonSettings, Optimisation, OutOfMemoryError, UserError, WandbLogging
from poolwise.stages import resume
from poolwise.stages.resume import BEST_CHECKPOINT, CheckedFiles, Checkpoints
from poolwise.stages.screen import TrainingScreen, show
from poolwise.stages.stage import Stage, fuses_optimiser
from poolwise.stages.stopping import Stopped, StopSignals
from poolwise.tracking import log_mistakes, loggers
from poolwise.words import counted, duration, first_line, roughly, some

log = logging.getLogger(__name__)

OWN_TRAINER_ARGUMENTS = (
    "logger callbacks max_epochs default_root_dir enable_checkpointing gradient_clip_val num_sanity_val_steps "
    "use_distributed_sampler enable_model_summary enable_progress_bar num_nodes fast_dev_run"
).split()
"""Arguments of `lightning.Trainer` that this loop sets itself: from settings of its own, or to train on one device."""
GROUPS = {"mlm": "pretraining", "sentiment": "protocol"}
"""Where the material of a stage's key says how long it trains."""
TRUNCATED_SHARE = 0.1
"""Of training texts that are cut, from which on a run warns."""


@dataclass(frozen=True)
class Output:
    """Where a run says what it does and what came of it.

    Attributes:
        record: of this run.
        loggers: where figures go.
        screen: shows training.
        checkpoints: writes them, and goes on from one.
        announce: shows facts on what is about to be done; finds them where the jobs before have not shown them.
    """

    record: RunRecord
    loggers: list[Any]
    screen: TrainingScreen
    checkpoints: Checkpoints
    announce: Callable[[Callable[[], dict[str, str]]], None]


class Job(ABC):
    """One run of one stage: its identity, its parts, and what is done when it is trained.

    Attributes:
        identity: names and key.
        settings: the typed settings of the run.
        epochs: how often training passes over the data.
        budget: the length of training in place of `epochs`; None where these say it.
        trains: whether anything is trained; if not, it is evaluated and concluded all the same.
        optimisation: of the optimiser; its clipping norm is the trainer's.
        selection_metric: the dev metric whose highest value picks the checkpoint; None keeps the last step.
        patience: after how many epochs without a higher one training ends; None for never.
        task: what is trained, in words, for the screen.
        headline: the metrics to show at the end.
        data_report: figures of its data, for the record.
        data_warnings: what a person should know of the data, a sentence each.
        choices: what tells it from the other jobs of its sweep, as typed.
    """

    identity: RunIdentity
    settings: CommonSettings
    epochs: int
    budget: Budget | None = None
    trains: bool = True
    optimisation: Optimisation
    selection_metric: str | None = None
    patience: int | None = None
    task: str
    headline: tuple[str, ...]
    data_report: Mapping[str, Any] = MappingProxyType({})
    data_warnings: Sequence[str] = ()
    choices: Sequence[str] = ()

    @abstractmethod
    def build(self) -> tuple[Stage, TextDataModule]:
        """The module to train, and its data. Called after the seed is set."""

    def can_show(self, sweep: Sequence["Job"]) -> str | None:
        """The smallest difference that a sweep of such jobs can show, in words; None where nothing is compared."""
        return None

    @abstractmethod
    def conclude(self, trainer: lightning.Trainer, stage: Stage, data: TextDataModule, record: RunRecord) -> None:
        """Evaluate, export, and fill in the record."""

    def carry_out(self, output: Output) -> None:
        """Do the work and fill in the record: with Lightning, unless a subclass has a way of its own."""
        stage, data = self.build()
        machine.fit_threads(work_of_step(stage, data), data.workers)
        trainer = make_trainer(self, output, batches_an_epoch(self, data))
        if trainer.strategy.root_device.type == "cuda" and machine.compiling_pays(work_of_training(self, stage, data)):
            stage.compile_layers()
        self.check_shares(data)
        speed = speed_of(self, trainer, stage)
        output.record.results["speed"] = speed
        output.announce(lambda: start_facts(self, trainer, data) | {"speed": speed_in_words(speed)})
        self.note_truncation(output.record, data.texts)
        if self.trains:
            try:
                trainer.fit(stage, data, ckpt_path=output.checkpoints.path, weights_only=True)
            finally:
                speed["compiles_layers"] = stage.compiles_layers  # false where it was tried and failed
        else:
            trainer.validate(stage, data, verbose=False)
            stage.on_train_end()
        record = output.record
        record.results["metrics"] = plain(trainer.callback_metrics)
        record.results |= {"processes": ranks.size()} if ranks.size() > 1 else {}
        record.results["threads"] = torch.get_num_threads()
        record.results["steps"] = trainer.global_step
        record.results["tokens"] = stage.tokens
        record.results["training_seconds"] = round(stage.seconds, 3)
        record.results["tokens_per_second"] = round(stage.throughput, 1)
        self.conclude(trainer, stage, data, record)

    def check_shares(self, data: TextDataModule) -> None:
        """Raise a UserError unless each split has a text for each process."""
        for split, texts in data.texts.items():
            if len(texts) < ranks.size():
                raise UserError(f"{split} has {counted(len(texts), 'text')} for {ranks.size()} processes; start fewer")

    def note_truncation(self, record: RunRecord, texts: Mapping[str, TokenisedTexts]) -> None:
        """Note the share of each split's texts that are cut, and warn once where it is large."""
        shares = truncation(texts, self.settings.data.max_length)
        record.results["data_report"] = {**self.data_report, "truncated": shares}
        if shares["train"] >= TRUNCATED_SHARE:
            length = self.settings.data.max_length
            warn_once(
                f"{shares['train']:.0%} of the training texts are cut to data.max_length={length} word pieces "
                f"(data.long_texts={self.settings.data.long_texts})"
            )

    def mistakes(self) -> list[list[str]]:
        """Dev texts that the run got wrong, each with its label and the run's answer; of stage 2, when it is done."""
        return []

    @abstractmethod
    def kept_bytes(self) -> int:
        """About how many bytes of weights the run leaves on disk."""

    @property
    @abstractmethod
    def next_steps(self) -> dict[str, str]:
        """Where what is made lies, and the command that comes next, for the screen at the end."""

    def next_steps_of(self, sweep: Sequence["Job"], overrides: Sequence[str]) -> dict[str, str]:
        """The same for a sweep that this job is the first of, which these overrides asked for."""
        return self.next_steps

    def further_facts(self, results: Mapping[str, Any]) -> dict[str, str]:
        """What else of the results of a record to show at its end."""
        return {}

    @property
    def seed(self) -> int:
        """Of the global generators."""
        return self.settings.seed

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.identity.folder(self.settings.runs_dir)


class FailedBeforeError(UserError):
    """A run failed before, and is left as it is."""


def run(job: Job, sweep: Sequence[Job] = (), wait: bool = True) -> None:
    """Do a job, unless this very run is finished; leave a record of it whatever happens.

    Args:
        job: what to do.
        sweep: the jobs of the sweep that it is one of; empty for a single job.
        wait: whether to wait for another process that does this very run.

    Raises:
        FailedBeforeError: this very run failed, and `retry_failed` is false.
        HeldElsewhereError: another process does it, and `wait` is false.
        Stopped: the person or the system stopped it.
        UserError: the disk is full.
    """
    number = [other.identity.key for other in sweep].index(job.identity.key) + 1 if sweep else 0
    place = f"job {number} of {len(sweep)}: " if sweep else ""

    def is_finished() -> bool:
        return ranks.first_decides(lambda: tell_finished(job, place, bool(sweep)))

    check_same(job)
    if not is_finished():
        machine.check_room(job.settings.runs_dir, job.kept_bytes())
        with ExitStack() as held:
            ranks.first_decides(lambda: held.enter_context(claimed(job.folder, job.settings.runs_dir, wait)))
            if not is_finished():  # by now, by another process
                ranks.first_decides(lambda: check_retried(job))
                _do(job, place, sweep, number)


def check_same(job: Job) -> None:
    """Raise a UserError unless all processes of a training are about to do the same run."""
    keys = ranks.of_each(job.identity.key)
    if len(set(keys)) > 1:
        raise UserError(
            f"{job.identity.name}: the processes do not read the same settings, texts or weights; are the files and "
            "libraries of all machines the same?"
        )


def _do(job: Job, place: str, sweep: Sequence[Job], number: int) -> None:
    try:
        results = train(job, place, sweep[number:], first=number <= 1)
    except Stopped as stop:
        kept = (job.folder / resume.CHECKPOINT).exists()
        does = "goes on where it was stopped" if kept else "starts this run anew"
        if finished(job.identity, job.settings.runs_dir):  # while W&B took it in
            does = "finds this run finished"
        show(f"stopped by {stop.by}; the same command {does}, and skips what is finished", {})
        stop.is_told = True
        raise
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"{job.identity.name}: the disk of {job.folder} is full; make room, and give the same command again"
        ) from error
    if ranks.is_first():
        resume.remove(job.folder)
        show_end(f"finished in {duration(results['wall_seconds'])}", job, results, bool(sweep))


def tell_finished(job: Job, place: str, in_sweep: bool) -> bool:
    """Whether this very run has been done; shows what came of it."""
    if not finished(job.identity, job.settings.runs_dir):
        return False
    if STUDY not in job.identity.flat:
        count_as_run(job.folder)
    resume.remove(job.folder)
    show_end(f"{place}{job.identity.name} is finished", job, read_record(job.folder) or {}, in_sweep)
    return True


def check_retried(job: Job) -> None:
    """Raise a FailedBeforeError if this very run failed and failed ones are to be left."""
    record = read_record(job.folder)
    if not job.settings.retry_failed and record and (record["key"], record["status"]) == (job.identity.key, "failed"):
        raise FailedBeforeError(f"failed before ({record.get('error')}); retry_failed=true runs it anew")


def train(job: Job, place: str, later: Sequence[Job], first: bool) -> dict[str, Any]:
    """Train and conclude a job; returns the results of its record.

    Args:
        job: what to do.
        place: what to show before its name.
        later: the jobs of its sweep that come after it.
        first: whether to show all facts of it, or only what is not shared with the jobs before it.
    """
    settings, folder = job.settings, job.folder
    with isolated(), RunRecord(job.identity, folder, settings.config) as record, StopSignals() as signals:
        checkpoints = Checkpoints(record, settings.checkpoint_minutes, signals)
        with loggers(settings.logger, record, settings.runs_dir) as run_loggers:
            lightning.seed_everything(job.seed, workers=True, verbose=False)

            def announce_start(facts: Callable[[], dict[str, str]]) -> None:
                shown = (facts() if first else {"train": job.task}) | checkpoints.facts
                show(f"{place}{job.identity.name}", shown, {"into": str(folder)})
                for warning in job.data_warnings:
                    warn_once(f"data={settings.data.name}: {warning}")

            screen = TrainingScreen(lambda: len(to_do(later)))
            try:
                job.carry_out(Output(record, run_loggers, screen, checkpoints, announce_start))
            except Exception as error:
                if machine.is_out_of_memory(error):
                    raise OutOfMemoryError(out_of_memory(job, screen.batch_shape, error)) from error
                raise
            if isinstance(settings.logger, WandbLogging) and settings.logger.upload_texts and ranks.is_first():
                log_mistakes(run_loggers, job.mistakes())
    return record.results


def out_of_memory(job: Job, shape: tuple[int, ...] | None, error: Exception) -> str:
    """At which batch memory did not suffice, and which settings to lower.

    Args:
        job: whose run it was.
        shape: (B, T) of the batch; None where none had been begun.
        error: says how much was asked for.
    """
    group = GROUPS[job.identity.stage]
    given: Mapping[str, Any] = job.settings.config[group]
    texts = next((key for key in ("batch_tokens", "batch_size") if given.get(key)), None)
    lower = [f"{group}.{texts}={given[texts]}"] if texts else []
    lower.append(f"data.max_length={job.settings.data.max_length}")
    where = "" if shape is None else f" at a batch of {counted(shape[0], 'text')} by {counted(shape[1], 'token')}"
    keep = "; +trainer.accumulate_grad_batches=2 trains on two smaller batches a step" if texts else ""
    return f"out of memory{where}; lower {' or '.join(lower)}{keep} ({first_line(error) or 'no amount was told'})"


@cache
def warn_once(message: str) -> None:
    """Warn; the later jobs of a sweep say it no more."""
    log.warning("WARNING: %s", message)


def work_of_step(stage: Stage, data: TextDataModule) -> float:
    """About how many floating-point operations a training step takes: six for each parameter and token.

    Two forward and four backward (Kaplan et al. 2020, section 2.1), embeddings left out, as their rows are looked up.
    The last layer counts whole, though it may be computed in part.
    """
    weights = sum(weight.numel() for name, weight in stage.named_parameters() if "embeddings" not in name)
    return 6.0 * weights * tokens_of_step(data)


def tokens_of_step(data: TextDataModule) -> float:
    """About how many real tokens a training step has."""
    return float(data.batch_tokens or data.batch_size * data.texts["train"].lengths.mean())


def work_of_training(job: Job, stage: Stage, data: TextDataModule) -> float:
    """About how many floating-point operations training takes in a process; that of seconds on a fast GPU."""
    work = work_of_step(stage, data) / ranks.size()
    if job.budget is None:
        return work * job.epochs * (batches_an_epoch(job, data) or 0)
    if job.budget.unit == "seconds":
        return job.budget.amount * machine.OPERATIONS_A_SECOND
    return work * job.budget.amount / (tokens_of_step(data) if job.budget.unit == "tokens" else 1)


def batches_an_epoch(job: Job, data: TextDataModule) -> int | None:
    """How many training batches an epoch has, with the limit that a person may have set; None where not known."""
    batches = data.batches_an_epoch
    return None if batches is None else limited_batches(job, batches)


def limited_batches(job: Job, batches: int) -> int:
    """How many of the batches an epoch trains on, by the limit that a person may have set as Lightning reads it."""
    limit = job.settings.trainer.get("limit_train_batches")
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def to_do(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that are not finished yet."""
    return [job for job in jobs if not finished(job.identity, job.settings.runs_dir)]


def start_facts(job: Job, trainer: lightning.Trainer, data: TextDataModule) -> dict[str, str]:
    """What is trained on what, and for how long."""
    device = trainer.strategy.root_device
    others = "; ".join(f"{split} {len(texts):,}" for split, texts in data.texts.items() if split != "train")
    threads = f", {counted(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    threads += f" in each of {ranks.size()} processes" if ranks.size() > 1 else ""
    return {
        "train": job.task,
        "on": f"{job.settings.data.name}: {data.all_of_train}; {others}",
        "for": f"{length_in_words(job, data)}; {trainer.precision} on {device}{threads}",
        "time": time_in_words(job, 1),
    }


def speed_of(job: Job, trainer: lightning.Trainer, stage: Stage) -> dict[str, Any]:
    """What was chosen for speed, by the machine and by what is trained (see `machine.choices`)."""
    device = trainer.strategy.root_device.type
    return {
        **machine.choices(job.settings.trainer, device, str(trainer.precision)),
        "leaves_out_padding": stage.leaves_out_padding,
        "compiles_layers": stage.compiles_layers,
        "fuses_optimiser": fuses_optimiser(trainer.precision),
        "quick_dropout": device == "cpu",
    }


def speed_in_words(speed: Mapping[str, Any]) -> str:
    """What was chosen for speed, less what another line tells: precision and threads."""
    gain = speed.get("bf16_gain")
    words = [] if gain is None else [f"bf16 multiplies {gain:.1f} times as fast as fp32"]
    words += [f"{name}={value}" for name, value in speed["waiting_threads"].items()]
    kept = {
        "leaves_out_padding": "no padding",
        "compiles_layers": "compiled layers",
        "fuses_optimiser": "fused optimiser",
        "quick_dropout": "quick dropout",
        "keeps_memory": "memory is kept",
    }
    return ", ".join(words + [said for name, said in kept.items() if speed[name]])


def length_in_words(job: Job, data: TextDataModule) -> str:
    """How long training is."""
    batches = batches_an_epoch(job, data)
    if not job.trains:
        return "no step, only what is measured"
    of_time = " of training" if job.budget is not None and job.budget.unit == "seconds" else ""
    if batches is None:
        assert job.budget is not None
        return f"{job.budget.in_words()}{of_time}, in steps of {data.a_batch}"
    if job.budget is None:
        return f"{counted(job.epochs, 'epoch')}, {counted(batches * job.epochs, 'step')} of {data.a_batch}"
    return f"{job.budget.in_words()}{of_time}; an epoch has {counted(batches, 'step')} of {data.a_batch}"


def time_in_words(job: Job, jobs: int) -> str:
    """How long jobs like this one should take: by a budget of time, or by earlier runs of this kind and length."""
    if not job.trains:
        return "that of reading dev"
    if job.budget is not None and job.budget.unit == "seconds":
        return f"{roughly(jobs * job.budget.amount)} by the budget, and what is measured beside it"
    stage = job.identity.stage
    return earlier_time_in_words(job.settings, stage, length_of(job.identity.material[GROUPS[stage]]), jobs)


def earlier_time_in_words(settings: CommonSettings, stage: str, length: Sequence[Any], jobs: int) -> str:
    """How long jobs took that were of this stage and length, on this data and model."""
    seconds = [
        record["wall_seconds"]
        for folder in (settings.runs_dir / stage).glob("*")
        if (record := read_record(folder)) is not None
        and record["status"] == "finished"
        and {"config", "material", "wall_seconds"} <= record.keys()
        and record.get("steps") != 0
        and all(record["config"][key] == settings.config[key] for key in ("data", "model"))
        and length_of(record["material"][GROUPS[stage]]) == length
    ]
    if not seconds:
        return "told after the first steps"
    return f"{roughly(jobs * median(seconds))}, by {counted(len(seconds), 'earlier run')} on this data"


def length_of(material: Mapping[str, Any]) -> list[Any]:
    """What of the settings of a stage, as in the material of its key, says how long it takes."""
    return [material.get(key) for key in ("epochs", "budget", "trainable", "folds")]


def show_end(title: str, job: Job, results: Mapping[str, Any], in_sweep: bool) -> None:
    """Show the main figures of a run, where everything lies, and what to do next."""
    places = {"record": str(job.folder / RECORD_FILE)}
    logged = results.get("wandb")
    if logged:
        places["W&B"] = logged["url"] or f"offline; to upload: wandb sync {logged['folder']}"
    figures = in_words(results["metrics"], job.headline)
    show(f"{title}: {figures}", job.further_facts(results), {} if in_sweep else places | job.next_steps)


def announce(sweep: Sequence[Job]) -> None:
    """Say what a sweep is about to do, and the smallest difference that it can show.

    Raises:
        UserError: the disk has no room for what all of its jobs leave behind.
    """
    left = to_do(sweep)
    machine.check_room(sweep[0].settings.runs_dir, sum(job.kept_bytes() for job in left))
    axes: dict[str, dict[str, None]] = {}
    for choice in (choice for job in sweep for choice in job.choices):
        key, _, value = choice.partition("=")
        axes.setdefault(key, {})[value] = None
    facts = {key: some(values, 12) for key, values in axes.items()}
    facts["to do"] = f"{len(left)}; finished before: {len(sweep) - len(left)}"
    if left:
        facts["time"] = time_in_words(left[0], len(left))
    if shown := sweep[0].can_show(sweep):
        facts["can show"] = shown
    show(f"sweep of {counted(len(sweep), 'job')}", facts)


def summarise(sweep: Sequence[Job], next_steps: dict[str, str], before: int, failures: Mapping[str, str]) -> None:
    """Say how a sweep ended: figures of each condition, what failed and why, and what to do next.

    Args:
        sweep: its jobs.
        next_steps: what to do if all of them are finished.
        before: how many of them were finished when it began.
        failures: why those failed that did, by the name of the run's folder.
    """
    records = {job.folder.name: read_record(job.folder) or {"status": "not started"} for job in sweep}
    conditions: dict[str, list[dict[str, float]]] = {}
    missing: dict[str, str] = {}
    for job, (name, record) in zip(sweep, records.items(), strict=True):
        if name in failures:
            missing[name] = f"failed: {failures[name]}"
        elif record["status"] == "finished":
            settings = [choice for choice in job.choices if not choice.partition("=")[0].endswith("seed")]
            conditions.setdefault(" ".join(settings) or job.identity.condition, []).append(record["metrics"])
        else:
            missing[name] = str(record["status"])
    facts = {name: mean_in_words(metrics, sweep[0].headline) for name, metrics in conditions.items()}
    places = {"records": f"{sweep[0].folder.parent}/*/{RECORD_FILE}"}
    if any(record.get("wandb", {}).get("mode") == "offline" for record in records.values()):
        places["W&B"] = f"offline; to upload: wandb sync {sweep[0].settings.runs_dir}/wandb/offline-run-*"
    if missing:
        next_steps = {"next": "the same command again: it skips what is finished"}
    counts = [f"{len(sweep) - len(missing)} of {counted(len(sweep), 'job')} finished", f"{before} of them before"]
    counts += [f"{len(failures)} failed"] if failures else []
    show(f"sweep: {', '.join(counts)}", facts | missing, places | next_steps)


def choices_of(job: Job) -> dict[str, Any]:
    """The project's own arguments of Lightning's Trainer, wherever a job's steps are done."""
    return {
        "gradient_clip_val": job.optimisation.gradient_clip_norm,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
    }


def make_trainer(job: Job, output: Output, steps_per_epoch: int | None) -> lightning.Trainer:
    """Lightning's Trainer with the project's own arguments and those of `trainer.*`; logs at least once an epoch."""
    arguments = machine.trainer_arguments(job.settings.trainer)
    budget = job.budget
    steps = [arguments["log_every_n_steps"]]
    steps += [int(budget.amount)] if budget and budget.unit == "steps" else []
    steps += [] if steps_per_epoch is None else [steps_per_epoch]
    arguments["log_every_n_steps"] = min(steps)
    callbacks: list[lightning.Callback] = [output.screen, output.checkpoints]
    if job.selection_metric is not None:
        callbacks.append(best_checkpoint(job.folder, job.selection_metric))
        if job.patience is not None:
            callbacks.append(EarlyStopping(job.selection_metric, patience=job.patience, mode="max"))
    trainer = lightning.Trainer(
        **arguments,
        logger=output.loggers,
        callbacks=callbacks,
        max_epochs=job.epochs if budget is None else -1,  # the stage ends it
        default_root_dir=job.folder,
        enable_checkpointing=job.selection_metric is not None,
        **choices_of(job),
    )
    trainer.strategy.checkpoint_io = CheckedFiles()
    return trainer


def best_checkpoint(folder: Path, metric: str) -> ModelCheckpoint:
    """Keep the weights of the epoch in which `metric` is highest, the earlier one of equals."""
    return ModelCheckpoint(
        dirpath=folder,
        filename=Path(BEST_CHECKPOINT).stem,
        monitor=metric,
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )


def plain(metrics: dict[str, torch.Tensor]) -> dict[str, float]:
    """Metrics as numbers that JSON can hold."""
    return {name: float(value) for name, value in metrics.items()}


def in_words(metrics: Mapping[str, float], names: Iterable[str]) -> str:
    """The named figures that there are, on one line."""
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)


def mean_in_words(runs: Sequence[Mapping[str, float]], names: Iterable[str]) -> str:
    """The named figures that there are, over runs that differ in seeds: `dev/macro_f1 0.9012 ± 0.0031`, sd by n - 1."""
    words = []
    for name in names:
        found = [run[name] for run in runs if name in run]
        if not found:
            continue
        values = torch.tensor(found, dtype=torch.float64)
        spread = f" ± {float(values.std()):.4f}" if len(values) > 1 else ""
        words.append(f"{name} {float(values.mean()):.4f}{spread}")
    return ", ".join(words) + f" ({counted(len(runs), 'run')})"


@contextmanager
def isolated() -> Iterator[None]:
    """Give memory and every setting of the process back at the end of a job: those of a sweep share a process."""
    set_libraries_aside()
    gc.collect()  # what a job that failed left: its error held it until now
    with warnings.catch_warnings(), global_settings_restored():
        machine.keep_to_quota()
        try:
            yield
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


@cache
def set_libraries_aside() -> None:
    """Have the collector skip what was made up to here: the libraries' million objects cost it 0.2 s a job."""
    gc.collect()
    gc.freeze()
