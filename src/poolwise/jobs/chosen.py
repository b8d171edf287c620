"""Which encoder a stage-2 run reads, and the representation that this encoder has layers for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from poolwise import checkpoints, representations
from poolwise.command_line import stage1_command
from poolwise.data.contamination import text_keys
from poolwise.data.corpus import content_hash
from poolwise.jobs.stage1 import stage1_identity, stage1_label
from poolwise.jobs.start import check_length, starting_point
from poolwise.jobs.trainer import shared_trainer
from poolwise.runs import EXPORT_FOLDER, held_by, read_record
from poolwise.settings import Finetune, ScratchModel, SentimentSettings, UserError


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
        provenance: what stage 1 noted of its pooler; empty for an encoder of other origin.
        pieces: as of a `StartingPoint`.
    """

    label: str
    path: str | None
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    condition: str
    flat: dict[str, Any]
    provenance: dict[str, Any]
    pieces: tuple[tuple[int, ...], ...] | None = None


def choose_encoder(settings: SentimentSettings) -> ChosenEncoder:
    """Follow `encoder=`: the export of stage 1, the unadapted encoder, or a folder.

    Raises:
        UserError: the stage-1 export is broken or missing; then the message holds the command that makes it.
    """
    if settings.encoder == "base":
        start = starting_point(settings)
        flat: dict[str, Any] = {"encoder": "base", "objective": None, "stage1_seed": None}
        fingerprint = start.fingerprint
        return ChosenEncoder("base", start.path, start.tokenizer, fingerprint, fingerprint, flat, {}, start.pieces)
    if settings.encoder == "stage1":
        identity = stage1_identity(settings, settings.stage1, shared_trainer(settings))
        folder = identity.folder(settings.runs_dir) / EXPORT_FOLDER
        if not folder.is_dir():
            raise UserError(missing_stage1(settings, folder))
        checkpoints.check_checkpoint(str(folder), refuse_unexpected=True)
        label, seed = stage1_label(settings.stage1), settings.stage1.seed
        flat = {"encoder": "stage1", "objective": label, "stage1_seed": seed}
        return _on_disk(folder, label, identity.group, flat, settings)
    folder = Path(settings.encoder)
    noted = checkpoints.provenance_of(folder)
    mark = " (reads labels)" if checkpoints.reads_labels(folder) else ""
    flat = {"encoder": settings.encoder + mark, "objective": noted.get("objective"), "stage1_seed": noted.get("seed")}
    flat |= {"model": noted["model"]} if "model" in noted else {}
    return _on_disk(folder, noted.get("objective"), noted.get("condition"), flat, settings)


def _on_disk(
    folder: Path, objective: str | None, condition: str | None, flat: dict[str, Any], settings: SentimentSettings
) -> ChosenEncoder:
    """A folder; what stage 1 noted of itself is None for one of other origin, which is then called by its name."""
    path = str(folder)
    fingerprint = checkpoints.fingerprint(path)
    check_length(settings.data.max_length, checkpoints.longest_text(path))
    label = objective or folder.resolve().name
    provenance = checkpoints.pooler_notes(folder)
    tokenizer = tokenizer_of(folder)
    return ChosenEncoder(label, path, tokenizer, fingerprint, condition or fingerprint, flat, provenance)


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """A folder's own, which the jobs of a sweep share: each would take 10 MB and a tenth of a second."""
    files = (file for file in sorted(folder.iterdir()) if file.is_file())
    return _loaded_tokenizer(str(folder), tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=64)
def _loaded_tokenizer(path: str, _files: tuple[tuple[int, int], ...]) -> PreTrainedTokenizerBase:
    return checkpoints.load_tokenizer(path)


def texts_in_stage1(encoder: str, path: str | None, known: Sequence[Dataset], tested: Dataset) -> int | None:
    """How many of the tested texts stage 1 was trained on, without their labels; what `normalised` evens out aside.

    None where that is not known: the encoder is of other origin than stage 1, what its stage 1 read is not the text
    of `known` or not to be found, or it started from an encoder of another stage 1. An unadapted encoder had no
    stage 1; what was read by those who released it is not asked.

    Args:
        encoder: `stage1`, `base` or a folder.
        path: of its checkpoint; None for random weights.
        known: what a stage 1 on this data reads, with and without the texts that `data.contamination=drop` drops.
        tested: labelled texts.
    """
    folder = None if path is None else Path(path).resolve()
    noted = {} if folder is None else checkpoints.provenance_of(folder)
    if folder is None or not noted:
        return 0 if encoder == "base" else None
    record = read_record(folder.parent)
    if record is None or record["key"] != noted.get("key"):
        return None
    read_then = [texts for texts in known if content_hash(texts) == record["material"]["text"]["train"]]
    if not read_then:
        return None
    read = int(np.isin(text_keys(tested), text_keys(read_then[0])).sum()) if record["steps"] > 0 else 0
    before = record["config"]["model"].get("path")
    if not read and before and checkpoints.provenance_of(Path(before)):
        return None
    return read


def missing_stage1(settings: SentimentSettings, folder: Path) -> str:
    """The message for a stage-1 export that is not there: who is making it, or the command that does."""
    if maker := held_by(folder.parent):
        return f"The stage-1 encoder is not there yet: {maker} is making {folder}; when it is done, try again"
    return (
        f"The stage-1 encoder is missing: {folder}\n"
        f"  make it:                {stage1_command(settings.overrides)}\n"
        "  or use it unadapted:    encoder=base\n"
        "  or name another folder: encoder=FOLDER (also for a stage 1 that had trainer settings of its own)"
    )


def layer_count(settings: SentimentSettings) -> int:
    """How many layers the encoder has; stage 1 changes none."""
    if settings.encoder not in ("base", "stage1"):
        return checkpoints.layer_count(settings.encoder)
    if isinstance(settings.model, ScratchModel):
        return settings.model.layers
    return checkpoints.layer_count(checkpoints.locate(settings.model))


def settled_representation(settings: SentimentSettings) -> dict[str, Any]:
    """The settings of the representation, for the layers that the encoder has.

    Raises:
        UserError: it lacks a layer.
    """
    return representations.settled(settings.representation, layer_count(settings))


def reinitialised_layers(settings: SentimentSettings) -> range:
    """The numbers of the layers that are drawn anew, from the one that the representation takes for the last down.

    Raises:
        UserError: there are fewer.
    """
    if not isinstance(settings.protocol, Finetune):
        return range(0)
    count, last = settings.protocol.reinitialise.top_layers, settled_representation(settings)["layer"]
    last = layer_count(settings) if last is None else last
    if count > last:
        raise UserError(
            f"protocol.reinitialise.top_layers={count}: the representation reads layer {last} of this encoder and "
            f"those below it; allowed: 0 to {last}"
        )
    return range(last, last - count, -1)
