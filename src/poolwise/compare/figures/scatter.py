"""Vectors in two dimensions.

Shapes: N texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from numpy import ndarray


@dataclass(frozen=True)
class ProjectionPanel:
    """One representation's vectors, projected. Some hundred texts can be told apart.

    Attributes:
        title: the representation.
        points: (N, 2).
        labels: (N,) the class of each text, as a place in the classes' names.

    Raises:
        ValueError: the lengths differ.
    """

    title: str
    points: Float[ndarray, "N 2"]
    labels: Int[ndarray, " N"]


def projection(panels: Sequence[ProjectionPanel], classes: Sequence[str]) -> str:
    """Each text as a mark of its class, a panel each representation. Returns SVG."""
    raise NotImplementedError
