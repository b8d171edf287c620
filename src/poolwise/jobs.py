"""Typed settings to jobs: what a run is called, what its numbers depend on, and which parts it is built of."""

import inspect
import json
import logging
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import lightning
import numpy as np
from datasets import Dataset
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from numpy import ndarray
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from poolwise import checkpoints, encoder, representations
from poolwise.card import model_card
from poolwise.command_line import stage2_command
from poolwise.compare.power import power_in_words
from poolwise.compare.records import DISTRUSTED_POOLERS
from poolwise.controls import check_own_pooler, time_of
from poolwise.data.corpus import RATING, Corpus
from poolwise.data.draws import balanced_draw
from poolwise.data.module import TextDataModule, labelled_data, masked_data
from poolwise.data.segmentation import segmenter
from poolwise.data.sources import load_corpus
from poolwise.data.tokens import TokenisedTexts, content_hash, tokenise, tokenizer_hash, train_wordpiece, with_ratings
from poolwise.machine import check_writable
from poolwise.objectives import build_objective, label_of, reads_ratings
from poolwise.objectives.base import Surroundings
from poolwise.objectives.none import NoObjective
from poolwise.provenance import AS_RELEASED, ProvenanceTracker, pooler_figures, pooler_warning
from poolwise.representations import EncoderShape, Representation, build_representation, representation_class
from poolwise.runs import RunIdentity, RunRecord, hash_of, without_seeds
from poolwise.settings import (
    HELD_BY_CONTROLS,
    SELECTION_METRIC,
    Bounds,
    CommonSettings,
    Count,
    EqualTime,
    Frozen,
    MLMSettings,
    NonNegativeCount,
    PretrainedModel,
    Pretraining,
    Probe,
    ScratchModel,
    SentimentSettings,
    Stage1Choice,
    TrainedProtocol,
    UserError,
    problems_with_value,
    take_all,
)
from poolwise.stages import vectors
from poolwise.stages.loop import Job, limited_batches, plain
from poolwise.stages.mlm import MaskedLanguageModelling
from poolwise.stages.pooler import BatchesWithStates, PoolerTraining, cls_states
from poolwise.stages.probe import Probe as FittedProbe
from poolwise.stages.probe import fit_best
from poolwise.stages.screen import TrainingScreen
from poolwise.stages.sentiment import Sentiment, SentimentClassifier, scores_of
from poolwise.stages.stage import Stage
from poolwise.stages.vectors import BatchesWithLayers, StatesOnDisk, stored_states, vectors_of
from poolwise.words import counted, first_line

log = logging.getLogger(__name__)

EXPORT_FOLDER = "export"
MARGIN_BYTES = 20_000_000
"""Room for what lies beside the weights: tokenizer, predictions, logs, an MLM head that the checkpoint lacks."""
SPEED_ONLY_TRAINER_ARGUMENTS = {"log_every_n_steps", "profiler", "benchmark", "accelerator", "devices", "precision"}
"""Left out of a run's key: they change no number, or enter it resolved (device class, precision)."""

NEUTRAL = {"accumulate_grad_batches": 1, "max_steps": -1, "overfit_batches": 0.0}
"""Values of Lightning's arguments that do what leaving them out does, where the default does not say so."""

NEEDED_IN_TRAINING = dict.fromkeys(("max_steps", "limit_train_batches"), "nothing would be trained")
NEEDED_IN_STAGE_2 = {
    "limit_val_batches": "without dev no epoch can be chosen",
    "limit_test_batches": "nothing would be told of test",
}
"""Arguments of Lightning's that must not be zero, and why."""

TRAINER_COUNTS = {
    "accumulate_grad_batches": Count,
    "check_val_every_n_epoch": Annotated[int | None, Bounds(at_least=1.0)],
    "log_every_n_steps": NonNegativeCount,
}
"""Arguments that Lightning takes unchecked, and fails on when it trains."""

CPU_PRECISIONS = ("32-true", "64-true", "bf16-true", "bf16-mixed")

KEEPING_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""In which weights stay in fp32, as they are loaded."""

SCRATCH_POSITIONS = 512
"""Position embeddings of a BERT from scratch (the default of `BertConfig`)."""


@dataclass(frozen=True)
class StartingPoint:
    """What an unadapted encoder is.

    Attributes:
        tokenizer: its own.
        path: folder or hub name; None for random weights.
        fingerprint: hash of weights and config; of random weights, their shape.
        source: the weights file and its hash, for provenance; None for random weights.
    """

    tokenizer: PreTrainedTokenizerBase
    path: str | None
    fingerprint: str
    source: str | None


def check_inputs(settings: CommonSettings) -> None:
    """See that the folders of a run can be written, its data and its encoder are there, and its trainer can be built.

    Raises:
        UserError: with all that is wrong.
    """
    take_all(
        [
            partial(check_writable, settings.runs_dir),
            partial(check_writable, settings.cache_dir),
            partial(load_corpus, settings.data),
            partial(_check_encoder, settings),
            partial(_check_trainer, settings),
        ]
    )


def _check_encoder(settings: CommonSettings) -> None:
    chosen = settings.encoder if isinstance(settings, SentimentSettings) else "stage1"
    if chosen not in ("base", "stage1"):
        if not Path(chosen).is_dir():
            raise UserError(f"encoder={chosen}: no such folder; allowed: stage1, base, or a folder")
        checkpoints.check_checkpoint(chosen, refuse_unexpected=True)
    elif isinstance(settings.model, PretrainedModel):
        checkpoints.check_checkpoint(checkpoints.locate(settings.model), refuse_unexpected=chosen == "base")
    if isinstance(settings, SentimentSettings):
        settled_representation(settings)


def _check_trainer(settings: CommonSettings) -> None:
    """Raise a UserError unless Lightning takes `trainer.*`, and something is left to train and evaluate."""
    needed = NEEDED_IN_TRAINING | (NEEDED_IN_STAGE_2 if isinstance(settings, SentimentSettings) else {})
    problems = [
        f"trainer.{key}={settings.trainer[key]}: {reason}"
        for key, reason in needed.items()
        if settings.trainer.get(key) == 0
    ]
    for key, hint in TRAINER_COUNTS.items():
        if key in settings.trainer:
            problems += problems_with_value(hint, settings.trainer[key], f"trainer.{key}")
    if problems:
        raise UserError(*problems)
    platform(settings.trainer)


def starting_point(settings: CommonSettings) -> StartingPoint:
    """The encoder that `model` names, before any adaptation."""
    return _starting_point(settings.model, settings.data)


@lru_cache(maxsize=4)
def _starting_point(model: Any, data: Any) -> StartingPoint:
    if isinstance(model, ScratchModel):
        texts = load_corpus(data).text["train"]
        tokenizer = train_wordpiece(texts, model.vocabulary_size, data.max_length)
        check_length(data.max_length, SCRATCH_POSITIONS)
        shape = {
            key: value for key, value in asdict(model).items() if not key.startswith(("mlm_", "finetune_", "name"))
        }
        return StartingPoint(tokenizer, None, json.dumps(shape, sort_keys=True), None)
    path = checkpoints.locate(model)
    weights = checkpoints.weights_file(path)
    check_length(data.max_length, checkpoints.longest_text(path))
    source = f"{model.name}, sha256 {checkpoints.file_hash(weights)}"
    return StartingPoint(load_tokenizer(path), path, checkpoints.fingerprint(path), source)


def check_length(max_length: int, positions: int) -> None:
    """Raise a UserError if texts may be longer than the encoder has positions."""
    if max_length > positions:
        raise UserError(f"data.max_length={max_length}: this encoder has {positions} positions, so at most {positions}")


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name.

    Raises:
        UserError: there is none, or it knows no word.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # what a broken file raises has no type of its own
        raise UserError(f"{path}: no tokenizer could be loaded from it ({first_line(error)})") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"{path}: its tokenizer has no padding token, so texts cannot be put into batches")
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(f"{path}: the vocabulary of its tokenizer holds special tokens only")
    return tokenizer


def platform(trainer: dict[str, Any]) -> dict[str, Any]:
    """Device class and precision as Lightning resolves them, and trainer arguments that change numbers.

    Raises:
        UserError: Lightning or this machine does not take one of the arguments.
    """
    try:
        resolved = lightning.Trainer(
            **trainer,
            logger=CSVLogger("."),  # writes nothing before it is logged to
            max_epochs=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (TypeError, ValueError, RuntimeError, ImportError, AttributeError, MisconfigurationException) as error:
        given = ", ".join(f"trainer.{key}={value}" for key, value in trainer.items())
        raise UserError(f"{given}: Lightning does not take these ({first_line(error)})") from error
    device = resolved.strategy.root_device.type
    if device == "cpu" and resolved.precision not in CPU_PRECISIONS:
        raise UserError(
            f"trainer.precision={trainer['precision']}: must be one of {', '.join(CPU_PRECISIONS)} on a CPU"
        )
    defaults = inspect.signature(lightning.Trainer).parameters
    return {
        "device": device,
        "precision": resolved.precision,
        **{
            key: value
            for key, value in trainer.items()
            if key not in SPEED_ONLY_TRAINER_ARGUMENTS and value not in (None, defaults[key].default, NEUTRAL.get(key))
        },
    }


def stage1_identity(settings: CommonSettings, choice: Stage1Choice, trainer: dict[str, Any]) -> RunIdentity:
    """The identity of a stage-1 run: computed alike by the stage that makes it and the stage that reads it."""
    start = starting_point(settings)
    texts = load_corpus(settings.data).text
    material: dict[str, Any] = {
        "stage": "mlm",
        "seed": choice.seed,
        "weights": start.fingerprint,
        "tokenizer": tokenizer_hash(start.tokenizer),
        "text": {split: content_hash(rows) for split, rows in texts.items()},
        "max_length": settings.data.max_length,
        "pretraining": material_of(choice.pretraining),
        "objective": choice.objective,
        "platform": platform(trainer),
    }
    if choice.pretraining.masking.unit != "token":
        material["segmenter"] = segmenter()
    if reads_ratings(choice.objective):
        material["rating"] = {split: hash_of(column) for split, column in ratings_of(texts).items()}
    label = stage1_label(choice)
    condition = f"{settings.data.name}-{settings.model.name}-{label}"
    return RunIdentity(
        stage="mlm",
        name=f"{condition}-seed{choice.seed}",
        condition=condition,
        material=material,
        condition_material=without_seeds(material),
        flat={
            "data": settings.data.name,
            "model": model_label(settings),
            "objective": label,
            "seed": choice.seed,
        },
    )


def starts_from_labels(settings: CommonSettings) -> bool:
    """Whether the encoder that `model` names was trained on labels by a stage 1 of poolwise."""
    model = settings.model
    return isinstance(model, PretrainedModel) and checkpoints.reads_labels(Path(checkpoints.locate(model)))


def model_label(settings: CommonSettings) -> str:
    """How tables call the model: marked where it was trained on labels."""
    return settings.model.name + (" (reads labels)" if starts_from_labels(settings) else "")


def material_of(pretraining: Pretraining) -> dict[str, Any]:
    """The settings as plain data, without `budget` if it is null (as before there were any), else without `epochs`."""
    unused = "budget" if pretraining.budget is None else "epochs"
    return {key: value for key, value in asdict(pretraining).items() if key != unused}


def trains_nothing(choice: Stage1Choice) -> bool:
    """Whether a stage-1 run leaves all as it is: a frozen encoder, and no objective."""
    return choice.pretraining.trainable == "pooler" and choice.objective["name"] == NoObjective.name


def stage1_label(choice: Stage1Choice) -> str:
    """How tables and names call a stage-1 run: the objective, with what else it must be told apart by."""
    pretraining = choice.pretraining
    if trains_nothing(choice):
        return "untrained-fresh_pooler" if pretraining.pooler_init == "fresh" else "untrained"
    return label_of(choice.objective, pretraining.trainable, str(pretraining.budget or ""))


def ratings_of(texts: Mapping[str, Dataset]) -> dict[str, list[str]]:
    """The ratings of stage-1 texts by split.

    Raises:
        UserError: the data has none, or all are the same.
    """
    if any(RATING not in rows.column_names for rows in texts.values()):
        raise UserError(
            "objective=rating needs data whose texts have a rating: data=demo, or data=files with data.rating_column"
        )
    ratings = {split: list(rows[RATING]) for split, rows in texts.items()}
    if len(set(ratings["train"])) < 2:
        raise UserError(f"objective=rating: all ratings of the training texts are {ratings['train'][0]!r}")
    return ratings


class MLMJob(Job):
    """Stage 1: train encoder, MLM head and pooler (or the pooler alone) on text, and export the last step."""

    headline = ("dev/perplexity", "dev/masked_accuracy", "dev/objective_loss")

    def __init__(self, settings: MLMSettings) -> None:
        self.start = starting_point(settings)
        if self.start.tokenizer.mask_token_id is None:
            raise UserError(
                f"{self.start.path}: its tokenizer has no mask token, which masked language modelling needs"
            )
        self.settings: MLMSettings = settled(settings, self.start)
        settings = self.settings
        choice = Stage1Choice(settings.pretraining, settings.objective, settings.seed)
        self.identity = stage1_identity(settings, choice, settings.trainer)
        self.optimisation = settings.pretraining.optimisation
        self.epochs, self.budget = settings.pretraining.epochs, settings.pretraining.budget
        self.trains = not trains_nothing(choice)
        self.pooler_only = settings.pretraining.trainable == "pooler"
        self.platform: dict[str, Any] = self.identity.material["platform"]
        precision = self.platform["precision"]
        if self.pooler_only and precision not in KEEPING_PRECISIONS:
            raise UserError(
                f"trainable=pooler keeps the encoder's tensors as they are, and trainer.precision={precision} converts "
                f"them; allowed: {', '.join(KEEPING_PRECISIONS)}"
            )
        self.task = self._task()

    def _task(self) -> str:
        path, name = self.start.path, label_of(self.settings.objective)
        start = f"{self.settings.model.name} " + ("from random weights" if path is None else f"from {path}")
        if not self.trains:
            return f"{start}: as it is, nothing is trained; pooler_init={self.settings.pretraining.pooler_init}"
        if self.pooler_only:
            return f"{start}: the pooler alone, by the objective {name}"
        beside = "no pooler objective" if name == NoObjective.name else f"pooler objective {name}"
        return f"{start}: masked language modelling, {beside}"

    def kept_bytes(self) -> int:
        """The export."""
        return weights_bytes(self.settings, self.start)

    @property
    def export(self) -> Path:
        """The folder of the exported checkpoint."""
        return self.folder / EXPORT_FOLDER

    @property
    def next_steps(self) -> dict[str, str]:
        """The export, and the sweep that compares representations of it."""
        return {"export": str(self.export), **self.next_steps_of([self], self.settings.overrides)}

    def next_steps_of(self, sweep: Sequence[Job], overrides: Sequence[str]) -> dict[str, str]:
        """The sweep that compares representations of all of these encoders."""
        labelled = bool(load_corpus(self.settings.data).labelled)
        presets = {tuple(job.preset_words()) for job in sweep if isinstance(job, MLMJob)}
        differ = len(presets) > 1
        further = [] if differ else self.preset_words()
        if not labelled or differ or self.platform != platform(shared_trainer(self.settings)):
            # A dev split, several controls, trainer settings of its own: stage 2 cannot work the run out from settings.
            further.append("encoder=" + ",".join(str(job.folder / EXPORT_FOLDER) for job in sweep))
        if not labelled:
            further += ["data.train=TRAIN.csv", "data.dev=DEV.csv", "data.test=TEST.csv"]
        note = "" if labelled else "  # with labelled files"
        return {"next": stage2_command(overrides, further) + note}

    def preset_words(self) -> list[str]:
        """How stage 2 writes what the control of this run stands for; nothing where there is none."""
        control, pretraining = self.settings.control, self.settings.pretraining
        if control is None:
            return []
        held = {key: getattr(pretraining, key) for key in HELD_BY_CONTROLS[control.name]}
        return ["objective@stage1.objective=none", *(f"stage1.{key}={value}" for key, value in held.items())]

    def build(self) -> tuple[Stage, TextDataModule]:
        """Model, objective and masked batches.

        For the pooler alone the encoder is frozen, and read once a text.
        """
        settings, start = self.settings, self.start
        if start.path is None:
            assert isinstance(settings.model, ScratchModel)
            model = encoder.build_from_scratch(settings.model, start.tokenizer, settings.seed)
        else:
            model = encoder.load_for_pretraining(start.path, settings.pretraining.pooler_init, settings.seed)
        rows = load_corpus(settings.data).text
        texts = tokenised(rows, start.tokenizer, settings)
        if reads_ratings(settings.objective):
            texts = with_ratings(texts, ratings_of(rows))
        surroundings = Surroundings(start.tokenizer, model.config, texts["train"])
        objective = build_objective(settings.objective, surroundings, settings.seed)
        before = {} if start.path is None else checkpoints.provenance_of(Path(start.path))
        provenance = ProvenanceTracker(model, start.source, settings.seed, before.get("pooler_status", AS_RELEASED))
        on_states = self.pooler_only and self.trains
        kind = PoolerTraining if on_states else MaskedLanguageModelling
        rate = settings.pretraining.pooler_learning_rate
        stage = kind(model, objective, provenance, self.optimisation, self.budget, rate)
        data = masked_data(
            texts,
            start.tokenizer,
            settings.pretraining.masking,
            settings.pretraining.batch_size,
            settings.seed,
            settings.workers,
            objective.needs,
            self.mask_epochs(texts["train"], 2 if objective.needs.arrangement == "views" else 1),
        )
        if on_states:
            encoder.freeze_all_but_pooler(model)
            log.info("%s: reading each text once with the frozen encoder", self.identity.name)
            device, arrangement = self.platform["device"], objective.needs.arrangement
            data.batches = {
                split: BatchesWithStates(batches, cls_states(model, data.texts[split], device, arrangement))
                for split, batches in data.batches.items()
            }
        return stage, data

    def mask_epochs(self, texts: TokenisedTexts, copies: int) -> int:
        """Over how many epochs masks are planned.

        Raises:
            UserError: the mask probability is to change from epoch to epoch, and there is one.
        """
        epochs = self.planned_epochs(texts, copies)
        final = self.settings.pretraining.masking.final_mask_probability
        if final is not None and epochs < 2:
            raise UserError(
                f"pretraining.masking.final_mask_probability={final}: changes from epoch to epoch, and training has "
                "one; allowed: two epochs or more"
            )
        return epochs

    def planned_epochs(self, texts: TokenisedTexts, copies: int) -> int:
        """How many epochs are begun, over which a scheduled mask probability changes.

        For a budget of tokens each text is read `copies` times an epoch; one of time is taken for one epoch.
        """
        if self.budget is None:
            return self.epochs
        batches = -(-len(texts) // self.settings.pretraining.batch_size)
        share = max(limited_batches(self, batches), 1) / batches
        steps = batches * share / self.settings.trainer.get("accumulate_grad_batches", 1)
        an_epoch = {"steps": math.ceil(steps), "tokens": share * copies * len(texts.ids), "seconds": self.budget.amount}
        return math.ceil(self.budget.amount / float(an_epoch[self.budget.unit]))

    def conclude(self, trainer: lightning.Trainer, stage: Stage, data: TextDataModule, record: RunRecord) -> None:
        """Export the model with its provenance."""
        assert isinstance(stage, MaskedLanguageModelling)
        asked_for = isinstance(stage.objective, NoObjective)
        warning = pooler_warning(stage.proof, wants_training=not asked_for)
        hidden = stage.model.family.hidden_pooler
        provenance = {
            **stage.proof,
            "warning": warning,
            "objectives": stage.objective.notes(),
            checkpoints.READ_BEFORE: starts_from_labels(self.settings),
            **({"hidden_pooler": hidden} if hidden else {}),
            **self.identity.flat,
            "key": self.identity.key,
            "condition": self.identity.group,
        }
        record.results["provenance"] = provenance
        record.results["metrics"] |= pooler_figures(stage.proof)
        card = model_card(self.identity, provenance, record.results["metrics"])
        encoder.export(stage.model, self.start.tokenizer, provenance, card, self.export)
        if warning:
            log.warning("WARNING: %s", warning)
        if hidden:
            log.info("%s", hidden)
        log.info("pooler: %s%s", provenance["pooler_status"], ", as objective=none asks for" if asked_for else "")


def settled(settings: MLMSettings, start: StartingPoint) -> MLMSettings:
    """The settings with the budget that their control asks for.

    Raises:
        UserError: the run or the pooler that the control is about is not what it must be.
    """
    control = settings.control
    if control is not None and control.name == "own_pooler":
        assert start.path is not None
        check_own_pooler(checkpoints.weights_file(start.path))
    if not isinstance(control, EqualTime):
        return settings
    choice = Stage1Choice(settings.pretraining, settings.objective, settings.seed)
    budget = time_of(Path(control.run), stage1_identity(settings, choice, settings.trainer).material)
    return replace(settings, pretraining=replace(settings.pretraining, budget=budget))


def weights_bytes(settings: CommonSettings, start: "StartingPoint | ChosenEncoder") -> int:
    """About how many bytes a run keeps: its weights, four bytes a parameter, and `MARGIN_BYTES`."""
    if start.path is not None:
        return checkpoints.weights_file(start.path).stat().st_size + MARGIN_BYTES
    assert isinstance(settings.model, ScratchModel)
    return encoder.scratch_parameters(settings.model, start.tokenizer) * 4 + MARGIN_BYTES


def settled_representation(settings: SentimentSettings) -> dict[str, Any]:
    """The settings of the representation, for the layers that the encoder has; stage 1 changes none.

    Raises:
        UserError: it lacks a layer.
    """
    if settings.encoder not in ("base", "stage1"):
        layers = checkpoints.layer_count(settings.encoder)
    elif isinstance(settings.model, ScratchModel):
        layers = settings.model.layers
    else:
        layers = checkpoints.layer_count(checkpoints.locate(settings.model))
    return representations.settled(settings.representation, layers)


@dataclass(frozen=True)
class ChosenEncoder:
    """The encoder that a stage-2 run reads.

    Attributes:
        label: for names and tables: the objective, `base`, or the folder's name.
        path: folder or hub name; None for random weights.
        tokenizer: the encoder's own.
        fingerprint: hash of the weights, or the shape of random ones.
        condition: what the encoder is, seeds left out.
        flat: settings by which tables group.
    """

    label: str
    path: str | None
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    condition: str
    flat: dict[str, Any]


def choose_encoder(settings: SentimentSettings) -> ChosenEncoder:
    """Follow `encoder=`: the export of stage 1, the unadapted encoder, or a folder.

    Raises:
        UserError: the stage-1 export is broken or missing; then the message holds the command that makes it.
    """
    if settings.encoder == "base":
        start = starting_point(settings)
        flat: dict[str, Any] = {"encoder": "base", "objective": None, "stage1_seed": None}
        return ChosenEncoder("base", start.path, start.tokenizer, start.fingerprint, start.fingerprint, flat)
    if settings.encoder == "stage1":
        condition: str | None
        identity = stage1_identity(settings, settings.stage1, shared_trainer(settings))
        folder = identity.folder(settings.runs_dir) / EXPORT_FOLDER
        if not folder.is_dir():
            raise UserError(missing_stage1(settings, folder))
        checkpoints.check_checkpoint(str(folder), refuse_unexpected=True)
        label, condition = stage1_label(settings.stage1), identity.group
        flat = {"encoder": "stage1", "objective": label, "stage1_seed": settings.stage1.seed}
    else:
        folder = Path(settings.encoder)
        place = folder.resolve()
        label = place.parent.name if place.name == EXPORT_FOLDER else place.name
        condition = checkpoints.condition_of(folder)
        mark = " (reads labels)" if checkpoints.reads_labels(folder) else ""
        flat = {"encoder": settings.encoder + mark, "objective": None, "stage1_seed": None}
    path = str(folder)
    fingerprint = checkpoints.fingerprint(path)
    check_length(settings.data.max_length, checkpoints.longest_text(path))
    return ChosenEncoder(label, path, load_tokenizer(path), fingerprint, condition or fingerprint, flat)


def shared_trainer(settings: CommonSettings) -> dict[str, Any]:
    """The trainer settings that both stages have; a stage-1 run with others is named by its folder in stage 2."""
    return {key: settings.trainer[key] for key in ("accelerator", "devices", "precision")}


def missing_stage1(settings: SentimentSettings, folder: Path) -> str:
    """The message for a stage-1 export that is not there, with the command that makes it."""
    return (
        f"The stage-1 encoder is missing: {folder}\n"
        f"  make it:                {settings.stage1_command}\n"
        "  or use it unadapted:    encoder=base\n"
        "  or name another folder: encoder=FOLDER (also for a stage 1 that had trainer settings of its own)"
    )


class SentimentJob(Job):
    """Stage 2: train a classifier on one representation, keep the best epoch on dev, read test once."""

    selection_metric = SELECTION_METRIC
    headline = (SELECTION_METRIC, "test/accuracy", "test/macro_f1")

    def __init__(self, settings: SentimentSettings) -> None:
        self.settings: SentimentSettings = settings
        self.chosen = choose_encoder(settings)
        self.representation = settled_representation(settings)
        self.representation_label = representations.label_of(self.representation)
        if isinstance(settings.protocol, TrainedProtocol):
            self.optimisation = settings.protocol.optimisation
            self.epochs = settings.protocol.epochs
        self.corpus = labelled_corpus(settings)
        self.drawn = drawn_examples(settings, self.corpus)
        self.identity = self._identity()
        self.pooler_status = ""
        classes = len(self.corpus.label_names)
        start = self.chosen.path or f"{settings.model.name} from random weights"
        self.task = f"{settings.protocol.name} of {start} into {classes} classes, from {self.representation_label}"
        self.power = partial(power_in_words, len(self.corpus.labelled["test"]))

    def kept_bytes(self) -> int:
        """The best checkpoint: as large as the encoder's weights."""
        return weights_bytes(self.settings, self.chosen)

    @property
    def next_steps(self) -> dict[str, str]:
        """The report, and the command that makes it."""
        runs = self.settings.runs_dir
        elsewhere = "" if runs == Path("runs") else f" --runs {shlex.quote(str(runs))}"
        return {
            "report": f"{runs}/report/index.html, by the next command",
            "next": f"python -m poolwise.report{elsewhere}",
        }

    def _identity(self) -> RunIdentity:
        settings, chosen = self.settings, self.chosen
        drawn, depends = settings.labels_per_class is not None, self._depends_on_seed
        labels = {"per_class": settings.labels_per_class, "label_seed": settings.label_seed}
        material = {
            "stage": "sentiment",
            **({"seed": settings.seed} if depends else {}),
            **({"labels": labels} if drawn else {}),
            "weights": chosen.fingerprint,
            "tokenizer": tokenizer_hash(chosen.tokenizer),
            "labelled": {split: content_hash(rows) for split, rows in self.corpus.labelled.items()},
            "max_length": settings.data.max_length,
            "representation": representations.material_of(self.representation),
            "protocol": asdict(settings.protocol),
            "platform": platform(settings.trainer),
        }
        condition = "-".join(
            (
                settings.data.name,
                settings.model.name,
                chosen.label,
                self.representation_label,
                self.protocol_label.replace(" ", "_"),
            )
        )
        stage1_seed = chosen.flat["stage1_seed"]
        seeds = [f"seed{settings.seed}"] if depends else []
        seeds += [] if stage1_seed is None else [f"stage1seed{stage1_seed}"]
        seeds += [f"labelseed{settings.label_seed}"] if drawn else []
        return RunIdentity(
            stage="sentiment",
            name="-".join([condition, *seeds]),
            condition=condition,
            material=material,
            condition_material=without_seeds({**material, "weights": chosen.condition}),
            flat={
                "data": settings.data.name,
                "model": model_label(settings),
                **chosen.flat,
                "repr": self.representation_label,
                "protocol": self.protocol_label,
                "seed": settings.label_seed if drawn and not depends else settings.seed,
                "label_seed": settings.label_seed,
            },
        )

    @property
    def protocol_label(self) -> str:
        """How tables and names call the protocol: with the number of labels, where that is not all."""
        count = self.settings.labels_per_class
        return self.settings.protocol.name + ("" if count is None else f" on {count} labels a class")

    @property
    def _depends_on_seed(self) -> bool:
        """Whether `seed` changes a number: in a probe, only where encoder or pooler are drawn by it."""
        path = self.chosen.path
        uses_pooler = representation_class(self.representation["name"]).uses_pooler
        drawn = path is None or (uses_pooler and not checkpoints.has_pooler(path))
        return drawn or isinstance(self.settings.protocol, TrainedProtocol)

    def texts(self) -> dict[str, TokenisedTexts]:
        """The labelled splits as token ids, all of them."""
        return tokenised(self.corpus.labelled, self.chosen.tokenizer, self.settings)

    def stored(self, model: Any, texts: Mapping[str, TokenisedTexts]) -> dict[str, StatesOnDisk]:
        """The frozen encoder's states of each split, read once."""
        settings, chosen = self.settings, self.chosen
        found = {}
        for split, rows in self.corpus.labelled.items():
            material = [vectors.CODE_VERSION, chosen.fingerprint, None if chosen.path else settings.seed]
            material += [tokenizer_hash(chosen.tokenizer), content_hash(rows), settings.data.max_length]
            device = self.identity.material["platform"]["device"]
            folder = settings.cache_dir / "states" / hash_of([*material, device])[:32]
            found[split] = stored_states(model, texts[split], folder, device)
        return found

    def load(self) -> tuple[Any, Representation]:
        """The encoder, and the representation; notes the pooler's status, and warns of one that nothing trained."""
        settings, chosen = self.settings, self.chosen
        if chosen.path is None:
            assert isinstance(settings.model, ScratchModel)
            model = encoder.build_from_scratch(settings.model, chosen.tokenizer, settings.seed).body
            self.pooler_status = "random"
        else:
            model, self.pooler_status = encoder.load_encoder(
                chosen.path, settings.seed, pooler_required=settings.encoder == "stage1"
            )
        representation = build_representation(self.representation, EncoderShape.of(model.config))
        if representation.uses_pooler and self.pooler_status in DISTRUSTED_POOLERS:
            what = f" model={chosen.path} trainable=pooler" if chosen.path else ""
            log.warning(
                "WARNING: repr=%s reads a pooler that is %s; train it: python train.py stage=mlm%s",
                *(self.representation_label, self.pooler_status, what),
            )
        return model, representation

    def build(self) -> tuple[Stage, TextDataModule]:
        """Classifier and labelled batches; of a frozen encoder, with its stored states in its place."""
        settings, protocol = self.settings, self.settings.protocol
        assert isinstance(protocol, TrainedProtocol)
        model, representation = self.load()
        every, drawn = self.texts(), self.drawn
        texts = every if settings.labels_per_class is None else {**every, "train": every["train"].select(drawn)}
        data = labelled_data(texts, protocol.batch_size, settings.seed, settings.workers)
        is_frozen = isinstance(protocol, Frozen)
        if is_frozen:
            examples = {split: drawn if split == "train" else np.arange(len(texts[split])) for split in texts}
            data.batches = {
                split: BatchesWithLayers(data.batches[split], states, examples[split], representation.needs_all_states)
                for split, states in self.stored(model, every).items()
            }
        classifier = SentimentClassifier(
            model, representation, len(self.corpus.label_names), protocol.dropout, reads_stored=is_frozen
        )
        if isinstance(protocol, Frozen):
            classifier.settle_dense(protocol.dense)
        return Sentiment(classifier, self.optimisation), data

    def conclude(self, trainer: lightning.Trainer, stage: Stage, data: TextDataModule, record: RunRecord) -> None:
        """Read test once, with the best checkpoint; keep every prediction."""
        assert isinstance(stage, Sentiment)
        if "dev" not in stage.figures:
            raise UserError("dev was never evaluated (see your +trainer settings), so no epoch can be chosen")
        best = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
        trainer.test(stage, data, ckpt_path=best, verbose=False, weights_only=True)
        record.results["parameters"] = sum(p.numel() for p in stage.classifier.parameters())
        self.note(record, stage.classifier.representation, stage.classifier.parameters_of_vectors)
        self.note_figures(record, stage.figures, stage.predictions)

    def note(self, record: RunRecord, representation: Representation, parameters: int) -> None:
        """Note what was classified from; `parameters` lie between hidden states and vectors."""
        record.results["representation"] = {
            **self.representation,
            "formula": representation.formula_here,
            "parameters": parameters,
        }
        record.results["pooler_status"] = self.pooler_status
        record.results["label_names"] = list(self.corpus.label_names)

    def note_figures(
        self, record: RunRecord, figures: Mapping[str, dict[str, Tensor]], predictions: Mapping[str, dict[str, Tensor]]
    ) -> None:
        """Note the figures of dev and test, and write every prediction."""
        record.results["metrics"] = plain({**figures["dev"], **figures["test"]})
        record.write_predictions(predictions)


class ProbeJob(SentimentJob):
    """Stage 2 as a logistic regression on the stored states of a frozen encoder."""

    def kept_bytes(self) -> int:
        """Predictions and logs; the states' room is asked for when they are made."""
        return MARGIN_BYTES

    def carry_out(
        self,
        record: RunRecord,
        run_loggers: list[Any],
        screen: TrainingScreen,
        announce_start: Callable[[dict[str, str]], None],
    ) -> None:
        """Fit a probe of each strength, keep the best on dev, read test once."""
        assert isinstance(self.settings.protocol, Probe)
        model, representation = self.load()
        texts = self.texts()
        used = {split: self.drawn if split == "train" else np.arange(len(texts[split])) for split in texts}
        announce_start({"train": self.task, "on": f"{self.settings.data.name}: {counted(len(self.drawn), 'text')}"})
        pooler = model.pooler if representation.uses_pooler else None
        found = {
            split: vectors_of(representation, pooler, states, used[split])
            for split, states in self.stored(model, texts).items()
        }
        labels = {split: texts[split].labels[used[split]] for split in found}

        def scored(probe: FittedProbe, split: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            return scores_of(split, probe.logits(found[split]), labels[split])

        best = fit_best(
            found["train"],
            labels["train"],
            len(self.corpus.label_names),
            lambda probe: float(scored(probe, "dev")[0][SELECTION_METRIC]),
            self.settings.protocol.strengths,
        )
        results = {split: scored(best, split) for split in ("dev", "test")}
        record.results |= {"strength": best.strength, "parameters": best.weights.size + best.bias.size}
        self.note(record, representation, sum(p.numel() for p in pooler.parameters()) if pooler is not None else 0)
        figures, predictions = ({split: pair[part] for split, pair in results.items()} for part in (0, 1))
        self.note_figures(record, figures, predictions)
        for logger in run_loggers:
            logger.log_metrics({**record.results["metrics"], "strength": best.strength}, 0)


def labelled_corpus(settings: SentimentSettings) -> Corpus:
    """The corpus, if it has labels.

    Raises:
        UserError: it has none.
    """
    corpus = load_corpus(settings.data)
    if not corpus.labelled:
        raise UserError("stage=sentiment needs labelled files: data.train, data.dev and data.test")
    return corpus


def drawn_examples(settings: SentimentSettings, corpus: Corpus) -> ndarray:
    """Which training texts are used, (n,) numbers.

    Raises:
        UserError: a class has fewer than are asked for.
    """
    labels, count = np.array(corpus.labelled["train"]["label"]), settings.labels_per_class
    if count is None:
        return np.arange(len(labels))
    return balanced_draw(labels, tuple(corpus.label_names), count, settings.label_seed)


def tokenised(
    splits: dict[str, Any], tokenizer: PreTrainedTokenizerBase, settings: CommonSettings
) -> dict[str, TokenisedTexts]:
    """The splits as token ids, by way of the cache."""
    return {
        split: tokenise(rows, tokenizer, settings.data.max_length, settings.cache_dir / "tokens")
        for split, rows in splits.items()
    }
