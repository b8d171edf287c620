"""The composition root: the only room that sees the config object. From here on all is typed settings.

Nothing heavy is imported before a job starts, so that `--help` and mistakes are quick.
"""

import inspect
import json
import logging
import re
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from poolwise import machine
from poolwise import settings as types
from poolwise.settings import UserError, problems_with, typed, unknown_key

if TYPE_CHECKING:
    from poolwise.stages.loop import Job

log = logging.getLogger(__name__)

Plain = dict[str, Any]
Kind = TypeVar("Kind")


@dataclass
class CommonSchema:
    """Keys of both stages. What a group holds depends on its choice, and is checked by `checked`."""

    stage: str = MISSING
    seed: int = MISSING
    runs_dir: str = MISSING
    cache_dir: str = MISSING
    workers: int = MISSING
    data: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING


@dataclass
class MLMSchema(CommonSchema):
    """Keys of stage 1."""

    pretraining: dict[str, Any] = MISSING
    objective: dict[str, Any] = MISSING


@dataclass
class SentimentSchema(CommonSchema):
    """Keys of stage 2."""

    repr: dict[str, Any] = MISSING
    protocol: dict[str, Any] = MISSING
    encoder: str = MISSING
    stage1: dict[str, Any] = MISSING


SCHEMAS: dict[str, type[CommonSchema]] = {"mlm": MLMSchema, "sentiment": SentimentSchema}


def register_schemas() -> None:
    """Put the schemas where `conf/stage/*.yaml` look for them."""
    for stage, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{stage}_schema", node=schema)


def conf_dir() -> str:
    """The folder of the config: the checkout's, or the one inside an installed package."""
    here = Path(__file__).resolve().parent
    checkout = here.parents[1] / "conf"
    return str(checkout if checkout.is_dir() else here / "conf")


def main() -> None:
    """Compose the config from the command line, and train."""
    machine.prepare()
    try:
        sys.argv[1:] = prepared(sys.argv[1:])
    except UserError as error:
        leave(error)
    register_schemas()
    hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")(run_job)()


def prepared(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra takes it: `model=FOLDER` becomes `model=pretrained` with that path.

    `trainable=` is short for that setting of stage 1, by its name in the stage that is run.

    `encoder=FOLDER` without `model=` brings the model that the folder is of: its learning rates must fit.

    Raises:
        UserError: more than one stage is asked for: the two have settings and seeds of their own.
    """
    found: list[str] = []
    names_model = any(argument.startswith("model=") for argument in arguments)
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "stage" and "," in value:
            raise UserError(f"{argument}: one stage at a time; run stage=mlm first, then stage=sentiment")
        if key == "model" and _is_place(value):
            found += _pretrained(value)
            continue
        if key == "trainable":
            argument = f"{'pretraining' if 'stage=mlm' in arguments else 'stage1'}.{argument}"
        found.append(argument)
        if key == "encoder" and Path(value).is_dir() and not names_model:
            found += _model_of(Path(value))
    return found


def _pretrained(place: str) -> list[str]:
    return ["model=pretrained", f"model.path='{place}'", f"model.name='{Path(place).resolve().name}'"]


def _model_of(folder: Path) -> list[str]:
    """The model that an encoder's folder is of, for names and learning rates: as stage 1 noted, else itself."""
    provenance = folder / "provenance.json"
    name = json.loads(provenance.read_text())["model"] if provenance.is_file() else None
    known = name is not None and Path(conf_dir(), "model", f"{name}.yaml").is_file()
    return [f"model={name}"] if known else _pretrained(str(folder))


def _is_place(model: str) -> bool:
    """Whether a model is given by folder or hub name: by a path, and not by choices of the group."""
    choices = {file.stem for file in Path(conf_dir(), "model").glob("*.yaml")}
    return "," not in model and model not in choices and ("/" in model or Path(model).is_dir())


def run_job(cfg: DictConfig) -> None:
    """Do one job; a mistake of the person is one message and exit code 2."""
    from poolwise.stages.loop import run

    try:
        run(planned(cfg, HydraConfig.get().overrides.task))
    except UserError as error:
        leave(error)


def planned(cfg: DictConfig, overrides: Sequence[str]) -> "Job":
    """The job of a composed config: its settings are right, and what it reads is there.

    Args:
        cfg: the composed config.
        overrides: the command line that composed it, for messages.

    Raises:
        UserError: a setting is wrong, or data or encoder are missing.
    """
    settings = typed_settings(cfg, overrides)
    quieten()
    from poolwise.jobs import MLMJob, SentimentJob

    return MLMJob(settings) if isinstance(settings, types.MLMSettings) else SentimentJob(settings)


class SweepCheck(Callback):
    """Plans every job of a sweep before the first one starts: mistakes are told once, and nothing has run."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls this once a sweep; leaves the program with all messages if there are any."""
        axes = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()]
        parsed = OverridesParser.create().parse_overrides([*axes, *config.hydra.overrides.task])
        messages: dict[str, None] = {}
        for overrides in BasicSweeper.split_arguments(parsed, None)[0]:
            try:
                planned(hydra.compose("train", overrides=overrides), overrides)
            except UserError as error:
                messages[str(error)] = None
        if messages:
            leave(UserError("\n".join(messages)))


def leave(error: UserError) -> None:
    """Show the message and end the program."""
    print(f"poolwise: {error}", file=sys.stderr)
    raise SystemExit(2)


def quieten() -> None:
    """Have libraries report what a person can act on, and no more."""
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The run's folder holds its record before Lightning looks at it.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    # Lightning 2.6 reads its own trees with a class that torch 2.13 renames; nothing is wrong.
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated")


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
    problems = problems_in(plain)
    if problems:
        raise UserError("\n  ".join(["the config has mistakes:", *problems]))
    return _mlm(plain) if plain["stage"] == "mlm" else _sentiment(plain, overrides)


def problems_in(config: Plain) -> list[str]:
    """All that is wrong with a composed config, one line each."""
    schema = SCHEMAS[config["stage"]]
    allowed = [field.name for field in fields(schema)]
    found = [unknown_key(key, allowed) for key in config if key not in allowed]
    common = {"seed": types.Seed, "workers": types.NonNegativeCount}
    for key, hint in common.items():
        found += types.problems_with_value(hint, config[key], key)
    found += problems_in_group(config["data"], "source", types.DATA_SOURCES, "data.")
    found += problems_in_group(config["model"], "source", types.MODEL_SOURCES, "model.")
    found += problems_in_group(config["logger"], "name", types.LOGGERS, "logger.")
    found += problems_in_trainer(config["trainer"])
    found += problems_between(config)
    if config["stage"] == "mlm":
        found += problems_with(types.Pretraining, config["pretraining"], "pretraining.")
        found += problems_in_objective(config["objective"], "objective.")
    else:
        found += problems_in_group(config["protocol"], "name", types.PROTOCOLS, "protocol.")
        found += problems_in_representation(config["repr"])
        found += problems_in_stage1(config["stage1"])
    return found


def problems_between(config: Plain) -> list[str]:
    """Check what settings of right types must satisfy together."""
    found = []
    model = config["model"]
    hidden, heads = model.get("hidden_size"), model.get("attention_heads")
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 and hidden % heads:
        found.append(f"model.hidden_size={hidden}: must be a multiple of model.attention_heads={heads}")
    where, stage1 = ("pretraining", config["pretraining"]) if config["stage"] == "mlm" else ("stage1", config["stage1"])
    masking = stage1.get("masking")
    masking = masking if isinstance(masking, dict) else {}
    shares = [masking.get(name) for name in ("mask_token_share", "random_token_share")]
    numbers = [share for share in shares if isinstance(share, int | float)]
    if sum(numbers) > 1:
        found.append(f"{where}.masking: mask_token_share + random_token_share={sum(numbers):g}: must be at most 1")
    if stage1.get("trainable") == "pooler":
        objective = config["objective"] if config["stage"] == "mlm" else stage1.get("objective", {})
        if objective.get("name") == "none":
            found.append(f"{where}.trainable='pooler': objective=none trains no pooler; choose another, such as bow")
        if model.get("source") == "scratch":
            found.append(
                f"{where}.trainable='pooler': model={model.get('name')} is drawn at random, and freezing that teaches "
                "nothing; give a checkpoint, as model=FOLDER"
            )
    if config["logger"].get("name") == "tensorboard" and find_spec("tensorboard") is None:
        found.append("logger.name='tensorboard': needs the package; pip install 'poolwise[tensorboard]'")
    return found


def problems_in_group(group: Plain, chooser: str, kinds: Mapping[str, type], where: str) -> list[str]:
    """Check a group whose key `chooser` names the class that takes its values."""
    choice = group.get(chooser, "")
    if choice not in kinds:
        return [f"{where}{chooser}={choice!r}: must be one of {', '.join(kinds)}"]
    return problems_with(kinds[choice], group, where)


def problems_in_objective(objective: Plain, where: str) -> list[str]:
    """Check an objective against the keyword-only arguments of its class."""
    from poolwise.objectives import OBJECTIVES

    return _problems_in_class(objective, OBJECTIVES, where)


def problems_in_representation(representation: Plain) -> list[str]:
    """Check a representation against the keyword-only arguments of its class."""
    from poolwise.representations import REPRESENTATIONS

    return _problems_in_class(representation, REPRESENTATIONS, "repr.")


def _problems_in_class(group: Plain, kinds: Mapping[str, type], where: str) -> list[str]:
    name = group.get("name", "")
    if name not in kinds:
        return [f"{where}name={name!r}: must be one of {', '.join(kinds)}"]
    return problems_with(kinds[name], {k: v for k, v in group.items() if k != "name"}, where)


def problems_in_stage1(stage1: Plain) -> list[str]:
    """Check stage 2's subtree `stage1`: the settings of stage 1, its objective and its seed."""
    pretraining = {k: v for k, v in stage1.items() if k not in ("objective", "seed")}
    return [
        *problems_with(types.Pretraining, pretraining, "stage1."),
        *problems_in_objective(stage1["objective"], "stage1.objective."),
        *types.problems_with_value(types.Seed, stage1["seed"], "stage1.seed"),
    ]


def problems_in_trainer(trainer: Plain) -> list[str]:
    """Check `trainer.*` against the signature of `lightning.Trainer`."""
    import lightning

    from poolwise.stages.loop import OWN_TRAINER_ARGUMENTS

    allowed = set(inspect.signature(lightning.Trainer).parameters) - set(OWN_TRAINER_ARGUMENTS)
    devices = trainer.get("devices")
    found = (
        []
        if devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
        else [f"trainer.devices={devices!r}: must be 1, or a list of one device such as [0]"]
    )
    return found + [
        f"trainer.{key} is set by poolwise itself"
        if key in OWN_TRAINER_ARGUMENTS
        else unknown_key(f"trainer.{key}", [f"trainer.{name}" for name in sorted(allowed)])
        for key in trainer
        if key not in allowed
    ]


def _mlm(config: Plain) -> types.MLMSettings:
    return types.MLMSettings(
        **_common(config),
        pretraining=built(types.Pretraining, config["pretraining"]),
        objective=_objective(config["objective"]),
    )


def _sentiment(config: Plain, overrides: Sequence[str]) -> types.SentimentSettings:
    stage1 = config["stage1"]
    pretraining = {k: v for k, v in stage1.items() if k not in ("objective", "seed")}
    return types.SentimentSettings(
        **_common(config),
        representation=config["repr"]["name"],
        protocol=built(types.PROTOCOLS[config["protocol"]["name"]], config["protocol"]),
        encoder=config["encoder"],
        stage1=types.Stage1Choice(
            built(types.Pretraining, pretraining), _objective(stage1["objective"]), stage1["seed"]
        ),
        stage1_command=stage1_command(overrides),
    )


def _common(config: Plain) -> Plain:
    data, model, logger = config["data"], config["model"], config["logger"]
    return {
        "seed": config["seed"],
        "runs_dir": Path(config["runs_dir"]),
        "cache_dir": Path(config["cache_dir"]),
        "workers": config["workers"],
        "data": built(types.DATA_SOURCES[data["source"]], data),
        "model": built(types.MODEL_SOURCES[model["source"]], model),
        "logger": built(types.LOGGERS[logger["name"]], logger),
        "trainer": config["trainer"],
        "config": config,
    }


def built(kind: type[Kind], values: Plain) -> Kind:
    """A dataclass from plain, checked values."""
    return kind(**typed(kind, values))


def _objective(values: Plain) -> Plain:
    from poolwise.objectives import objective_class

    return typed(objective_class(values["name"]), values)


def stage1_command(overrides: Sequence[str]) -> str:
    """The command that makes the encoder which a stage-2 command line asks for."""
    kept = []
    for override in overrides:
        key, _, value = override.partition("=")
        name = key.lstrip("+")
        if name == "objective@stage1.objective":
            kept.append(f"objective={value}")
        elif name == "stage1.seed" or name.startswith("stage1.objective."):
            kept.append(f"{name.removeprefix('stage1.')}={value}")
        elif name.startswith("stage1."):
            kept.append(f"pretraining.{name.removeprefix('stage1.')}={value}")
        elif re.match(r"(data|model|experiment|runs_dir|cache_dir|trainer\.(accelerator|devices|precision))\b", name):
            kept.append(override)
    return shlex.join(["python", "train.py", "stage=mlm", *kept])
