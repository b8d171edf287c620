"""A classifier that stage 2 trained: what of it is kept beside the run's record, and how it is used.

Shapes: N texts, D vector size, C classes.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from poolwise import checkpoints, encoder
from poolwise.data.batching import Batch, LabelledBatches, batches_to_read
from poolwise.data.tokens import tokenised_in_memory
from poolwise.durable import draft_folder_of
from poolwise.representations import REPRESENTATIONS, EncoderShape, build_representation, label_of
from poolwise.runs import MODEL_FOLDER, read_record
from poolwise.settings import LongTexts, Read, UserError, problems_by_name
from poolwise.stages.sentiment import SentimentClassifier
from poolwise.words import first_line

ENCODER_FOLDER = "encoder"
NOTES_FILE = "classifier.json"
WEIGHTS_FILE = "classifier.safetensors"
HOTTEST = 20.0
"""The most by which logits are divided, or multiplied."""


@dataclass(frozen=True)
class Notes:
    """What a reader of the weights must know, kept as JSON beside them.

    Attributes:
        representation: its settings.
        formula: of the representation, in words.
        label_names: C names, in the order of the logits.
        temperature: what logits are divided by to be calibrated: see `fitted_temperature`.
        max_length: word pieces of a text or of a window of it.
        long_texts: what is read of longer texts: see `LongTexts`.
        encoder: folder or hub name of an encoder that stage 2 left as it was; None where its own lies beside.
        fingerprint: of that encoder.
    """

    representation: dict[str, Any]
    formula: str
    label_names: list[str]
    temperature: float
    max_length: int
    long_texts: dict[str, Any]
    encoder: str | None
    fingerprint: str | None


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of a text.

    Attributes:
        text: as it was given.
        label: the name of the likeliest class.
        probabilities: of each class by name, calibrated on dev.
    """

    text: str
    label: str
    probabilities: dict[str, float]


class TrainedClassifier:
    """A classifier as stage 2 left it, in eval mode.

    Attributes:
        folder: the run's.
        notes: what it is.
        tokenizer: the encoder's.
        classifier: encoder, representation and head.
        record: of the run; empty if it is gone.
    """

    def __init__(
        self, folder: Path, notes: Notes, tokenizer: PreTrainedTokenizerBase, classifier: SentimentClassifier
    ) -> None:
        """Take the parts, and move them to the GPU if there is one."""
        self.folder = folder
        self.notes = notes
        self.tokenizer = tokenizer
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.classifier = classifier.eval().to(self.device)
        self.record = read_record(folder) or {}

    @property
    def name(self) -> str:
        """The representation, with what is set of it: `pooler`, `mean@layer3`."""
        return label_of(self.notes.representation)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """What each text is, with calibrated probabilities.

        Raises:
            TypeError: `texts` is no list of strings.
        """
        calibrated = softmax(self.logits(texts) / self.notes.temperature, axis=1)
        names = self.notes.label_names
        return [
            Prediction(text, names[int(row.argmax())], dict(zip(names, row.tolist(), strict=True)))
            for text, row in zip(texts, calibrated, strict=True)
        ]

    def logits(self, texts: Sequence[str]) -> Float[ndarray, "N C"]:
        """Class logits of each text, as the head gives them.

        Raises:
            TypeError: `texts` is no list of strings.
        """
        vectors = self.encode(texts)
        with torch.inference_mode():
            found: ndarray = self.classifier.logits(torch.from_numpy(vectors).to(self.device)).cpu().numpy()
        return found

    def encode(self, texts: Sequence[str], repr: str | None = None) -> Float[ndarray, "N D"]:
        """A vector of each text.

        Args:
            texts: N strings.
            repr: the name of a representation that learns nothing in stage 2; None for the one that was trained.
                `pooler` where this run reads it, or left the encoder as it was and that has one.

        Raises:
            TypeError: `texts` is no list of strings.
            UserError: there is no such representation, or this classifier has no part for it.
        """
        check_texts(texts)
        model = self.classifier if repr is None else self._reading(repr)
        found = torch.empty((len(texts), model.representation.dimension))
        with torch.inference_mode():
            for batch in self._batches(texts):
                found[batch["examples"]] = model.vectors(batch).float().cpu()
        return found.numpy()

    def _reading(self, name: str) -> SentimentClassifier:
        """The same encoder, read by another representation.

        A shallow copy, because a `SentimentClassifier` takes the pooler out of the body it is given.
        """
        allowed = [kind.name for kind in REPRESENTATIONS.values() if not kind.learned]
        if self.classifier.pooler is None:
            allowed.remove("pooler")
        if name not in allowed:
            raise UserError(
                f"repr={name}: allowed with this run, beside its own {self.notes.representation['name']}: "
                f"{', '.join(allowed)}{self._why_no_pooler() if name == 'pooler' else ''}"
            )
        body = self.classifier.encoder
        assert body is not None
        other = SentimentClassifier.__new__(SentimentClassifier)
        torch.nn.Module.__init__(other)
        other.encoder, other.pooler = body, self.classifier.pooler
        other.representation = build_representation({"name": name, "layer": None}, EncoderShape.of(body.config))
        return other

    def _why_no_pooler(self) -> str:
        """Why `pooler` is not allowed, and what to do."""
        if self.notes.encoder is not None:
            return f". The encoder {place_of(self.notes.encoder, self.folder)} has no pooler"
        return (
            ". This run kept no pooler: fine-tuning of another representation drops it, as no loss reached it, and so "
            "does a run that keeps a frozen encoder of its own; use a run of repr=pooler"
        )

    def _batches(self, texts: Sequence[str]) -> Iterator[Batch]:
        notes = self.notes
        tokens = tokenised_in_memory(list(texts), self.tokenizer, notes.max_length, LongTexts(**notes.long_texts))
        unlabelled = LabelledBatches(replace(tokens, labels=np.zeros(len(tokens), np.int64)))
        for examples in batches_to_read(tokens.lengths, self.classifier.encoder.config.hidden_size, self.device):
            batch = unlabelled[[(0, int(example)) for example in examples]]
            yield {key: part.to(self.device) if isinstance(part, Tensor) else part for key, part in batch.items()}


def check_texts(texts: Sequence[str]) -> None:
    """Raise a TypeError unless these are strings, a UserError if one holds half a character."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"a list of texts is needed, such as ['a text'], not {type(texts).__name__}")
    for number, text in enumerate(texts, 1):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"text {number} is not valid Unicode: it holds half a character (a surrogate)")


def fitted_temperature(logits: Float[ndarray, "N C"], labels: Int[ndarray, " N"]) -> float:
    """What to divide logits by so that their probabilities are right on these texts: Guo et al. 2017, section 4.2.

    It minimises the cross entropy on them, 1 / `HOTTEST` to `HOTTEST`, of targets that are not quite certain (Platt
    1999, section 2.2): where the n texts of a class are all right, the next one is with probability (n + 1) / (n + C).
    """
    classes = logits.shape[1]
    several = np.bincount(labels, minlength=classes)[labels][:, None]
    targets = np.where(np.arange(classes) == labels[:, None], several + 1, 1) / (several + classes)

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    widest = np.log(HOTTEST)
    return float(np.exp(minimize_scalar(loss, bounds=(-widest, widest), method="bounded").x))


def save(
    folder: Path,
    notes: Notes,
    classifier: SentimentClassifier,
    body: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write a classifier so that it appears whole or not at all.

    Args:
        folder: where; one that is there is replaced.
        notes: what it is.
        classifier: whose head, representation and pooler are written.
        body: the encoder, where it is not one that lies elsewhere (`notes.encoder`).
        tokenizer: written beside the encoder.

    Raises:
        UserError: the folder cannot be written.
    """
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in classifier.state_dict().items()
        if not name.startswith("encoder.")
    }
    noted = json.dumps(asdict(notes), indent=2, ensure_ascii=False) + "\n"
    try:
        with draft_folder_of(folder) as draft:
            save_file(weights, draft / WEIGHTS_FILE)
            (draft / NOTES_FILE).write_text(noted, encoding="utf-8")
            if body is not None:
                body.save_pretrained(draft / ENCODER_FOLDER)
                tokenizer.save_pretrained(draft / ENCODER_FOLDER)
                checkpoints.write_sums(draft / ENCODER_FOLDER)
            checkpoints.write_sums(draft)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the classifier could not be written to {folder}: {error}") from error


def load(run: str | Path) -> TrainedClassifier:
    """The classifier of a finished stage-2 run.

    Args:
        run: its folder.

    Raises:
        UserError: there is none, it is broken, or the encoder that it reads has changed since.
    """
    folder = Path(run)
    notes = read_notes(folder)
    checkpoints.check_sums(folder / MODEL_FOLDER)
    own = folder / MODEL_FOLDER / ENCODER_FOLDER
    path = str(own) if notes.encoder is None else place_of(notes.encoder, folder)
    checkpoints.check_checkpoint(path, refuse_unexpected=False)
    if notes.encoder is not None and checkpoints.fingerprint(path) != notes.fingerprint:
        raise UserError(f"{path} is not the encoder that {folder} was trained on: its weights have changed since")
    with quiet():
        body, _ = encoder.load_encoder(path, pooler_required=False)
    pooler = body.pooler if checkpoints.has_pooler(path) else None
    representation = build_representation(notes.representation, EncoderShape.of(body.config))
    classifier = SentimentClassifier(body, representation, len(notes.label_names), dropout=0.0)
    file = folder / MODEL_FOLDER / WEIGHTS_FILE
    try:
        found = classifier.load_state_dict(load_file(file), strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{file} does not fit this classifier ({error})") from error
    lacking = [name for name in found.missing_keys if not name.startswith("encoder.")]
    if lacking or found.unexpected_keys:
        raise UserError(f"{file} does not fit this classifier; missing: {lacking}, unexpected: {found.unexpected_keys}")
    if classifier.pooler is None:
        classifier.pooler = pooler  # which this classifier does not read, but others may: see `encode`
    return TrainedClassifier(folder, notes, checkpoints.load_tokenizer(path), classifier)


@contextmanager
def quiet() -> Iterator[None]:
    """Have transformers not report a pooler that lies in the classifier's own file as missing."""
    before, shown = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if shown:
            transformers_logging.enable_progress_bar()


def read_notes(folder: Path) -> Notes:
    """What is noted of the classifier in a run's folder.

    Raises:
        UserError: there is none, or it is broken.
    """
    file = folder / MODEL_FOLDER / NOTES_FILE
    if not file.is_file():
        raise UserError(f"{folder} holds no trained classifier{_reason(folder)}")
    values = checkpoints.read_json(file)
    try:
        notes = Notes(**values)
        problems = problems_with_notes(notes)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        problems = [first_line(error)]
    if problems:
        raise UserError(f"{file} is not as stage 2 writes it: {'; '.join(problems)}")
    return notes


def problems_with_notes(notes: Notes) -> list[str]:
    """What cannot be right, whoever wrote it."""
    names, length = notes.label_names, notes.max_length
    found = problems_with_representation(notes.representation)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < 2:
        found.append(f"label_names={names!r}")
    if len(set(names)) != len(names):
        found.append(f"label_names={names!r} holds a name twice")
    if not isinstance(notes.temperature, float) or not 0 < notes.temperature < math.inf:
        found.append(f"temperature={notes.temperature!r}")
    if not isinstance(length, int) or length < 4:
        found.append(f"max_length={length!r}")
    reading = LongTexts(**notes.long_texts)
    if reading.read not in get_args(Read) or not 0 <= reading.overlap < 1:
        found.append(f"long_texts={notes.long_texts!r}")
    for name in ("encoder", "fingerprint"):
        value = getattr(notes, name)
        if not (value is None or (isinstance(value, str) and len(value) < 4096)):
            found.append(f"{name} is no text")
    return found


def problems_with_representation(settings: Any) -> list[str]:
    """What is wrong with the settings of a representation."""
    if not isinstance(settings, dict):
        return [f"representation={settings!r}"]
    return problems_by_name(settings, REPRESENTATIONS, "representation.")


def _reason(folder: Path) -> str:
    if not folder.is_dir():
        return ": there is no such folder; stage-2 runs lie in runs/sentiment/"
    record = read_record(folder)
    if record is None or "stage" not in record:
        return ": it is not the folder of a run; those of stage 2 lie in runs/sentiment/"
    if record["stage"] != "sentiment":
        return ": it is a run of stage 1, whose encoder lies in its export/"
    if record["status"] != "finished":
        return f": this run is {record['status']}"
    if "strengths" in record:
        return ": a probe in folds is several classifiers, and none is kept"
    earlier = "is of an earlier poolwise" if record["config"].get("keep_model", True) else "had keep_model=false"
    return f": this run {earlier}; delete its record.json, and run its command again with keep_model=true"


def place_from(path: str, folder: Path) -> str:
    """How the notes in a run's folder name an encoder: relative to it where both lie in one folder of runs."""
    place, runs = Path(path).resolve(), folder.resolve().parent.parent
    if not place.is_dir():
        return path  # of the hub
    return str(place.relative_to(runs)) if place.is_relative_to(runs) else str(place)


def place_of(noted: str, folder: Path) -> str:
    """Where the encoder lies that the notes in a run's folder name: see `place_from`.

    Raises:
        UserError: the name leads out of the folder of runs.
    """
    runs = folder.resolve().parent.parent
    beside = runs / noted
    if Path(noted).is_absolute():
        return noted
    if not beside.resolve().is_relative_to(runs):
        raise UserError(f"{folder}: the encoder {noted} that it names lies outside of {runs}, and is not read")
    return str(beside) if beside.is_dir() else noted
