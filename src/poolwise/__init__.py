"""Adapt an encoder to your own text with a pooler that is really trained; compare sentence representations.

import poolwise

classifier = poolwise.load("runs/sentiment/NAME-KEY")
classifier.predict(["A lovely film."])  # label and calibrated probabilities of each text
classifier.encode(["A lovely film."])  # its vectors, (N, D)
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolwise.trained import TrainedClassifier

__all__ = ["load"]


def load(run: str | Path) -> "TrainedClassifier":
    """The classifier of a finished stage-2 run, by its folder; torch and transformers are imported here.

    Raises:
        UserError: there is none, it is broken, or the encoder that it reads has changed since.
    """
    from poolwise.trained import load

    return load(run)
