"""How texts become the rows of a stage-1 batch: one row a text, two copies of it, or a pair of segments.

Shapes: B texts, R rows, T tokens, N examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from poolwise.settings import UserError

Arrangement = Literal["single", "views", "order", "next"]
"""`single`: each text once. `views`: each twice, masked differently; row i and row B + i are one text.
`order`: two segments of one text, in order or swapped. `next`: a segment, and the one that follows or another's."""


@dataclass(frozen=True)
class BatchNeeds:
    """What an objective reads in a batch beside masked texts.

    Attributes:
        arrangement: how texts become rows; None if any will do.
        second_mask: share of positions masked in a second, heavier masking of each row; None for none.
        ratings: whether it reads the rating of each text.
    """

    arrangement: Arrangement | None = None
    second_mask: float | None = None
    ratings: bool = False


def agreed(needs: Mapping[str, BatchNeeds]) -> BatchNeeds:
    """One batch that serves all objectives, given by their names.

    Raises:
        UserError: two need different arrangements or different second masks.
    """
    return BatchNeeds(
        arrangement=_one_value({name: need.arrangement for name, need in needs.items()}, "arrangement of texts"),
        second_mask=_one_value({name: need.second_mask for name, need in needs.items()}, "second mask"),
        ratings=any(need.ratings for need in needs.values()),
    )


Choice = TypeVar("Choice")


def _one_value(choices: Mapping[str, Choice | None], what: str) -> Choice | None:
    wanted = {name: choice for name, choice in choices.items() if choice is not None}
    if len(set(wanted.values())) > 1:
        words = ", ".join(f"{name} needs {choice}" for name, choice in wanted.items())
        raise UserError(f"objectives that cannot share a batch, because each has its own {what}: {words}")
    return next(iter(wanted.values()), None)
