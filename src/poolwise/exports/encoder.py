"""The encoder alone, as `AutoModel.from_pretrained(FOLDER)` loads it."""

import copy
import shutil
from pathlib import Path
from typing import Any

from poolwise.checkpoints import check_family, holds_pooler
from poolwise.families import family_of
from poolwise.trained import TrainedClassifier, place_of

RANDOM_POOLER = (
    "this encoder has no pooler, so that AutoModel draws one at random at each load; its pooler_output is of no use "
    "(add_pooling_layer=False leaves it out)"
)


def has_random_pooler(folder: Path) -> bool:
    """Whether `AutoModel` draws a pooler for an export."""
    return check_family(str(folder)).has_pooler and not holds_pooler(str(folder))


def readings(trained: TrainedClassifier) -> list[str]:
    """The representations that are compared: what `AutoModel` gives of the export, without a random pooler."""
    body: Any = trained.classifier.encoder
    return ["cls", "pooler"] if trained.classifier.pooler is not None and family_of(body.config).has_pooler else ["cls"]


def write(trained: TrainedClassifier, folder: Path) -> None:
    """Write the encoder, with its pooler where there is one: one that stage 2 left as it was is copied."""
    if trained.notes.encoder is not None and (source := Path(place_of(trained.notes.encoder, trained.folder))).is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return
    body: Any = copy.deepcopy(trained.classifier.encoder)
    body.cpu()
    body.pooler = copy.deepcopy(trained.classifier.pooler)
    body.save_pretrained(folder)
    trained.tokenizer.save_pretrained(folder)
