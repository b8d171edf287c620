"""The encoder that a run starts from: an unadapted one, its tokenizer, and what a run of it leaves on disk."""

import json
import logging
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from poolwise import checkpoints, encoder
from poolwise.data import vocabulary
from poolwise.data.corpus import content_hash, each_text
from poolwise.data.tokens import TokenisedTexts, kept_wordpiece, tokenise, tokenised_in_memory, tokenizer_hash
from poolwise.data.vocabulary import Vocabulary
from poolwise.jobs.corpus import stage1_text
from poolwise.runs import hash_of
from poolwise.settings import CommonSettings, DataSettings, ModelSettings, PretrainedModel, ScratchModel, UserError
from poolwise.stages import vectors
from poolwise.words import counted, some

log = logging.getLogger(__name__)

MARGIN_BYTES = 20_000_000
"""Room for what lies beside the weights: tokenizer, predictions, logs, an MLM head that the checkpoint lacks."""

SCRATCH_POSITIONS = 512
"""Position embeddings of a BERT from scratch (the default of `BertConfig`)."""


@dataclass(frozen=True)
class StartingPoint:
    """What an unadapted encoder is.

    Attributes:
        tokenizer: its own, or one made of it for the stage-1 text.
        path: folder or hub name; None for random weights.
        fingerprint: hash of weights and config; of random weights, their shape.
        source: the weights file and its hash, for provenance; None for random weights.
        pieces: of a tokenizer that is not its own (see `Vocabulary`); None for its own.
    """

    tokenizer: PreTrainedTokenizerBase
    path: str | None
    fingerprint: str
    source: str | None
    pieces: tuple[tuple[int, ...], ...] | None = None


def starting_point(settings: CommonSettings) -> StartingPoint:
    """The encoder that `model` names, before any adaptation."""
    return _starting_point(settings.model, settings.data, settings.rows_dir, Place(settings.cache_dir))


@dataclass(frozen=True)
class Place:
    """Where something is kept, which is no part of what it is: all places are equal."""

    folder: Path = field(compare=False)


@lru_cache(maxsize=4)
def _starting_point(model: Any, data: Any, cache: Path | None, place: Place) -> StartingPoint:
    if isinstance(model, ScratchModel):
        check_length(data.max_length, SCRATCH_POSITIONS)
        if model.vocabulary is None:
            texts, kept = stage1_text(data, cache)["train"], place.folder / "vocabularies"
            tokenizer = kept_wordpiece(texts, model.vocabulary_size, data.max_length, kept)
        else:
            tokenizer = vocabulary.published(model.vocabulary, data.max_length)
        # The vocabulary enters keys by what the tokenizer does; the size of one that is not trained changes nothing.
        unused = ("vocabulary", "vocabulary_size") if model.vocabulary else ("vocabulary",)
        shape = {
            key: value
            for key, value in asdict(model).items()
            if key not in unused and not key.startswith(("mlm_", "finetune_", "name"))
        }
        return StartingPoint(tokenizer, None, json.dumps(shape, sort_keys=True), None)
    path = checkpoints.locate(model)
    weights = checkpoints.weights_file(path)
    check_length(data.max_length, checkpoints.longest_text(path))
    source = f"{model.name}, sha256 {checkpoints.file_hash(weights)}"
    tokenizer, fingerprint = checkpoints.load_tokenizer(path), checkpoints.fingerprint(path)
    made = made_vocabulary(model, path, tokenizer, data, cache, place.folder / "vocabularies")
    if made is None:
        return StartingPoint(tokenizer, path, fingerprint, source)
    material = [vocabulary.CODE_VERSION, fingerprint, tokenizer_hash(tokenizer), tokenizer_hash(made.tokenizer)]
    return StartingPoint(made.tokenizer, path, hash_of(material), source, made.pieces)


def made_vocabulary(
    model: PretrainedModel,
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    data: DataSettings,
    cache: Path | None,
    kept: Path,
) -> Vocabulary | None:
    """What the settings make of the vocabulary of a checkpoint for the text of stage 1; None where nothing.

    Rows of that text are kept in `cache`, and the new words or pieces in `kept`.

    Raises:
        UserError: the tokenizer or the text does not serve.
    """
    if model.vocabulary_size is not None:
        if checkpoints.check_family(path).positions_follow_padding:
            raise UserError(
                f"model.vocabulary_size={model.vocabulary_size}: {path} counts positions from the number of its "
                "padding, which a new vocabulary changes; allowed: null"
            )
        return vocabulary.retrained(tokenizer, stage1_text(data, cache)["train"], model.vocabulary_size, kept)
    if model.add_words:
        made = vocabulary.with_words(tokenizer, stage1_text(data, cache)["train"], model.add_words, kept)
        log.info("%s added to the vocabulary of %s: %s", counted(len(made.added), "word"), path, some(made.added))
        return made
    return None


def check_length(max_length: int, positions: int) -> None:
    """Raise a UserError if texts may be longer than the encoder has positions."""
    if max_length > positions:
        raise UserError(f"data.max_length={max_length}: this encoder has {positions} positions, so at most {positions}")


LOOKED_AT = 200
"""Texts; enough to see that a vocabulary is of another script."""


@lru_cache(maxsize=4)  # a sweep asks it of the same texts in each job
def check_words(texts: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, name: str) -> None:
    """See that the tokenizer knows something of the first texts.

    Raises:
        UserError: of more than half of them it knows no word piece.
    """
    some = texts[:LOOKED_AT]["text"]
    ids = tokenizer(some, truncation=True, max_length=max_length)["input_ids"]
    special = set(tokenizer.all_special_ids)
    unknown = sum(special.issuperset(each) for each in ids)
    if 2 * unknown > len(some):
        raise UserError(
            f"data={name}: of {unknown} of the first {counted(len(some), 'training text')} the tokenizer knows no word "
            "piece; is model= for another language?"
        )


def starts_from_labels(settings: CommonSettings) -> bool:
    """Whether the encoder that `model` names was trained on labels by a stage 1 of poolwise."""
    model = settings.model
    return isinstance(model, PretrainedModel) and checkpoints.reads_labels(Path(checkpoints.locate(model)))


def model_name(model: ModelSettings) -> str:
    """How folders call the model: marked where its vocabulary is not its own."""
    if not isinstance(model, PretrainedModel):
        return model.name + (f"+{Path(model.vocabulary).stem}" if model.vocabulary else "")
    made = "" if model.vocabulary_size is None else f"+vocabulary{model.vocabulary_size}"
    return model.name + (f"+{model.add_words}words" if model.add_words else made)


def model_label(settings: CommonSettings) -> str:
    """How tables call the model: also marked where it was trained on labels."""
    return model_name(settings.model) + (" (reads labels)" if starts_from_labels(settings) else "")


def weights_bytes(settings: CommonSettings, path: str | None, tokenizer: PreTrainedTokenizerBase) -> int:
    """About how many bytes a run keeps of the encoder at `path`, or of random weights: four a parameter, a margin."""
    if path is not None:
        return checkpoints.weights_file(path).stat().st_size + MARGIN_BYTES
    assert isinstance(settings.model, ScratchModel)
    return encoder.scratch_parameters(settings.model, tokenizer) * 4 + MARGIN_BYTES


def states_key(settings: CommonSettings, weights: Any, tokenizer: str, rows: Dataset, device: str) -> str:
    """By which the states of texts are kept under `cache_dir` that a frozen encoder, given by its `weights`, read.

    `tokenizer` is the hash of what cut them into word pieces.
    """
    material = [vectors.CODE_VERSION, *weights, tokenizer, content_hash(rows), settings.data.max_length]
    return hash_of([*material, *settings.data.reading.material.values(), device])[:32]


def tokenised(
    splits: dict[str, Any], tokenizer: PreTrainedTokenizerBase, settings: CommonSettings
) -> dict[str, TokenisedTexts]:
    """The splits as token ids, by way of the cache."""
    return {
        split: tokenise(rows, tokenizer, settings.data.max_length, settings.cache_dir / "tokens", settings.data.reading)
        for split, rows in splits.items()
    }


def first_of_stream(
    splits: dict[str, Any], tokenizer: PreTrainedTokenizerBase, settings: CommonSettings
) -> dict[str, TokenisedTexts]:
    """The same where train is a stream, of which the first texts are given and nothing is kept."""
    data = settings.data
    first = tokenised_in_memory(list(each_text(splits["train"])), tokenizer, data.max_length, data.reading)
    return {"train": first, **tokenised({"dev": splits["dev"]}, tokenizer, settings)}
