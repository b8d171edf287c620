"""The composition root: the only room that sees the config object. From here on all is typed settings.

Nothing heavy is imported before a job starts, so that `--help` and mistakes are quick.
"""

import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as ParsedOverride
from hydra.core.override_parser.types import OverrideType
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from poolwise import machine, ranks
from poolwise import settings as types
from poolwise.command_line import (
    DEFAULT_STAGE,
    Override,
    conf_dir,
    expanded,
    help_page,
    override_in,
    overrides_in,
    problem_with_choice,
    problem_with_launcher,
    problem_with_stage,
    problem_with_sweep,
    stage_of,
    with_paths_quoted,
)
from poolwise.settings import UserError, keys_of, leave, take_all, tell, typed
from poolwise.stages.stopping import BY_PERSON, Stopped, StopSignals
from poolwise.words import without_secrets

if TYPE_CHECKING:
    from poolwise.stages.loop import Job
    from poolwise.stages.sweep import Sweep

log = logging.getLogger(__name__)

COMPOSING_ERRORS = (HydraException, OmegaConfBaseException)
"""What a config that cannot be composed raises."""

MANY_JOBS = 30
"""Of which a sweep says that it looks at them: each takes some tenths of a second."""
ONE_BY_ONE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
"""Hydra's launcher that runs the jobs of a sweep in this process."""

Plain = dict[str, Any]
Kind = TypeVar("Kind")


@dataclass
class CommonSchema:
    """Keys of both stages. What a group holds depends on its choice, and is checked by `checked`."""

    stage: str = MISSING
    seed: Any = MISSING
    runs_dir: str = MISSING
    cache_dir: str = MISSING
    workers: Any = MISSING
    checkpoint_minutes: Any = MISSING
    data: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    retry_failed: Any = MISSING
    stop_on_failure: Any = MISSING


@dataclass
class MLMSchema(CommonSchema):
    """Keys of stage 1."""

    pretraining: dict[str, Any] = MISSING
    objective: dict[str, Any] = MISSING
    control: Any = None


@dataclass
class SentimentSchema(CommonSchema):
    """Keys of stage 2."""

    repr: dict[str, Any] = MISSING
    protocol: dict[str, Any] = MISSING
    labels_per_class: Any = None
    label_seed: Any = MISSING
    head_seed: Any = MISSING
    order_seed: Any = MISSING
    pooler_seed: Any = MISSING
    keep_model: Any = MISSING
    encoder: str = MISSING
    stage1: dict[str, Any] = MISSING


SCHEMAS: dict[str, type[CommonSchema]] = {"mlm": MLMSchema, "sentiment": SentimentSchema}


def register_schemas() -> None:
    """Put the schemas where `conf/stage/*.yaml` look for them."""
    for stage, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{stage}_schema", node=schema)
    OmegaConf.register_new_resolver("default_objective", default_objective, replace=True)
    OmegaConf.register_new_resolver("around", rates_around, replace=True)


def rates_around(rate: float) -> str:
    """A sweep over half, once and twice a learning rate, as typed."""
    return ",".join(f"{factor * rate:g}" for factor in (0.5, 1, 2))


def default_objective(model: str) -> str:
    """The objective that dev chose, the best or not told from it on fresh seeds: experiments/pooler_objectives.

    An encoder from random weights learns nothing of late positions from halves of texts.
    """
    return "bow" if model == "tiny" else "combined"


register_schemas()  # also in a process that a launcher starts, which imports this module and composes its job


def main() -> None:
    """Compose the config from the command line, and train."""
    SweepCheck.sweep = None
    try:
        with StopSignals():
            _main()
    except Stopped as stop:
        if not stop.is_told and ranks.is_first():  # before a run, between two, or while another process is waited for
            print(f"stopped by {stop.by}; the same command goes on, and skips what is finished", flush=True)
        if stop.by_all:
            ranks.wait()  # torchrun ends all processes with the first
        raise
    except KeyboardInterrupt:  # where this is not the main thread
        raise SystemExit(BY_PERSON) from None
    finally:
        sweep, SweepCheck.sweep = SweepCheck.sweep, None
        if sweep:
            sweep.conclude()
    ranks.leave()
    if sweep and sweep.failures:
        raise SystemExit(1)


def _main() -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_page(), end="")
        return
    machine.prepare()
    try:
        sys.argv[1:] = prepared(sys.argv[1:])
    except UserError as error:
        give_up(error)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(run_job)()
    except AllPlanned:
        pass
    except SystemExit:  # of a launcher too: joblib raises where one of its jobs was killed, and ends the others
        if SweepCheck.sweep is None or not SweepCheck.sweep.spread:
            raise
    if SweepCheck.sweep:
        SweepCheck.sweep.carry_out()


def give_up(error: UserError) -> NoReturn:
    """End the program with its messages, which several processes do not all tell."""
    ranks.let_first_speak()
    leave(error)


def prepared(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra takes it: short forms written out, misspelt keys let through to `problems_in`.

    Raises:
        UserError: it asks for two stages, has settings of the other one or choices that there are not; told with all
            else that is wrong.
    """
    stage = stage_of(arguments)
    problems: list[str] = []
    kept: list[str] = []
    for argument in expanded(arguments):
        override = override_in(argument)
        problem = (
            problem_with_stage(override, stage)
            or problem_with_choice(override)
            or problem_with_launcher(override)
            or problem_with_sweep(override, arguments)
            if override
            else None
        )
        problems += [problem] if problem else []
        # Of several choices the first says which other settings are right.
        goes_on = problem is None or (override is not None and problem == problem_with_sweep(override, arguments))
        kept += [with_paths_quoted(override) if override else argument] if goes_on else []
    shows_config = any(re.fullmatch(r"(--cfg|-c)(=?(job|hydra|all))?", argument) for argument in arguments)
    kept = in_order(kept) if shows_config else let_through(in_order(kept))
    if problems:
        raise UserError(*problems, *problems_of_first_job(kept))
    return kept


def in_order(arguments: Sequence[str]) -> list[str]:
    """Flags first: argparse, which Hydra uses, takes no setting after `... -m` if there were some before it."""
    return sorted(arguments, key=lambda argument: argument.startswith("~") or override_in(argument) is not None)


def let_through(arguments: Sequence[str]) -> list[str]:
    """Put Hydra's `++` before keys that do not exist, which Hydra would refuse one at a time and without a hint."""
    choices = tuple(str(override) for override in overrides_in(arguments) if override.is_choice)
    try:
        known = keys_with(choices)
    except COMPOSING_ERRORS:
        return list(arguments)  # Hydra will say what is wrong, in its own words

    def strange(override: Override | None) -> bool:
        return (
            override is not None
            and not (override.prefix or override.is_choice or override.root == "hydra")
            and override.key not in known
        )

    return [f"++{argument}" if strange(override_in(argument)) else argument for argument in arguments]


@cache
def keys_with(choices: tuple[str, ...]) -> set[str]:
    """All keys of the config of the first job with these choices of groups."""
    return keys_of(OmegaConf.to_container(composed(first_job(choices))))


def composed(overrides: Sequence[str]) -> DictConfig:
    """The config of one job."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides))


def jobs_of(overrides: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep, each as its overrides; a command line without choices is one job."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return BasicSweeper.split_arguments(parsed, None)[0]


def sweep_of(overrides: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep (`-m`), over what is swept if nothing is typed of it too, such as seeds."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        swept = hydra.compose("train", overrides=first_job(overrides), return_hydra_config=True).hydra.sweeper.params
    asked = {override.key for override in overrides_in(overrides)}
    return jobs_of([*(f"{key}={value}" for key, value in swept.items() if key not in asked), *overrides])


def settings_of(jobs: Sequence[Sequence[str]]) -> list[types.MLMSettings | types.SentimentSettings]:
    """The settings of each of these jobs, given as its overrides.

    Raises:
        UserError: a setting of one is wrong.
    """
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        configs = Compositions()
        return [typed_settings(configs.of(overrides), overrides) for overrides in jobs]


def first_job(overrides: Sequence[str]) -> list[str]:
    """The first of the jobs of a sweep."""
    return jobs_of(overrides)[0]


@lru_cache(maxsize=4096)  # of a sweep, whose jobs share most of them
def parsed_override(override: str) -> ParsedOverride:
    """As Hydra's grammar reads it."""
    return OverridesParser.create().parse_override(override)


class Compositions:
    """Configs of a sweep's jobs. Hydra takes some tenths of a second for each; of jobs that differ in single values,
    and not in choices, it composes the first one, in which these are then changed as it changes them."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, ...], DictConfig] = {}

    def of(self, overrides: Sequence[str]) -> DictConfig:
        """As `hydra.compose` gives it.

        Raises:
            HydraException: as there.
        """
        parsed = [parsed_override(override) for override in overrides]
        values = [override for override in parsed if is_value(override)]
        others = [override for override in parsed if not is_value(override)]
        unordered = [other.key_or_group for other in others if not is_choice(other)]
        if any(overlap(value.key_or_group, other) for value in values for other in unordered):
            values, others = [], parsed  # of which the last one counts
        alike = (*(value.key_or_group for value in values), *(str(other.input_line) for other in others))
        if alike not in self.made:
            self.made[alike] = hydra.compose("train", overrides=list(overrides))
        config = deepcopy(self.made[alike])
        try:
            for value in values:
                OmegaConf.update(config, value.key_or_group, value.value())
        except OmegaConfBaseException:
            return hydra.compose("train", overrides=list(overrides))  # which says what is wrong with it
        return config


def is_value(override: ParsedOverride) -> bool:
    """Whether an override changes a single value of the job's config, and no choice of a group."""
    typed = override_in(str(override.input_line))
    if typed is None or typed.is_choice or typed.root == "hydra":
        return False
    return override.type == OverrideType.CHANGE and not isinstance(override.value(), dict | list)


def is_choice(override: ParsedOverride) -> bool:
    """Whether an override picks a file of a group, which Hydra does before it changes values, wherever it stands."""
    typed = override_in(str(override.input_line))
    if typed is None or not typed.is_choice or isinstance(override.value(), dict):
        return False
    return override.type in (OverrideType.CHANGE, OverrideType.ADD, OverrideType.FORCE_ADD)


def overlap(key: str, other: str) -> bool:
    """Whether two keys are one, or one is inside the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def problems_of_first_job(arguments: Sequence[str]) -> list[str]:
    """What else is wrong with a command line that has a mistake already; nothing if Hydra refuses it."""
    try:
        typed_settings(composed(first_job([str(override) for override in overrides_in(arguments)])))
    except UserError as error:
        return list(error.messages)
    except COMPOSING_ERRORS:
        pass
    return []


def run_job(cfg: DictConfig) -> None:
    """Do one job; a mistake of the person is one message and exit code 2, or in a sweep a failure of this job.

    Another error is shown here: Hydra would show what it says of passwords too.
    """
    here = HydraConfig.get()
    if here.mode == RunMode.MULTIRUN:
        run_elsewhere(cfg, overrides_typed(here))
    else:
        try:
            job = planned(cfg, overrides_typed(here))
            from poolwise.stages.loop import run  # after the settings were looked at: Lightning takes 4 s to import

            run(job)
        except UserError as error:
            give_up(error)
        except Exception:
            print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
            raise SystemExit(1) from None


def overrides_typed(config: Any) -> list[str]:
    """Hydra's overrides as they were typed: `${seed}` among them is each job's own, not that of the sweep's config."""
    found: list[str] = OmegaConf.to_container(config.overrides.task, resolve=False)  # type: ignore[assignment]
    return found


def run_elsewhere(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Do a job of a sweep in the process that a launcher started for it; the sweep's own reads what came of it."""
    os.environ.setdefault("TTY_COMPATIBLE", "0")  # several lines of progress cannot be drawn in one place
    machine.prepare()  # before torch is loaded, which reads settings of threads then
    from poolwise.stages.sweep import Sweep

    try:
        job = planned(cfg, overrides)
    except UserError as error:  # it was right when the sweep began
        tell(error)
    else:
        own = json.dumps(job.identity.material.get("platform"))
        expected = os.environ.get(PLANNED_ON, own)
        if own == expected:
            Sweep([job], overrides, stop_on_failure=False).do(job)
        else:
            tell(UserError(f"{job.identity.name}: planned for {expected}, and its process has {own}; {SAME_PLATFORM}"))


def planned(cfg: DictConfig, overrides: Sequence[str]) -> "Job":
    """The job of a composed config: its settings are right, what it reads is there, and its folders can be written.

    Args:
        cfg: the composed config.
        overrides: the command line that composed it, for messages.

    Raises:
        UserError: a setting is wrong, or data, encoder or room are missing; all that is wrong is told together.
    """
    with machine.uncollected():  # which import objectives and Lightning
        settings = typed_settings(cfg, overrides)
        if settings.trainer.get("strategy") == "ddp":
            ranks.join(settings.trainer["accelerator"])
        quieten()
    return job_of(settings)


def job_of(settings: types.MLMSettings | types.SentimentSettings) -> "Job":
    """The job of settings that are right.

    Raises:
        UserError: data, encoder or room are missing; all that is wrong is told together.
    """
    with machine.uncollected():
        from poolwise.jobs import FoldsJob, MLMJob, ProbeJob, SentimentJob, check_inputs
    check_inputs(settings)
    if isinstance(settings, types.MLMSettings):
        return MLMJob(settings)
    if isinstance(settings.protocol, types.Probe):
        return ProbeJob(settings) if settings.protocol.folds is None else FoldsJob(settings)
    return SentimentJob(settings)


PLANNED_ON = "POOLWISE_PLANNED_ON"
"""The variable by which a launcher's process learns which device and precision its job was planned for: they are part
of its key."""
SAME_PLATFORM = (
    "give the command where there is such a device as the jobs have, and have the launcher give them one: "
    "hydra.launcher.gpus_per_node=1 of submitit"
)


@cache
def wait_for_all_jobs() -> None:
    """Have submitit's launcher wait for all jobs: by itself it ends at the first one that was killed."""
    from submitit import Job as Submitted
    from submitit.core.utils import UncompletedJobError

    results = Submitted.results

    def results_or_reason(self: "Submitted[Any]") -> list[Any]:
        try:
            return results(self)
        except UncompletedJobError as error:
            print(without_secrets(str(error)), file=sys.stderr, flush=True)
            return [JobReturn(status=JobStatus.COMPLETED)]  # its record says what came of it: see `Sweep.collect`

    Submitted.results = results_or_reason  # type: ignore[method-assign]


class AllPlanned(SystemExit):
    """Ends Hydra's part in a sweep whose jobs this process does: Hydra would compose each job twice more."""


class SweepCheck(Callback):
    """Plans every job of a sweep before the first one starts: mistakes are told once, and nothing has run.

    Attributes:
        sweep: what this process does; None for a single job.
    """

    sweep: ClassVar["Sweep | None"] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this once a sweep; leaves the program with all messages if there are any.

        Raises:
            AllPlanned: no launcher is to do the jobs.
        """
        axes = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()]
        jobs: dict[str, tuple[Job, list[str]]] = {}  # by key: a probe, which draws nothing, is the same with each seed

        configs = Compositions()

        def plan(overrides: list[str]) -> None:
            job = planned(configs.of(overrides), overrides)
            jobs.setdefault(job.identity.key, (job, overrides))

        try:
            asked = jobs_of([*axes, *overrides_typed(config.hydra)])
            if len(asked) >= MANY_JOBS:
                print(f"looking at {len(asked):,} jobs before the first begins", flush=True)
            take_all(partial(plan, overrides) for overrides in asked)
            from poolwise.stages.sweep import Sweep

            shared = set.intersection(*(set(overrides) for _, overrides in jobs.values()))
            for job, overrides in jobs.values():
                job.choices = [word for word in overrides if word not in shared]
            distinct = [job for job, _ in jobs.values()]
            stop, spread = distinct[0].settings.config["stop_on_failure"], config.hydra.launcher._target_ != ONE_BY_ONE
            if stop and spread:
                raise UserError("stop_on_failure=true: the jobs of a launcher run at once; allowed: false")
            sweep = Sweep(distinct, overrides_typed(config.hydra), stop, spread)
            sweep.begin()
            if spread:
                os.environ[PLANNED_ON] = json.dumps(distinct[0].identity.material.get("platform"))
                machine.let_others_choose()
            if "submitit" in config.hydra.launcher._target_:
                wait_for_all_jobs()
        except UserError as error:
            give_up(error)
        except HydraException as error:
            give_up(UserError(str(error)))  # before Hydra makes the sweep's folder
        SweepCheck.sweep = sweep
        if not spread:
            configure_log(config.hydra.job_logging, config.hydra.verbose)
            raise AllPlanned

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Hydra keeps what a job returned to the end of its sweep: 0.12 MiB of config each, which nobody reads."""
        job_return.cfg = job_return.hydra_cfg = None


def quieten() -> None:
    """Have libraries report what a person can act on, and no more."""
    import lightning.pytorch  # noqa: F401  which sets the levels of its loggers
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The run's folder holds its record before Lightning looks at it.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    # Lightning cannot know that the order of texts goes on where it was.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
    # Lightning 2.6 reads its own trees with a class that torch 2.13 renames; nothing is wrong.
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated")
    warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors is in prototype")
    # A launcher of sweeps is not started by srun; trainer=ddp asks for it itself.
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")
    # What is logged of an epoch is that of all processes already.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\(.*sync_dist=True")


def typed_settings(cfg: DictConfig, overrides: Sequence[str] = ()) -> types.MLMSettings | types.SentimentSettings:
    """Check the composed config as a whole and turn it into typed settings; `overrides` made it.

    Raises:
        UserError: all problems found, each with key, value and what is allowed.
    """
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the config is incomplete: {error}") from error
    assert isinstance(config, dict)
    plain: Plain = {str(key): value for key, value in config.items() if key != "experiment"}
    from poolwise.problems import problems_in

    problems = problems_in(plain, [key.name for key in fields(SCHEMAS[plain.get("stage", DEFAULT_STAGE)])])
    if problems:
        raise UserError(*problems)
    told = [str(with_value(override, cfg)) for override in overrides_in(overrides)]
    return _mlm(plain, told) if plain["stage"] == "mlm" else _sentiment(plain, told)


def with_value(override: Override, cfg: DictConfig) -> Override:
    """An override that refers to another setting, such as `stage1.seed=${seed}`, with the value that a job has."""
    if override.is_choice or not re.search(r"\$\\?\{", override.value):  # Hydra's sweeper writes `$\{`
        return override
    value = OmegaConf.select(cfg, override.key)
    return replace(override, value="null" if value is None else str(value))


def _mlm(config: Plain, overrides: Sequence[str]) -> types.MLMSettings:
    return types.MLMSettings(
        **_common(config, overrides),
        pretraining=built(types.Pretraining, config["pretraining"]),
        objective=_objective(config["objective"]),
        control=built(types.CONTROLS[config["control"]["name"]], config["control"]) if config["control"] else None,
    )


def _sentiment(config: Plain, overrides: Sequence[str]) -> types.SentimentSettings:
    stage1 = config["stage1"]
    pretraining = {k: v for k, v in stage1.items() if k not in ("objective", "seed")}
    return types.SentimentSettings(
        **_common(config, overrides),
        representation=_representation(config["repr"]),
        protocol=built(types.PROTOCOLS[config["protocol"]["name"]], config["protocol"]),
        labels_per_class=None if config["labels_per_class"] == types.ALL_LABELS else config["labels_per_class"],
        **{name: config[name] for name in types.STAGE_2_SEEDS},
        keep_model=config["keep_model"],
        encoder=config["encoder"],
        stage1=types.Stage1Choice(
            built(types.Pretraining, pretraining), _objective(stage1["objective"]), stage1["seed"]
        ),
    )


def _common(config: Plain, overrides: Sequence[str]) -> Plain:
    data, model, logger = config["data"], config["model"], config["logger"]
    return {
        "seed": config["seed"],
        "runs_dir": Path(config["runs_dir"]),
        "cache_dir": Path(config["cache_dir"]),
        "workers": config["workers"],
        "checkpoint_minutes": float(config["checkpoint_minutes"]),
        "data": built(types.DATA_SOURCES[data["source"]], data),
        "model": built(types.MODEL_SOURCES[model["source"]], model),
        "logger": built(types.LOGGERS[logger["name"]], logger),
        "trainer": config["trainer"],
        "retry_failed": config["retry_failed"],
        "config": config,
        "overrides": tuple(overrides),
    }


def built(kind: type[Kind], values: Plain) -> Kind:
    """A dataclass from plain, checked values."""
    return kind(**typed(kind, values))


def _representation(values: Plain) -> Plain:
    from poolwise.representations import representation_class

    return typed(representation_class(values["name"]), values)


def _objective(values: Plain) -> Plain:
    from poolwise.objectives import typed_objective

    return typed_objective(values)
