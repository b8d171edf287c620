"""Whether a classifier is right as often as it is sure.

Shapes: N examples, M bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.lines import Line2D
from numpy import ndarray

from poolwise.compare.figures.drawing import (
    PALE,
    legend_above,
    looks,
    new_figure,
    nothing_to_show,
    styled,
    svg,
)

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

    def __post_init__(self) -> None:
        if len(self.confidence) != len(self.correct):
            raise ValueError(f"{self.label}: {len(self.confidence)} confidences, but {len(self.correct)} answers")


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
    """Accuracy by confidence in bins of equal width; the expected calibration error (Guo et al. 2017, eq. 3).

    A confidence on the edge of two bins belongs to the lower one, as there; torchmetrics takes the upper, and gives 1 a
    bin of its own. NaN is left out.
    """
    known = np.isfinite(confidence)
    confidence, correct = confidence[known].astype(np.float64), correct[known]
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=values, minlength=BINS) for values in (confidence, correct)]
    means = [np.divide(total, counts, out=np.full(BINS, np.nan), where=counts > 0) for total in sums]
    error = float(np.abs(sums[0] - sums[1]).sum() / len(confidence)) if len(confidence) > 0 else float("nan")
    return Calibration(counts, means[0], means[1], error)


def reliability_diagram(conditions: Sequence[Confidences]) -> str:
    """Accuracy against confidence, bin by bin, and how many examples each bin holds. Returns SVG.

    The axes begin at the lowest bin that holds an example (C classes have none below 1 / C), or at the lowest accuracy.
    """
    title = f"Reliability diagram of {', '.join(condition.label for condition in conditions)}"
    with styled():
        if not conditions:
            return nothing_to_show(title)
        chosen = looks(condition.label for condition in conditions)
        figure = new_figure(4.2)
        upper, lower = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
        upper.plot([0, 1], [0, 1], color=PALE, linewidth=1)
        samples = [Line2D([], [], color=PALE, linewidth=1, label="perfectly calibrated")]
        edges, left, bottom = np.linspace(0, 1, BINS + 1), 1 - 1 / BINS, 1 - 1 / BINS
        for condition in conditions:
            look, found = chosen[condition.label], calibration(condition.confidence, condition.correct)
            filled = found.counts > 0
            left = min([left, *edges[:-1][filled]])
            bottom = min([bottom, *found.accuracy[filled]])
            upper.plot(
                found.confidence[filled],
                found.accuracy[filled],
                color=look.colour,
                marker=look.marker,
                linestyle=look.line,
                zorder=3,
            )
            lower.stairs(found.counts, edges, color=look.colour, linestyle=look.line, linewidth=1.4)
            error = f"ECE {100 * found.error:.1f} points" if filled.any() else "no texts"
            samples.append(look.sample(f"{condition.label}: {error}"))
        upper.set_xlim(left - 0.01, 1.01)
        upper.set_ylim(min(left, bottom) - 0.03, 1.03)
        upper.set_ylabel("accuracy")
        lower.set_ylabel("texts")
        lower.set_xlabel(f"confidence, in {BINS} bins of equal width")
        upper.grid(axis="y")
        legend_above(figure, samples)
        return svg(figure, title)
