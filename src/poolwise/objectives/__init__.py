"""Pooler objectives: the stage-1 losses beside MLM that read the pooler. One class each, a file for each family.

The keyword-only arguments of a class (and of `PoolerLoss`) are the keys of its file in `conf/objective/`.
"""

from collections.abc import Mapping
from typing import Any

import torch

from poolwise.objectives.base import Objective, PoolerLoss, Surroundings
from poolwise.objectives.bow import BagOfWords
from poolwise.objectives.contrastive import MaskedViews, SimCSE
from poolwise.objectives.decoder import WeakDecoder
from poolwise.objectives.none import NoObjective
from poolwise.objectives.rating import Rating
from poolwise.settings import UserError

__all__ = ["OBJECTIVES", "Objective", "PoolerLoss", "Surroundings", "build_objective", "label_of", "objective_class"]

OBJECTIVES: dict[str, type[PoolerLoss]] = {
    kind.name: kind for kind in (NoObjective, BagOfWords, MaskedViews, SimCSE, WeakDecoder, Rating)
}


def objective_class(name: str) -> type[PoolerLoss]:
    """The class of an objective.

    Raises:
        UserError: the name is unknown; the message lists the known ones.
    """
    if name not in OBJECTIVES:
        raise UserError(f"objective={name}: unknown; allowed: {', '.join(sorted(OBJECTIVES))}")
    return OBJECTIVES[name]


def label_of(settings: Mapping[str, Any]) -> str:
    """How tables and names call an objective: its name, marked where it reads labels."""
    name = str(settings["name"])
    return f"{name} (reads labels)" if objective_class(name).reads_labels else name


def build_objective(settings: Mapping[str, Any], surroundings: Surroundings, seed: int) -> Objective:
    """Build the objective that `settings["name"]` names from the other settings.

    Its parameters are drawn with `seed`; torch's global generator is left as it was.
    """
    arguments = {key: value for key, value in settings.items() if key != "name"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 2**32)  # apart from the stream that draws the encoder
        return objective_class(settings["name"])(surroundings, **arguments)
