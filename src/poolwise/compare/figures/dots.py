"""Figures in which each condition has a row, and each run a dot in it.

Shapes: R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True)
class AccuracyRow:
    """One condition.

    Attributes:
        label: what the row is called, such as `pooler (never trained)`.
        runs: (R,) the accuracy of every run, in points.
        interval: lower and upper end of the mean's 95 % interval, in points; None where there is none.
        group: what neighbouring rows have in common, such as their encoder; it stands once, above the first of them.
    """

    label: str
    runs: Float[ndarray, " R"]
    interval: tuple[float, float] | None = None
    group: str | None = None


@dataclass(frozen=True)
class AccuracyPanel:
    """One question, and the conditions that answer it, from top to bottom."""

    title: str
    rows: Sequence[AccuracyRow]


@dataclass(frozen=True)
class GeometryRow:
    """How the vectors of one condition lie, by the measures of `poolwise.geometry`; (R,) each, NaN where not measured.

    Attributes:
        label: what the row is called, such as the representation.
        effective_rank, mean_cosine, alignment, uniformity: (R,) of every stage-1 run.
        group: what neighbouring rows have in common, such as their encoder; it stands once, above the first of them.
    """

    label: str
    effective_rank: Float[ndarray, " R"]
    mean_cosine: Float[ndarray, " R"]
    alignment: Float[ndarray, " R"]
    uniformity: Float[ndarray, " R"]
    group: str | None = None


def dot_plot(panels: Sequence[AccuracyPanel], measure: str = "test accuracy") -> str:
    """Every run's accuracy as a small dot, each condition's mean as a diamond, its interval as a line. Returns SVG.

    Args:
        panels: one a question; all have the same axis.
        measure: what the accuracies are of; the axis says it, in points.
    """
    raise NotImplementedError


def geometry(rows: Sequence[GeometryRow]) -> str:
    """Effective rank, mean cosine, alignment and uniformity of each condition, a column each. Returns SVG."""
    raise NotImplementedError
