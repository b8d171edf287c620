"""Figures whose cells hold numbers.

Shapes: L layers, R representations, C classes.
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from numpy import ndarray


def layer_heat_map(
    values: Float[ndarray, "L R"], layers: Sequence[int], representations: Sequence[str], measure: str
) -> str:
    """A value for each layer and representation, to one decimal, as a number and as a shade. Returns SVG.

    Args:
        values: (L, R), NaN where there is none.
        layers: L of them, 0 being the embeddings.
        representations: R names.
        measure: what the values are, such as `test accuracy, points`.

    Raises:
        ValueError: the lengths differ.
    """
    raise NotImplementedError


def confusion_matrix(counts: Int[ndarray, "C C"], classes: Sequence[str]) -> str:
    """How many texts of each class (a row) were taken for which (a column), and their share of the row. Returns SVG.

    Args:
        counts: (C, C) texts, rows being true and columns predicted classes.
        classes: C names; up to about 10 can be read.

    Raises:
        ValueError: the lengths differ.
    """
    raise NotImplementedError
