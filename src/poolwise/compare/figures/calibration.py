"""Whether a classifier is right as often as it is sure.

Shapes: N examples, M bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from numpy import ndarray

BINS = 15
"""Of equal width, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Confidences:
    """One condition's answers, those of all its runs together.

    Attributes:
        label: the condition.
        confidence: (N,) the largest probability of each example, from 0 to 1.
        correct: (N,) whether the class with it was the right one.

    Raises:
        ValueError: the lengths differ.
    """

    label: str
    confidence: Float[ndarray, " N"]
    correct: Bool[ndarray, " N"]


@dataclass(frozen=True)
class Calibration:
    """What `calibration` finds.

    Attributes:
        counts: (M,) examples in each bin.
        confidence, accuracy: (M,) means over the examples of each bin, from 0 to 1; NaN for a bin without any.
        error: the expected calibration error, from 0 to 1; NaN without examples.
    """

    counts: Int[ndarray, " M"]
    confidence: Float[ndarray, " M"]
    accuracy: Float[ndarray, " M"]
    error: float


def calibration(confidence: Float[ndarray, " N"], correct: Bool[ndarray, " N"]) -> Calibration:
    """Accuracy by confidence in bins of equal width; the expected calibration error (Guo et al. 2017, eq. 3)."""
    raise NotImplementedError


def reliability_diagram(conditions: Sequence[Confidences]) -> str:
    """Accuracy against confidence, bin by bin, and how many examples each bin holds. Returns SVG."""
    raise NotImplementedError
