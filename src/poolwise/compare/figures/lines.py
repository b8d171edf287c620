"""Figures of lines: accuracy against the number of labels, and training against the step.

Shapes: P points of a line, R runs, S steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from numpy import ndarray


@dataclass(frozen=True)
class EfficiencyLine:
    """One representation's accuracy by the number of labels.

    Attributes:
        label: the representation.
        labels_per_class: how many labels of each class a point was trained on; None for all there are.
        accuracy: (P,) means, in points.
        low, high: (P,) ends of their 95 % intervals, in points; NaN where there is none.

    Raises:
        ValueError: the lengths differ.
    """

    label: str
    labels_per_class: Sequence[int | None]
    accuracy: Float[ndarray, " P"]
    low: Float[ndarray, " P"]
    high: Float[ndarray, " P"]


@dataclass(frozen=True)
class EfficiencyPanel:
    """One encoder, and the representations that were read from it."""

    title: str
    lines: Sequence[EfficiencyLine]


@dataclass(frozen=True)
class LearningCurve:
    """One condition's course of training.

    Attributes:
        label: the condition.
        steps: (S,) where it was measured, ascending.
        runs: (R, S) the measure of every run; NaN where a run was not measured, or had ended.

    Raises:
        ValueError: `runs` has another number of steps.
    """

    label: str
    steps: Int[ndarray, " S"]
    runs: Float[ndarray, "R S"]


def label_efficiency(panels: Sequence[EfficiencyPanel], measure: str = "test accuracy") -> str:
    """Accuracy against labels a class, on a logarithmic axis with `all` set apart at its end. Returns SVG."""
    raise NotImplementedError


def learning_curves(curves: Sequence[LearningCurve], measure: str) -> str:
    """A measure against the training step: every run as a thin line, the mean as a thick one. Returns SVG."""
    raise NotImplementedError
