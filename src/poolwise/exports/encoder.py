"""The encoder alone, as `AutoModel.from_pretrained(FOLDER)` loads it."""

import copy
import shutil
from pathlib import Path
from typing import Any

from poolwise.checkpoints import PROVENANCE_FILE, WEIGHTS_FILE, check_family, has_pooler, provenance_of
from poolwise.families import family_of
from poolwise.trained import TrainedClassifier, place_of

RANDOM_POOLER = (
    "this encoder has no pooler, so that AutoModel draws one at random at each load; its pooler_output is of no use "
    "(add_pooling_layer=False leaves it out)"
)


def has_random_pooler(folder: Path) -> bool:
    """Whether `AutoModel` draws a pooler for an export."""
    return check_family(str(folder)).has_pooler and not has_pooler(str(folder))


def readings(trained: TrainedClassifier) -> list[str]:
    """The representations that are compared: what `AutoModel` gives of the export, without a random pooler."""
    body: Any = trained.classifier.encoder
    return ["cls", "pooler"] if trained.classifier.pooler is not None and family_of(body.config).has_pooler else ["cls"]


def write(trained: TrainedClassifier, folder: Path) -> None:
    """Write the encoder, with its pooler where there is one.

    Of one that stage 2 left as it was, config and weights are copied, so that it keeps its MLM head, and what stage 1
    noted of it.
    """
    if trained.notes.encoder is not None and (source := Path(place_of(trained.notes.encoder, trained.folder))).is_dir():
        noted = [PROVENANCE_FILE] if provenance_of(source) else []
        for name in ("config.json", WEIGHTS_FILE, *noted):
            shutil.copyfile(source / name, folder / name)
    else:
        body: Any = copy.deepcopy(trained.classifier.encoder)
        body.cpu()
        body.pooler = copy.deepcopy(trained.classifier.pooler)
        body.save_pretrained(folder)
    trained.tokenizer.backend_tokenizer.no_truncation()  # its last call left one
    trained.tokenizer.save_pretrained(folder)
