"""The encoder alone, as `AutoModel.from_pretrained(FOLDER)` loads it."""

import copy
import shutil
from pathlib import Path
from typing import Any

from poolwise.trained import TrainedClassifier, place_of


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
