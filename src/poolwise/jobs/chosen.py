"""Which encoder a stage-2 run reads, and the representation that this encoder has layers for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from poolwise import checkpoints, representations
from poolwise.jobs.stage1 import EXPORT_FOLDER, stage1_identity, stage1_label
from poolwise.jobs.start import check_length, load_tokenizer, starting_point
from poolwise.jobs.trainer import shared_trainer
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


def missing_stage1(settings: SentimentSettings, folder: Path) -> str:
    """The message for a stage-1 export that is not there, with the command that makes it."""
    return (
        f"The stage-1 encoder is missing: {folder}\n"
        f"  make it:                {settings.stage1_command}\n"
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
