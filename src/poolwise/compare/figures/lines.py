"""Figures of lines: accuracy against the number of labels, and training against the step.

Shapes: P points of a line, R runs, S steps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.ticker import StrMethodFormatter
from numpy import ndarray

from poolwise.compare.figures.drawing import (
    PALE,
    SMALL_SIZE,
    WIDTH,
    Look,
    legend_above,
    limits,
    looks,
    new_figure,
    nothing_to_show,
    panels_in,
    styled,
    svg,
    width_of,
    wrapped,
)

LEAST_RANGE = 5.0
"""Points that the axis of accuracy spans at least."""
BESIDE, ALL_BESIDE = 0.08, 0.5
"""Doublings of the number of labels by which a line stands beside the next, so that intervals do not hide each other;
and by which all may together, so that each keeps to its tick."""


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

    def __post_init__(self) -> None:
        lengths = {len(self.labels_per_class), len(self.accuracy), len(self.low), len(self.high)}
        if len(lengths) > 1:
            raise ValueError(f"{self.label}: numbers of labels, accuracies and intervals differ in length: {lengths}")


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

    def __post_init__(self) -> None:
        if self.runs.ndim != 2 or self.runs.shape[1] != len(self.steps):
            raise ValueError(f"{self.label}: {len(self.steps)} steps, but runs of shape {self.runs.shape}")


def label_efficiency(panels: Sequence[EfficiencyPanel], measure: str = "test accuracy") -> str:
    """Accuracy against labels a class, on a logarithmic axis with `all` set apart at its end. Returns SVG."""
    title = f"By the number of labels, {measure}: {'; '.join(panel.title for panel in panels)}"
    lines = [line for panel in panels for line in panel.lines]
    with styled():
        places = _places(number for line in lines for number in line.labels_per_class)
        if not places:
            return nothing_to_show(title)
        chosen = looks(line.label for line in lines)
        columns = min(len(panels), 2)
        figure = new_figure(2.7 * -(-len(panels) // columns) + 0.2)
        axes = panels_in(figure, len(panels), columns, sharey=True)
        room = 72 * WIDTH / columns - 50
        for axis, panel in zip(axes, panels, strict=True):
            for place, line in enumerate(panel.lines):
                beside = min(BESIDE, ALL_BESIDE / len(panel.lines)) * (place - (len(panel.lines) - 1) / 2)
                _draw_efficiency(axis, line, {number: x + beside for number, x in places.items()}, chosen[line.label])
            axis.set_title(wrapped(panel.title, room))
            axis.set_xticks(list(places.values()), _tick_labels(places, room))
            axis.set_xlabel("labels of each class")
            if axis.get_subplotspec().is_first_col():
                axis.set_ylabel(f"{measure}, points")
            axis.grid(axis="y")
            if None in places and len(places) > 1:
                axis.axvline(places[None] - 0.5, color=PALE, linewidth=0.8, linestyle=(0, (2, 3)))
        axes[0].set_ylim(
            limits([values for line in lines for values in (line.accuracy, line.low, line.high)], LEAST_RANGE)
        )
        legend_above(figure, [look.sample(label) for label, look in chosen.items()])
        return svg(figure, title)


def _places(numbers: Iterable[int | None]) -> dict[int | None, float]:
    """Where each number of labels lies: a unit each doubling, `all` (None) a unit beyond the last."""
    told = set(numbers)
    places: dict[int | None, float] = {}
    for number in sorted(number for number in told if number is not None):
        places[number] = float(np.log2(number))
    if None in told:
        places[None] = max(places.values(), default=-1.0) + 1
    return places


def _tick_labels(places: dict[int | None, float], room: float) -> list[str]:
    """The numbers at their places on an axis of `room` points, without those that would touch the next one."""
    scale = room / (max(places.values()) - min(places.values()) + 0.5)
    labels: list[str] = []
    end = float("inf")
    for number, place in reversed(places.items()):
        text = "all" if number is None else f"{number:,}"
        half = width_of(text, SMALL_SIZE) / 2 + 2
        fits = scale * place + half < end
        end = scale * place - half if fits else end
        labels.insert(0, text if fits else "")
    return labels


def _draw_efficiency(axis: Any, line: EfficiencyLine, places: dict[int | None, float], look: Look) -> None:
    """`all` is not joined to the rest, as it has no place of its own on the axis."""
    x = np.array([places[number] for number in line.labels_per_class])
    is_all = np.array([number is None for number in line.labels_per_class], dtype=bool)
    for part in (~is_all, is_all):
        order = np.flatnonzero(part)[np.argsort(x[part])]
        axis.plot(x[order], line.accuracy[order], color=look.colour, marker=look.marker, linestyle=look.line, zorder=3)
    axis.vlines(x, line.low, line.high, color=look.colour, linewidth=1)


def learning_curves(curves: Sequence[LearningCurve], measure: str) -> str:
    """A measure against the training step: every run as a thin line, the mean as a thick one. Returns SVG.

    The mean is drawn where all of a condition's runs were measured: one that ended early would else shift it.
    """
    title = f"In the course of training, {measure}: {', '.join(curve.label for curve in curves)}"
    with styled():
        if not curves:
            return nothing_to_show(title)
        chosen = looks(curve.label for curve in curves)
        figure = new_figure(3.0)
        axis = figure.subplots()
        for curve in curves:
            look = chosen[curve.label]
            for run in curve.runs:
                measured = np.isfinite(run)
                axis.plot(curve.steps[measured], run[measured], color=look.colour, linewidth=0.7, alpha=0.5)
            measured = np.isfinite(curve.runs).all(axis=0) & (len(curve.runs) > 0)
            mean = curve.runs[:, measured].mean(axis=0) if measured.any() else np.empty(0)
            axis.plot(
                curve.steps[measured],
                mean,
                color=look.colour,
                marker=look.marker,
                linestyle=look.line,
                linewidth=2,
                markevery=max(len(mean) // 10, 1),
            )
        axis.set_xlabel("step (thin lines: runs; thick lines: their means)")
        axis.set_ylabel(measure)
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.grid(axis="y")
        legend_above(figure, [look.sample(label) for label, look in chosen.items()])
        return svg(figure, title)
