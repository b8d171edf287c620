"""What a person types, as text: short forms, settings of the other stage, and the commands that come next."""

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from string import Template

from poolwise.settings import STAGE_2_SEEDS, UserError
from poolwise.words import nearest

OVERRIDE = re.compile(
    r"(?P<prefix>\+\+|\+|~)?(?P<key>[A-Za-z_][^=\s]*)=(?P<value>.*)|~(?P<deleted>[A-Za-z_][^=\s]*)", re.DOTALL
)
STAGES = ("mlm", "sentiment")
DEFAULT_STAGE = "sentiment"
"""As in `conf/train.yaml`."""
SHARED_WITH_STAGE_1 = re.compile(
    r"(data|model|experiment|runs_dir|cache_dir|trainer\.(accelerator|devices|precision))\b"
)
"""Keys of stage 2 that also decide which stage-1 run it reads, and keys that say where that lies."""
CHOICES = {"objective": "objective@stage1.objective", "pretraining": "pretraining@stage1"}
"""Groups of stage 1, and how stage 2 writes them."""
SHORT_FORMS = ("trainable", "budget")
"""Settings of stage 1 that both stages take without the group they are in."""
OF_STAGE_2 = ("repr", "protocol", "encoder", "labels_per_class", *STAGE_2_SEEDS)
"""Groups and keys that stage 1 has not."""
PARTS = "objective@objective."
PARTS_IN_STAGE_2 = "objective@stage1.objective."
"""How keys start that add a part of `objective=combined`, such as `+objective@objective.parts.bow=bow`."""


@dataclass(frozen=True)
class Override:
    """One `key=value` of a command line, or `~key`.

    Attributes:
        prefix: empty, `+`, `++` or `~`, as Hydra reads them.
        key: for instance `data.train` or `objective@stage1.objective`.
        value: as typed, possibly a list of choices for a sweep; empty for `~key`.
    """

    prefix: str
    key: str
    value: str

    @property
    def root(self) -> str:
        """The group or the first part of the key."""
        return re.split(r"[.@/]", self.key)[0]

    @property
    def is_choice(self) -> bool:
        """Whether this picks a file of a config group, such as `model=tiny` or `objective@stage1.objective=bow`."""
        return self.key.split("@")[0] in groups()

    def __str__(self) -> str:
        return f"{self.prefix}{self.key}" + ("" if self.prefix == "~" and not self.value else f"={self.value}")

    def at(self, key: str) -> str:
        """This for another key."""
        return str(replace(self, key=key))


def override_in(argument: str) -> Override | None:
    """The override that an argument is; None for flags and anything else."""
    found = OVERRIDE.fullmatch(argument)
    if found is None:
        return None
    if found["deleted"]:
        return Override("~", found["deleted"], "")
    return Override(found["prefix"] or "", found["key"], found["value"])


def overrides_in(arguments: Iterable[str]) -> Iterator[Override]:
    """The overrides among the arguments."""
    return (override for override in map(override_in, arguments) if override is not None)


PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The folder of the config: the one inside an installed package, or the checkout's."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parents[1] / "conf"


def program() -> list[str]:
    """The words that start training: `poolwise` where it is installed or was typed, `python train.py` in a checkout."""
    installed = conf_dir().parent == PACKAGE
    return ["poolwise"] if installed or Path(sys.argv[0]).stem == "poolwise" else ["python", "train.py"]


def program_of_torchrun() -> list[str]:
    """The words after torchrun's own, which starts a Python file or, after `-m`, a module."""
    return ["-m", "poolwise"] if program() == ["poolwise"] else program()[1:]


def groups() -> frozenset[str]:
    """The config groups: `model`, `repr` and so on."""
    return _folders_in(conf_dir())


@cache  # a sweep asks it of each setting of each job
def _folders_in(folder: Path) -> frozenset[str]:
    return frozenset(each.name for each in folder.iterdir() if each.is_dir())


def choices_of(group: str) -> list[str]:
    """The choices of a config group: `cls`, `pooler` and so on, of `repr`."""
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def help_page() -> str:
    """What `--help` prints; Hydra, which looks for the groups itself, would take a second."""
    page = Template((conf_dir() / "help.txt").read_text(encoding="utf-8"))
    choices = "\n".join(f"{group}: {', '.join(choices_of(group))}" for group in sorted(groups() - {"hydra"}))
    return page.substitute(program=shlex.join(program()), choices=choices)


PATHS = re.compile(
    r"(data\.(text|text_dev|train|dev|test|\w+_column)|runs_dir|cache_dir|encoder|control\.run|model|model\.(path|name|vocabulary))$"
)
"""Keys whose values are paths or named after one, or names of columns."""
PLAIN_VALUE = re.compile(r"[\w./:@+-]*", re.ASCII)
"""What Hydra takes as it is."""


def with_paths_quoted(override: Override) -> str:
    """The override with a path, or a column, as Hydra's grammar takes it: blanks, commas and quotes are its own."""
    value = str(Path(override.value).expanduser()) if override.value.startswith("~/") else override.value
    quoted = value[:1] in ("'", '"')
    numbered = override.key.endswith("_column") and value.isdecimal()  # without a name; Hydra would not leave it text
    plain = PLAIN_VALUE.fullmatch(value) and not numbered
    if not PATHS.fullmatch(override.key) or quoted or plain or _are_several(value):
        return str(replace(override, value=value))
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return str(replace(override, value=f"'{escaped}'"))


def _are_several(value: str) -> bool:
    """Whether a value without quotes is taken for several choices, and not for one path that holds a comma."""
    return "," in value and not _is_there(value)


def _is_there(path: str) -> bool:
    """Whether there is such a file or folder; many choices in a row are too long a name to ask for."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def _is_folder(path: str) -> bool:
    """As `_is_there`, of folders alone."""
    return _is_there(path) and Path(path).is_dir()


def problem_with_sweep(override: Override, arguments: Sequence[str]) -> str | None:
    """What to write where several choices are given and no sweep is asked for; None elsewhere."""
    sweeps = {"-m", "--multirun"} & set(arguments) or {"experiment", "hydra.mode"} & {
        other.key for other in overrides_in(arguments)
    }
    several = override.is_choice and "," in override.value and not _is_place(override.value)
    return f"{override}: several choices need -m at the end of the command" if several and not sweeps else None


LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}
"""Of Hydra, that spread a sweep over processes, and the plugin that brings each."""


def problem_with_launcher(override: Override) -> str | None:
    """What to install for a launcher that is not there; None elsewhere."""
    plugin = LAUNCHERS.get(override.value) if override.key == "hydra/launcher" else None
    if plugin is None or (find_spec("hydra_plugins") and find_spec(f"hydra_plugins.hydra_{plugin}_launcher")):
        return None
    return f"{override}: needs the package; pip install 'poolwise[launchers]'"


def problem_with_choice(override: Override) -> str | None:
    """What is wrong with a choice of a config group, with the nearest right spelling; None if nothing is."""
    if not override.is_choice or override.prefix == "~" or re.search(r"[()\[\]{}'\"]", override.value):
        return None
    group = override.key.split("@")[0]
    known = choices_of(group)
    for choice in (word.strip() for word in override.value.split(",")):
        if choice not in known:
            hint = nearest(choice, known)
            place = "; a folder or hub name is written with a slash" if group == "model" else ""
            return f"{override}: no such choice{hint}; {group} is one of {', '.join(known)}{place}"
    return None


def expanded(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra takes it: `model=FOLDER` becomes `model=pretrained` with that path.

    `trainable=` and `budget=` are short for these settings of stage 1, by their names in the stage that is run.
    `encoder=FOLDER` without `model=` brings the model that the folder is of: its learning rates must fit.
    """
    names_model = any(override.key == "model" for override in overrides_in(arguments))
    found: list[str] = []
    for argument in arguments:
        override = override_in(argument)
        if override is not None and override.key == "model" and _is_place(override.value):
            found += _pretrained(override.value)
            continue
        if override is not None and override.key in SHORT_FORMS:
            stage1 = "pretraining" if stage_of(arguments) == "mlm" else "stage1"
            found.append(override.at(f"{stage1}.{override.key}"))
            continue
        found.append(argument)
        if override is not None and override.key == "encoder" and _is_folder(override.value) and not names_model:
            found += _model_of(Path(override.value))
    return found


def _pretrained(place: str) -> list[str]:
    name = Override("", "model.name", Path(place).resolve().name)
    return ["model=pretrained", with_paths_quoted(Override("", "model.path", place)), with_paths_quoted(name)]


def _model_of(folder: Path) -> list[str]:
    """The model that an encoder's folder is of, for names and learning rates: as stage 1 noted, else itself."""
    try:
        name = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, LookupError, TypeError):
        name = None  # not from stage 1; or broken, which is told when it is loaded
    known = name is not None and (conf_dir() / "model" / f"{name}.yaml").is_file()
    return [f"model={name}"] if known else _pretrained(str(folder))


def _is_place(model: str) -> bool:
    """Whether a model is given by folder or hub name: by a path, and not by choices of the group."""
    return "," not in model and model not in choices_of("model") and ("/" in model or _is_there(model))


def stage_of(arguments: Sequence[str]) -> str:
    """The stage that a command line asks for.

    Raises:
        UserError: more than one, as the two have settings and seeds of their own; or an unknown one.
    """
    stages = [override.value for override in overrides_in(arguments) if override.key == "stage"]
    stage = stages[-1] if stages else DEFAULT_STAGE
    if "," in stage:
        raise UserError(f"stage={stage}: one stage at a time; run stage=mlm first, then stage=sentiment")
    if stage not in STAGES:
        raise UserError(f"stage={stage}: must be one of {', '.join(STAGES)}{nearest(stage.lower(), STAGES)}")
    return stage


def in_stage_1(key: str) -> str | None:
    """The key of stage 1 that a key of stage 2 stands for, as that says which stage-1 run to read; None for others."""
    for ours, theirs in CHOICES.items():
        if key == theirs:
            return ours
    if key.startswith(PARTS_IN_STAGE_2):
        return key.replace(PARTS_IN_STAGE_2, PARTS)
    if key == "stage1.seed" or key.startswith("stage1.objective."):
        return key.removeprefix("stage1.")
    return key.replace("stage1", "pretraining", 1) if key.startswith("stage1.") else None


def in_stage_2(key: str) -> str | None:
    """The key of stage 2 by which it names a stage-1 run that had this setting; None for keys of other things."""
    if key in CHOICES:
        return CHOICES[key]
    if key.startswith(PARTS):
        return key.replace(PARTS, PARTS_IN_STAGE_2)
    if key.startswith("objective."):
        return f"stage1.{key}"
    return key.replace("pretraining", "stage1", 1) if key.startswith("pretraining.") else None


def problem_with_stage(override: Override, stage: str) -> str | None:
    """What to write in place of a setting that the other stage has; None for a setting of this one."""
    if stage == "mlm" and override.root in OF_STAGE_2:
        return f"{override}: stage=mlm has no {override.root}; it is a setting of stage=sentiment"
    if stage == "sentiment" and override.root == "control":
        return (
            f"{override}: stage=sentiment has no control; it is a setting of stage=mlm, which prints the command that "
            "reads what it makes"
        )
    right = in_stage_1(override.key) if stage == "mlm" else in_stage_2(override.key)
    if right is None:
        return None
    if override.key == "objective":
        return (
            f"{override}: stage=sentiment reads a stage-1 run; to name the one that was trained with it write "
            f"{override.at(right)}"
        )
    which = "" if stage == "mlm" else " (which stage-1 run to read)"
    return f"{override}: with stage={stage} write {override.at(right)}{which}"


def stage1_command(overrides: Sequence[str]) -> str:
    """The command that makes the encoder which a stage-2 command line asks for."""
    return _command("mlm", [word for override in overrides_in(overrides) for word in _moved(override, in_stage_1)])


def stage2_command(overrides: Sequence[str], further: Sequence[str] = ()) -> str:
    """The sweep over the four representations that reads what a stage-1 command line makes, with further settings."""

    def place(key: str) -> str | None:
        return "stage1.seed" if key == "seed" else in_stage_2(key)

    kept = [word for override in overrides_in(overrides) for word in _moved(override, place)]
    return _command("sentiment", ["repr=cls,pooler,mean,cls_linear", *kept, *further, "-m"])


def pooler_command(model: str, overrides: Sequence[str]) -> str:
    """The command that trains the pooler of a checkpoint alone, on the data of a command line of either stage."""
    shared = (word for override in overrides_in(overrides) for word in _moved(override, lambda _: None))
    kept = [word for word in shared if not word.startswith("model")]
    return _command("mlm", [f"model={model}", "trainable=pooler", *kept])


def _moved(override: Override, place: Callable[[str], str | None]) -> list[str]:
    """An override for the other stage, at the place there; none if it is a setting of this stage alone."""
    key = place(override.key) or (override.key if SHARED_WITH_STAGE_1.match(override.key) else None)
    if key is None or str(override) == "model=pretrained" or key == "model.name":
        return []  # what stands for `model=FOLDER` is written short again
    return [override.at("model" if key == "model.path" else key)]


def _command(stage: str, words: Sequence[str]) -> str:
    """A command line, of each key the last value; paths are written as a person would."""
    last = {word.split("=")[0]: _unquoted(word) for word in words}
    return shlex.join([*program(), f"stage={stage}", *last.values()])


def _unquoted(word: str) -> str:
    override = override_in(word)
    if override is None or not PATHS.fullmatch(override.key) or override.value[:1] != "'":
        return word
    plain = override.value[1:-1].replace("\\'", "'").replace("\\\\", "\\")
    return word if _are_several(plain) else str(replace(override, value=plain))
