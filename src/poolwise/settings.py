"""The typed settings that a person writes, and the check of their values.

Ranges and choices are part of the type (`Annotated`, `Literal`), so one function checks dataclasses and the
keyword arguments of objectives and representations alike. This module imports no torch: `--help` stays quick.
"""

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from poolwise.words import counted, duration, nearest, without_secrets


class UserError(Exception):
    """Mistakes that the person at the keyboard can mend: shown without a traceback, a message each."""

    def __init__(self, *messages: str) -> None:
        super().__init__(*messages)
        self.messages = messages

    def __str__(self) -> str:
        if len(self.messages) == 1:
            return self.messages[0]
        lines = "\n".join(self.messages).splitlines()
        return "\n  ".join([counted(len(self.messages), "mistake"), *lines])


class OutOfMemoryError(UserError):
    """A run asked for more memory than there is; smaller settings would do."""


def tell(error: UserError) -> None:
    """Show the messages."""
    print(f"poolwise: {without_secrets(str(error))}", file=sys.stderr)


def leave(error: UserError) -> NoReturn:
    """Show the messages and end the program."""
    tell(error)
    raise SystemExit(2)


def take_all(steps: Iterable[Callable[[], object]]) -> None:
    """Take every step, so that all mistakes are told together.

    Raises:
        UserError: some steps raised one; it holds the messages of all of them.
    """
    messages: dict[str, None] = {}
    for step in steps:
        try:
            step()
        except UserError as error:
            messages |= dict.fromkeys(error.messages)
    if messages:
        raise UserError(*messages)


@dataclass(frozen=True)
class Bounds:
    """The range of a number. `above` and `below` are exclusive, `at_least` and `at_most` inclusive."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    def hold(self, value: float | int) -> bool:
        """Whether `value` lies in the range."""
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        words = {
            "above": self.above,
            "at least": self.at_least,
            "below": self.below,
            "at most": self.at_most,
        }
        # 15 digits, so that 2 ** 32 is written whole, and 0.1 as 0.1.
        return " and ".join(f"{word} {limit:.15g}" for word, limit in words.items() if limit is not None)


Count = Annotated[int, Bounds(at_least=1.0)]
SELECTION_METRIC = "dev/macro_f1"
"""By which stage 2 keeps an epoch and the report orders representations: where this is highest."""

NonNegativeCount = Annotated[int, Bounds(at_least=0.0)]
Size = Annotated[int, Bounds(at_least=1.0, at_most=65_536.0)]
"""Of a layer: more than any BERT has, and few enough that the parameters can be counted."""
CountOrNull = Annotated[int | None, Bounds(at_least=1.0)]
Seed = Annotated[int, Bounds(at_least=0.0, below=2.0**32)]
Positive = Annotated[float, Bounds(above=0.0)]
NonNegative = Annotated[float, Bounds(at_least=0.0)]
Share = Annotated[float, Bounds(at_least=0.0, at_most=1.0)]
OpenShare = Annotated[float, Bounds(above=0.0, below=1.0)]


SECONDS = {"s": 1, "min": 60, "h": 3600}
"""In one unit of time, as budgets are written."""


@dataclass(frozen=True)
class Budget:
    """How long stage 1 trains: optimiser steps, real (non-padding) tokens read, or seconds of training."""

    amount: int | float
    unit: Literal["steps", "tokens", "seconds"]

    ALLOWED: ClassVar[str] = "above 0 with a unit, such as 2000steps, 1000000tokens, 90s, 10min or 2h; or null"

    @classmethod
    def read(cls, text: str) -> "Budget | None":
        """The budget that is written so; None where none is."""
        budget = None
        if found := re.fullmatch(r"([0-9]+)(steps|tokens)", text):
            budget = cls(int(found[1]), "steps" if found[2] == "steps" else "tokens")
        elif found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(s|min|h)", text):
            budget = cls(float(found[1]) * SECONDS[found[2]], "seconds")
        return budget if budget is not None and budget.amount > 0 else None

    def __str__(self) -> str:
        """As it can be written: `2000steps`, `600s`."""
        return f"{self.amount:.15g}{'s' if self.unit == 'seconds' else self.unit}"

    def in_words(self) -> str:
        """For a person to read: `2,000 steps`, `0.5 s`, `10 min 0 s`."""
        if self.unit == "seconds":
            return duration(self.amount) if self.amount >= 60 else f"{self.amount:.15g} s"
        return f"{self.amount:,} {self.unit}"


@dataclass(frozen=True)
class Optimisation:
    """AdamW with linear warm-up and linear decay (Devlin et al. 2019, appendix A.2)."""

    learning_rate: Positive
    weight_decay: NonNegative
    warmup_share: Share
    """Share of training (of all optimiser steps, or of the budget) in which the learning rate climbs from 0."""
    gradient_clip_norm: Positive


@dataclass(frozen=True)
class Masking:
    """Which word pieces a masked language model must predict, and what stands in their place."""

    mask_probability: OpenShare
    mask_token_share: Share
    random_token_share: Share
    unit: Literal["token", "word", "span"]
    """What is chosen as a whole: a word piece, a word, or a span of words (SpanBERT)."""
    final_mask_probability: Annotated[float | None, Bounds(above=0.0, below=1.0)]
    """Where the probability goes, linearly from epoch to epoch; null keeps it. With a budget of steps or tokens over
    the epochs that it comes to; a budget of time has no known number of them, and refuses it."""


@dataclass(frozen=True)
class Pretraining:
    """How stage 1 trains: `pretraining.*` in stage 1, `stage1.*` in stage 2."""

    epochs: Count
    budget: Budget | None
    """The length of training in place of `epochs`."""
    batch_size: Count
    batch_tokens: CountOrNull
    """Real tokens of a batch, on average, in place of `batch_size` texts."""
    masking: Masking
    optimisation: Optimisation
    pooler_init: Literal["keep", "fresh"]
    pooler_learning_rate: Annotated[float | None, Bounds(above=0.0)]
    """Of the pooler and of what the objective may hold; null for that of all else."""
    trainable: Literal["all", "pooler"]
    """`pooler`: the encoder stays as it is, bit for bit, and there is no MLM loss; without an objective nothing is
    trained."""


@dataclass(frozen=True)
class Control:
    """A control of stage 1, by its preset: no pooler objective, and what `HELD_BY_CONTROLS` says."""

    name: str


@dataclass(frozen=True)
class EqualTime(Control):
    """MLM alone for as long as another stage-1 run trained; `run` is that one's folder."""

    run: str


@dataclass(frozen=True)
class TrainedProtocol:
    """Stage 2 by gradient descent."""

    name: str
    epochs: Count
    batch_size: Count
    batch_tokens: CountOrNull
    """As in `Pretraining`, for training; evaluation has `batch_size` texts."""
    least_steps: NonNegativeCount
    """With `labels_per_class`: an epoch reads the labelled texts so often that training takes so many steps at least
    (counted in batches of `batch_size`), as the usual few epochs of few texts leave an encoder where it was (Zhang et
    al. 2021, section 6)."""
    dropout: Annotated[float, Bounds(at_least=0.0, below=1.0)]
    imbalance: Literal["none", "class_weights", "balanced_sampling"] | dict[str, Positive]
    """What is done about classes of unlike size: see `poolwise.data.imbalance`. Or the weight of each class by name."""
    optimisation: Optimisation


@dataclass(frozen=True)
class Reinitialised:
    """What of the encoder is drawn anew before fine-tuning (Zhang et al. 2021, "Revisiting Few-sample BERT")."""

    pooler: bool
    top_layers: NonNegativeCount


@dataclass(frozen=True)
class Finetune(TrainedProtocol):
    """Stage 2 in which encoder, representation and head are all trained."""

    layer_decay: Annotated[float, Bounds(above=0.0, at_most=1.0)]
    """The learning rate of layer l is that of the head times this to the power of K - l; 1 is off."""
    reinitialise: Reinitialised
    gradual_unfreezing: bool
    """From the head downwards, one more layer each epoch (Howard & Ruder 2018, section 3.3)."""
    early_stopping: CountOrNull
    """After how many epochs without a better dev macro F1 training ends; null is off."""


@dataclass(frozen=True)
class Frozen(TrainedProtocol):
    """Stage 2 on the stored states of a frozen encoder: the head is trained, and what a representation adds."""

    dense: Literal["as_named", "fixed", "trained"]
    """The dense layer of `pooler` and `cls_linear`: `as_named` is fixed for the former, trained for the latter."""


@dataclass(frozen=True)
class Probe:
    """Logistic regression on the stored states of a frozen encoder."""

    name: str
    strengths: tuple[Positive, ...]
    """Inverse weights of the penalty to choose from on dev."""
    folds: Annotated[int | None, Bounds(at_least=3.0)]
    """Of the training texts, where there is neither dev nor test: each is predicted by a probe of the others, which
    choose the penalty among themselves. None for the splits of the data."""
    imbalance: Literal["none", "class_weights"]
    """As in `TrainedProtocol`."""


OFF: dict[str, Any] = {
    "batch_tokens": None,
    "layer_decay": 1.0,
    "reinitialise": {"pooler": False, "top_layers": 0},
    "gradual_unfreezing": False,
    "early_stopping": None,
    "folds": None,
    "imbalance": "none",
}
"""Values of settings of protocols that change nothing; they stay out of a run's key, as before there were any."""


@dataclass(frozen=True, kw_only=True)
class SuitsEncoder:
    """What suits an encoder: `pretraining`, `protocol` and `trainer` refer to it unless told otherwise."""

    mlm_learning_rate: Positive
    mlm_batch_size: Count
    mlm_pooler_learning_rate: Annotated[float | None, Bounds(above=0.0)]
    finetune_learning_rate: Positive
    finetune_epochs: Count
    precision: str


@dataclass(frozen=True)
class ScratchModel(SuitsEncoder):
    """A BERT with random weights and a WordPiece vocabulary, which is trained on the stage-1 text or given."""

    source: Literal["scratch"]
    name: str
    vocabulary_size: Annotated[int, Bounds(at_least=100.0, at_most=1_000_000.0)]
    hidden_size: Size
    layers: Annotated[int, Bounds(at_least=1.0, at_most=1000.0)]
    attention_heads: Size
    intermediate_size: Size
    dropout: Annotated[float, Bounds(at_least=0.0, below=1.0)]
    initializer_range: Positive
    vocabulary: str | None = None
    """A file of word pieces, one a line (`vocab.txt`), in place of one of `vocabulary_size` trained on the text."""


@dataclass(frozen=True)
class PretrainedModel(SuitsEncoder):
    """The folder or hub name of an encoder; `package` is an installed Python package that carries the same model."""

    source: Literal["pretrained"]
    name: str
    path: str
    package: str | None
    add_words: NonNegativeCount = 0
    """Frequent words of the stage-1 text that the tokenizer splits or does not know, added to it whole."""
    vocabulary_size: Annotated[int | None, Bounds(at_least=100.0, at_most=1_000_000.0)] = None
    """Of a new WordPiece vocabulary trained on the stage-1 text; None for the encoder's own."""


Contamination = Literal["error", "warn", "drop"]
"""What is done about dev and test texts that are also among the training texts of stage 1, or in train: refuse the
data, warn, or leave them out of stage 1. Texts of train stay, with a warning."""
TextPer = Literal["line", "file"] | None
"""What of `.txt` files is a text; None for a file in a folder, and a line elsewhere."""


Read = Literal["head", "tail", "head_tail", "windows"]
"""Of a text that is longer than `max_length`: its first word pieces, its last, both, or all in windows."""


@dataclass(frozen=True)
class LongTexts:
    """What is read of a text that is longer than `max_length`.

    Attributes:
        read: which part of it.
        overlap: share of a window's word pieces that the window before it holds too.
    """

    read: Read = "head"
    overlap: float = 0.0

    @property
    def material(self) -> dict[str, Any]:
        """What of it enters keys: nothing for `head`, as before there was a choice."""
        found: dict[str, Any] = {} if self.read == "head" else {"long_texts": self.read}
        return found | ({"window_overlap": self.overlap} if self.read == "windows" else {})

    def window(self, max_length: int) -> int | None:
        """How many tokens a window has; None where every text is one."""
        return max_length if self.read == "windows" else None


@dataclass(frozen=True, kw_only=True)
class CommonData:
    """How texts of any source are read."""

    max_length: Annotated[int, Bounds(at_least=4.0)]
    """Word pieces of a text, or of each of its windows, special tokens counted."""
    long_texts: Read = "head"
    window_overlap: Annotated[float, Bounds(at_least=0.0, below=1.0)] = 0.25
    contamination: Contamination = "drop"
    near_copies: bool = False
    """Whether `contamination` is also about texts that are nearly dev or test texts."""

    @property
    def reading(self) -> LongTexts:
        """What is read of long texts."""
        return LongTexts(self.long_texts, self.window_overlap)


@dataclass(frozen=True)
class DemoData(CommonData):
    """The generated reviews of `poolwise.data.demo`: sizes are numbers of reviews."""

    source: Literal["demo"]
    name: str
    text: Count
    text_dev: Count
    train: Count
    dev: Count
    test: Count
    seed: Seed
    label_noise: Annotated[float, Bounds(at_least=0.0, below=0.5)]
    domain_shift: Literal["none", "stage2", "test"] = "none"
    """Which splits review films, while the others review products: those of stage 2, or test alone. `none`: all review
    both."""
    extra_sentences: NonNegativeCount = 0
    """Without an opinion, in each review: long texts."""


@dataclass(frozen=True)
class FilesData(CommonData):
    """A person's own data: `text` for stage 1, `train`, `dev` and `test` with labels for stage 2.

    Each names a file, a pattern, a folder, or a data set of the hub. Of `train`, a `dev` and a `test` that are not
    given are made.
    """

    source: Literal["files"]
    name: str
    text: str | None
    text_dev: str | None
    train: str | None
    dev: str | None
    test: str | None
    text_column: str | None
    """None for a common name, as is that of labels."""
    label_column: str | None
    rating_column: str | None
    """A weak label of the stage-1 texts, such as stars, for the objective `rating`."""
    text_dev_share: OpenShare
    """Share of the texts held out for the dev loss of stage 1 where there is no `text_dev` and no `dev`."""
    dev_share: OpenShare
    """Share of each class of `train` that becomes dev where there is none; and test."""
    test_share: OpenShare
    split_seed: Seed
    """Draws them."""
    empty: Literal["error", "drop"] = "error"
    """What is done about labelled rows in which the text or the label is empty."""
    text_per: TextPer = None
    header: bool = True
    """Whether the first row of a table names its columns; else they are called 1, 2, 3, ..."""
    stage1_text_column: str | None = None
    """Of `text` and `text_dev`; None for `text_column`."""
    stage1_header: bool | None = None
    """The same of their tables' first row; None for `header`."""
    streaming: bool = False
    """Whether stage 1 reads `text` anew in each pass, and keeps none of it."""
    shuffle_buffer: Annotated[int, Bounds(at_least=2.0)] = 10_000
    """How many of its texts are then in memory at a time, and shuffled."""

    @property
    def of_stage1(self) -> "FilesData":
        """The settings by which `text` and `text_dev` are read."""
        column = self.text_column if self.stage1_text_column is None else self.stage1_text_column
        header = self.header if self.stage1_header is None else self.stage1_header
        return replace(self, text_column=column, header=header)


@dataclass(frozen=True)
class HubData(CommonData):
    """A data set of the Hugging Face hub; `dev` may be null: then `dev_share` of train is held out."""

    source: Literal["hub"]
    name: str
    path: str
    configuration: str | None
    text: tuple[str, ...]
    """Splits whose texts stage 1 reads; what is held out of train as dev is left out of them."""
    train: str
    dev: str | None
    test: str
    dev_share: OpenShare
    text_column: str
    label_column: str
    split_seed: Seed = 0
    """Draws dev out of train."""
    class_names: tuple[str, ...] | None = None
    """Of its labels in their order, where the data set has numbers only."""


@dataclass(frozen=True)
class WandbLogging:
    """Weights & Biases, beside the run's own record."""

    name: Literal["wandb"]
    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]
    start_seconds: Count
    """The longest that a W&B run may take to start before it is made offline."""
    finish_seconds: Count
    """The longest that a W&B run may take to upload at its end; what is left stays on disk."""
    upload_texts: bool
    """Whether dev texts that stage 2 gets wrong go to W&B."""


@dataclass(frozen=True)
class LocalLogging:
    """Lightning's CSV or TensorBoard logger, in the run's folder."""

    name: Literal["csv", "tensorboard"]


@dataclass(frozen=True)
class Stage1Choice:
    """Which stage-1 run stage 2 reads."""

    pretraining: Pretraining
    objective: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class CommonSettings:
    """What both stages need. `trainer` holds arguments of `lightning.Trainer`."""

    seed: int
    runs_dir: Path
    cache_dir: Path
    workers: int
    checkpoint_minutes: float
    """How often a checkpoint is written from which a stopped run goes on."""
    data: "DataSettings"
    model: "ModelSettings"
    trainer: dict[str, Any]
    logger: "LoggerSettings"
    retry_failed: bool
    """Whether a run that failed before is run anew."""
    config: dict[str, Any]
    """The resolved config as plain data, for the record."""
    overrides: tuple[str, ...]
    """The command line, for the commands that come before or next."""

    @property
    def rows_dir(self) -> Path | None:
        """Where the rows of a person's files are kept; other data need no place, and are shared whatever it is."""
        return self.cache_dir if isinstance(self.data, FilesData) else None


@dataclass(frozen=True)
class MLMSettings(CommonSettings):
    """Stage 1."""

    pretraining: Pretraining
    objective: dict[str, Any]
    control: Control | None


@dataclass(frozen=True)
class SentimentSettings(CommonSettings):
    """Stage 2. `encoder` is `stage1`, `base` or a folder."""

    representation: dict[str, Any]
    """Its `name`, and the settings of its class."""
    protocol: "ProtocolSettings"
    labels_per_class: int | None
    """How many labelled training texts of each class are used; None for all."""
    label_seed: int
    """Draws these, or the folds of a probe."""
    head_seed: int
    """Draws the head, and dropout."""
    order_seed: int
    """Decides the order of the batches."""
    pooler_seed: int
    """Draws a pooler that the checkpoint lacks, `cls_linear`, and what is to be reinitialised."""
    keep_model: bool
    """Whether the trained classifier is kept, to be used and exported."""
    encoder: str
    stage1: Stage1Choice


NO_OBJECTIVE = "none"
"""The objective's name where MLM alone is trained."""
ALL_LABELS = "all"
"""How `labels_per_class` says that no labels are drawn; null says so too."""
STAGE_2_SEEDS = ("label_seed", "head_seed", "order_seed", "pooler_seed")
"""Seeds of stage 2, one for each source of variance; each is `seed` unless told otherwise."""

ModelSettings = ScratchModel | PretrainedModel
DataSettings = DemoData | FilesData | HubData
MODEL_SOURCES: dict[str, type[ModelSettings]] = {
    "scratch": ScratchModel,
    "pretrained": PretrainedModel,
}
DATA_SOURCES: dict[str, type[DataSettings]] = {
    "demo": DemoData,
    "files": FilesData,
    "hub": HubData,
}
TRAINER_LENGTHS = ("max_steps", "max_time", "min_steps", "min_epochs")
"""Lightning's arguments that say how long training is."""
LoggerSettings = WandbLogging | LocalLogging
LOGGERS: dict[str, type[LoggerSettings]] = {
    "wandb": WandbLogging,
    "csv": LocalLogging,
    "tensorboard": LocalLogging,
}
ProtocolSettings = Finetune | Frozen | Probe
PROTOCOLS: dict[str, type[ProtocolSettings]] = {"finetune": Finetune, "frozen": Frozen, "probe": Probe}
CONTROLS: dict[str, type[Control]] = {
    "equal_steps": Control,
    "equal_time": EqualTime,
    "own_pooler": Control,
    "fresh_poolers": Control,
}
HELD_BY_CONTROLS: dict[str, dict[str, str | None]] = {
    "equal_steps": {},
    "equal_time": {"budget": None},
    "own_pooler": {"pooler_init": "keep"},
    "fresh_poolers": {"pooler_init": "fresh", "trainable": "pooler"},
}
"""What each preset says of `pretraining`: another value typed beside it would make it another thing."""


@cache
def settings_of(kind: type) -> dict[str, Any]:
    """Names and type hints of the settings of `kind`.

    These are the fields of a dataclass, and the keyword-only arguments of another class; where it hands further
    ones on (`**shared`), those of its base class too.
    """
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return {field.name: hints[field.name] for field in fields(kind)}
    hints = get_type_hints(kind.__init__, include_extras=True)  # type: ignore[misc]
    parameters = inspect.signature(kind).parameters.values()
    own = {each.name: hints[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    hands_on = any(each.kind is each.VAR_KEYWORD for each in parameters)
    return (settings_of(kind.__mro__[1]) | own) if hands_on else own


def typed(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Checked settings of `kind` as it takes them: 3 is 3.0 where a number is meant, so that keys of runs agree.

    Nested dataclasses are built, lists become tuples; keys that are no setting stay as they are.
    """
    hints = settings_of(kind)
    return {key: _typed_value(hints.get(key), value) for key, value in values.items()}


def _typed_value(hint: Any, value: Any) -> Any:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if hint == Budget | None:
        return None if value is None else Budget.read(value)
    if isinstance(hint, type) and is_dataclass(hint):
        return hint(**typed(hint, value))
    if hint is float:
        return float(value)
    if isinstance(value, Mapping) and get_origin(hint) in (Union, types.UnionType):
        return {str(name): float(number) for name, number in value.items()}
    item_hint = _item_hint(hint)
    if item_hint is not None and isinstance(value, list | tuple):
        return tuple(_typed_value(item_hint, item) for item in value)
    return value


def _item_hint(hint: Any) -> Any:
    """The type of the items of a setting that is, or may be, a list; of any other None."""
    lists = [part for part in (hint, *get_args(hint)) if get_origin(part) is tuple]
    return get_args(lists[0])[0] if lists else None


def problems_with(kind: type, values: Mapping[str, Any], where: str) -> list[str]:
    """Say what is wrong with `values` as settings of `kind`: unknown or missing keys, types, ranges.

    Settings are the fields of a dataclass (nested ones are followed), the keyword-only arguments of another class.
    `where` is the prefix of the keys in the messages, such as `data.`.
    """
    hints = settings_of(kind)
    allowed = list(hints)
    found = [
        unknown_key(where + key, value, [where + name for name in allowed])
        for key, value in values.items()
        if key not in allowed
    ]
    found += [f"{where}{name} is missing" for name in allowed if name not in values]
    for name in allowed:
        if name in values:
            found += problems_with_value(hints[name], values[name], where + name)
    return found


def keys_of(plain: Any, where: str = "") -> set[str]:
    """All keys of plain settings, also of their groups: `data`, `data.train` and so on."""
    found: set[str] = set()
    for key, value in plain.items() if isinstance(plain, dict) else ():
        found |= {where + str(key)} | keys_of(value, f"{where}{key!s}.")
    return found


def problems_by_name(group: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> list[str]:
    """Say what is wrong with a group of settings whose `name` says of which class they are."""
    name = group.get("name", "")
    if str(name) not in kinds:
        return [not_one_of(f"{where}name", name, kinds)]
    return problems_with(kinds[name], {key: value for key, value in group.items() if key != "name"}, where)


def not_one_of(key: str, value: Any, allowed: Iterable[str]) -> str:
    """The message for a value that is none of what is allowed, with the nearest spelling."""
    allowed = list(allowed)
    return f"{key}={value!r}: must be one of {', '.join(allowed)}{nearest(str(value), allowed)}"


def unknown_key(key: str, value: Any, allowed: Iterable[str], meant: Sequence[str] = ()) -> str:
    """The message for a key that does not exist, with what is `meant` if that is known, else the nearest spelling."""
    allowed = list(allowed)
    given = key if isinstance(value, Mapping) else f"{key}={value}"
    hint = f" (did you mean {' or '.join(meant)}?)" if meant else nearest(key, allowed)
    return f"{given}: no such setting{hint}; allowed: {', '.join(allowed) or 'none'}"


def problems_with_value(hint: Any, value: Any, where: str) -> list[str]:
    """Say what is wrong with one value: its type, or its range."""
    bounds: list[Bounds] = []
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        bounds = [extra for extra in extras if isinstance(extra, Bounds)]
    if hint == Budget | None:
        right = value is None or (isinstance(value, str) and Budget.read(value) is not None)
        return [] if right else [f"{where}={value!r}: must be a number {Budget.ALLOWED}"]
    if isinstance(hint, type) and is_dataclass(hint):
        if not isinstance(value, Mapping):
            return [f"{where}={value!r}: must be a group of settings"]
        return problems_with(hint, value, where + ".")
    item_hint = _item_hint(hint)
    if item_hint is not None and isinstance(value, list) and value:
        return [problem for item in value for problem in problems_with_value(item_hint, item, where)]
    if isinstance(value, Mapping) and (numbers := _numbers_by_name(hint)) is not None:
        return [found for name, one in value.items() for found in problems_with_value(numbers, one, f"{where}.{name}")]
    if not _has_type(hint, value):
        return [f"{where}={value!r}: must be {_type_in_words(hint)}{_spelling(hint, value)}"]
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        return [f"{where}={value!r}: must be a finite number"]
    return [f"{where}={value!r}: must be {bound}" for bound in bounds if value is not None and not bound.hold(value)]


def _numbers_by_name(hint: Any) -> Any:
    """The type of the numbers of a setting that may be a mapping from names to numbers; of any other None."""
    mappings = [part for part in get_args(hint) if get_origin(part) is dict]
    return get_args(mappings[0])[1] if mappings else None


def _has_type(hint: Any, value: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_has_type(part, value) for part in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin in (tuple, dict):
        return False  # one that holds something is told item by item
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _spelling(hint: Any, value: Any) -> str:
    choices = [choice for part in (hint, *get_args(hint)) if get_origin(part) is Literal for choice in get_args(part)]
    return nearest(str(value), map(str, choices))


def _type_in_words(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_in_words(part) for part in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(hint))
    if origin is tuple:
        return f"a list of one or more, each {_type_in_words(get_args(hint)[0])}"
    if origin is Annotated:
        return _type_in_words(get_args(hint)[0])
    if origin is dict:
        return "a mapping from names, {NAME: number, ...}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return words.get(hint, "null")
