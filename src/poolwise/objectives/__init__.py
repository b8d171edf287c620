"""Pooler objectives: the stage-1 losses beside MLM that read the pooler. One class each, a file for each family.

The keyword-only arguments of a class (and of `PoolerLoss`) are the keys of its file in `conf/objective/`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from poolwise.data.arrangement import agreed
from poolwise.data.batching import Batch
from poolwise.encoder import MaskedLMWithPooler
from poolwise.objectives.base import Objective, PoolerLoss, Surroundings
from poolwise.objectives.bow import BagOfWords
from poolwise.objectives.contrastive import Halves, MaskedViews, SimCSE
from poolwise.objectives.decoder import WeakDecoder
from poolwise.objectives.none import NoObjective
from poolwise.objectives.rating import Rating
from poolwise.objectives.segments import NextSegment, SegmentOrder
from poolwise.settings import UserError, not_one_of, problems_by_name, typed, unknown_key

COMBINED = "combined"
"""The name under which several objectives are one."""

OBJECTIVES: dict[str, type[PoolerLoss]] = {
    kind.name: kind
    for kind in (NoObjective, BagOfWords, MaskedViews, Halves, SimCSE, WeakDecoder, Rating, SegmentOrder, NextSegment)
}


class Combined(Objective):
    """Several objectives that share one batch and one encoder pass, each with a weight and schedule of its own."""

    def __init__(self, parts: Sequence[Objective]) -> None:
        """Take the parts, whose losses have different names.

        Raises:
            UserError: they need different batches.
        """
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.needs = agreed({", ".join(part.weights()): part.needs for part in parts})

    def losses(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of all parts."""
        return {name: loss for part in self._parts() for name, loss in part.losses(pooler_output, batch, model).items()}

    def counts(self, batch: Batch) -> dict[str, Int[Tensor, ""] | int]:
        """The counts of all parts."""
        return {name: count for part in self._parts() for name, count in part.counts(batch).items()}

    def weights(self, progress: float | None = None) -> dict[str, float]:
        """The weights of all parts."""
        return {name: weight for part in self._parts() for name, weight in part.weights(progress).items()}

    def notes(self) -> dict[str, Any]:
        """The notes of all parts."""
        return {name: notes for part in self._parts() for name, notes in part.notes().items()}

    def _parts(self) -> list[Objective]:
        return list(self.parts)  # type: ignore[arg-type]


def objective_class(name: str) -> type[PoolerLoss]:
    """The class of an objective.

    Raises:
        UserError: the name is unknown; the message lists the known ones.
    """
    if name not in OBJECTIVES:
        raise UserError(f"objective={name}: unknown; allowed: {', '.join(sorted([*OBJECTIVES, COMBINED]))}")
    return OBJECTIVES[name]


def parts_of(settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings of each single objective by its name: of the parts of a combined one, else of the one itself."""
    return dict(settings["parts"]) if settings["name"] == COMBINED else {str(settings["name"]): settings}


def problems_with_objective(settings: Mapping[str, Any], where: str) -> list[str]:
    """Say what is wrong with the settings of an objective; `where` is the prefix of keys in the messages."""
    name = settings.get("name", "")
    if name == COMBINED:
        return _problems_with_parts(settings, where)
    if str(name) not in OBJECTIVES:
        return [not_one_of(f"{where}name", name, [*OBJECTIVES, COMBINED])]
    return problems_by_name(settings, OBJECTIVES, where)


def _problems_with_parts(settings: Mapping[str, Any], where: str) -> list[str]:
    found = [
        unknown_key(where + key, value, [where + "parts"])
        for key, value in settings.items()
        if key not in ("name", "parts")
    ]
    parts = settings.get("parts")
    if not isinstance(parts, Mapping) or not parts or not all(isinstance(part, Mapping) for part in parts.values()):
        return [*found, f"{where}parts={parts!r}: must be a group of objectives, each with its settings"]
    for key, part in parts.items():
        if str(part.get("name")) not in OBJECTIVES or part["name"] == NoObjective.name:
            allowed = ", ".join(name for name in OBJECTIVES if name != NoObjective.name)
            found.append(f"{where}parts.{key}.name={part.get('name')!r}: must be one of {allowed}")
        elif part["name"] != key:
            found.append(f"{where}parts.{key}: must be called {part['name']}, as the objective that it is")
        else:
            found += problems_with_objective(part, f"{where}parts.{key}.")
    if not found:
        try:
            agreed({key: OBJECTIVES[key].needs for key in parts})
        except UserError as error:
            found.append(f"{where}parts: {error}")
    return found


def typed_objective(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Checked settings as `settings.typed` makes them, those of parts too."""
    if settings["name"] == COMBINED:
        parts = {key: typed_objective(part) for key, part in sorted(settings["parts"].items())}
        return {"name": COMBINED, "parts": parts}
    return typed(objective_class(settings["name"]), settings)


def problems_with_long_texts(settings: Mapping[str, Any], read: str | None) -> list[str]:
    """Say which objectives of checked settings cannot do with what is `read` of long texts."""
    if read not in ("tail", "windows"):
        return []
    return [
        f"data.long_texts={read}: objective={name} tells pairs of segments apart, and texts that begin in the middle "
        "of a sentence would give away which is the first; allowed with it: head, head_tail"
        for name in parts_of(settings)
        if objective_class(name).needs.arrangement in ("order", "next")
    ]


def label_of(settings: Mapping[str, Any], trainable: str = "all", budget: str = "") -> str:
    """How tables and names call an objective: its parts' names, marked where one reads labels.

    They are marked too where `trainable` is `pooler`, as nothing else was trained, and by a `budget` if there is one.
    """
    kinds = [objective_class(name) for name in parts_of(settings)]
    names = "+".join(kind.name for kind in kinds) + ("-pooler_only" if trainable == "pooler" else "")
    names += f"-{budget}" if budget else ""
    return f"{names} (reads labels)" if any(kind.reads_labels for kind in kinds) else names


def reads_ratings(settings: Mapping[str, Any]) -> bool:
    """Whether the objective needs texts with ratings."""
    return any(objective_class(name).needs.ratings for name in parts_of(settings))


def build_objective(settings: Mapping[str, Any], surroundings: Surroundings, seed: int) -> Objective:
    """Build the objective that `settings["name"]` names from the other settings.

    Its parameters are drawn with `seed`; torch's global generator is left as it was.

    Raises:
        UserError: parts of a combined one need different batches, or one cannot be trained on these texts.
    """
    built = []
    with torch.random.fork_rng(devices=[]):
        for part in parts_of(settings).values():
            arguments = {key: value for key, value in part.items() if key != "name"}
            torch.manual_seed(seed + 2**32)  # apart from the stream that draws the encoder
            built.append(objective_class(part["name"])(surroundings, **arguments))
    return Combined(built) if settings["name"] == COMBINED else built[0]
