"""Figures in which each condition has a row, and each run a dot in it.

Shapes: R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from poolwise.compare.figures.drawing import (
    GRID,
    INK,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDTH,
    label_of_row,
    legend_above,
    limits,
    new_figure,
    nothing_to_show,
    styled,
    svg,
    width_of,
    wrapped,
)

LEAST_RANGE = 2.0
"""Points that the axis spans at least, so that a difference of nothing does not fill it."""
LINE_HEIGHT = 0.2
"""Inches, of a line of a row's label."""
MARGIN = 0.15
"""Lines, above the first row and below the last."""
SPREAD = 0.3
"""Lines by which runs lie above and below their row's middle, so that equal ones do not hide each other."""
MEASURES = {
    "effective_rank": ("effective rank", "higher: more directions", 2.0),
    "mean_cosine": ("mean cosine", "lower: less in common", 0.1),
    "alignment": ("alignment", "lower: texts of a class are nearer", 0.1),
    "uniformity": ("uniformity", "lower: more even", 0.2),
}
"""Of `GeometryRow`: what a column is called, how to read it, and what its axis spans at least."""


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
    """Every run's accuracy as a small dot, each condition's mean as a bar, its interval as a line. Returns SVG.

    Args:
        panels: one a question; all have the same axis.
        measure: what the accuracies are of; the axis says it, in points.
    """
    title = f"Every run and the means in {measure}: {'; '.join(panel.title for panel in panels)}"
    rows = [row for panel in panels for row in panel.rows]
    with styled():
        if not rows:
            return nothing_to_show(title)
        layouts = [_Layout.of(panel.rows) for panel in panels]
        room = 72 * WIDTH - max(layout.label_width for layout in layouts) - 20
        titles = [wrapped(panel.title, room) for panel in panels]
        lines = [layout.lines for layout in layouts]
        figure = new_figure(LINE_HEIGHT * (sum(lines) + sum(2.2 + text.count("\n") for text in titles)) + 0.4)
        axes = figure.subplots(len(panels), 1, height_ratios=lines, sharex=True, squeeze=False)[:, 0]
        for axis, panel, layout, text in zip(axes, panels, layouts, titles, strict=True):
            layout.name(axis)
            layout.rule(axis)
            for row, middle in zip(panel.rows, layout.middles, strict=True):
                _draw_row(axis, middle, row.runs, row.interval)
            axis.set_title(text)
            axis.tick_params(axis="x", labelbottom=True)
        ends = [np.array(row.interval) for row in rows if row.interval is not None]
        axes[0].set_xlim(limits([*(row.runs for row in rows), *ends], LEAST_RANGE))
        axes[-1].set_xlabel(f"{measure}, points")
        legend_above(figure, _samples(bool(ends)))
        return svg(figure, title)


def geometry(rows: Sequence[GeometryRow]) -> str:
    """Effective rank, mean cosine, alignment and uniformity of each condition, a column each. Returns SVG."""
    title = "Effective rank, mean cosine, alignment and uniformity of the vectors of each condition"
    with styled():
        if not rows:
            return nothing_to_show(title)
        layout = _Layout.of(rows)
        figure = new_figure(LINE_HEIGHT * (layout.lines + 4) + 0.4)
        axes = figure.subplots(1, len(MEASURES), sharey=True)
        layout.name(axes[0])
        room = (72 * WIDTH - layout.label_width) / len(MEASURES) - 12
        for axis, (name, (called, reading, least)) in zip(axes, MEASURES.items(), strict=True):
            layout.rule(axis)
            for row, middle in zip(rows, layout.middles, strict=True):
                _draw_row(axis, middle, getattr(row, name), None)
            axis.set_title(wrapped(called, room), va="bottom")
            axis.set_xlabel(wrapped(reading, room, SMALL_SIZE))
            axis.set_xlim(limits([getattr(row, name) for row in rows], least))
            axis.xaxis.set_major_locator(MaxNLocator(2))
        legend_above(figure, _samples(intervals=False))
        return svg(figure, title)


@dataclass(frozen=True)
class _Layout:
    """Where the rows of a panel lie, from the top down, in lines of text.

    Attributes:
        middles: of the rows.
        labels: of rows and groups, by their middles.
        headings: the middles of groups.
        lines: of all rows and groups together.
    """

    middles: list[float]
    labels: dict[float, str]
    headings: set[float]
    lines: float

    @classmethod
    def of(cls, rows: Sequence[AccuracyRow] | Sequence[GeometryRow]) -> "_Layout":
        middles: list[float] = []
        labels: dict[float, str] = {}
        headings: set[float] = set()
        lines, group = 0.0, None

        def add(text: str) -> float:
            nonlocal lines
            label = label_of_row(text)
            height = 1.0 + label.count("\n")
            middle = lines + height / 2
            labels[middle] = label
            lines += height
            return middle

        for row in rows:
            if row.group is not None and row.group != group:
                headings.add(add(row.group))
            group = row.group
            middles.append(add(row.label))
        return cls(middles, labels, headings, max(lines, 1.0))

    @property
    def label_width(self) -> float:
        """Points."""
        return max((width_of(label, TEXT_SIZE) for label in self.labels.values()), default=0.0)

    def name(self, axis: Any) -> None:
        """Write the labels beside the axis."""
        axis.set_yticks(list(self.labels), list(self.labels.values()), fontsize=TEXT_SIZE)
        for middle, label in zip(self.labels, axis.get_yticklabels(), strict=True):
            label.set_fontstyle("italic" if middle in self.headings else "normal")

    def rule(self, axis: Any) -> None:
        """Draw the lines that lead the eye from the labels to the dots."""
        axis.set_ylim(self.lines + MARGIN, -MARGIN)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.grid(axis="x")
        axis.hlines(self.middles, 0, 1, color=GRID, linewidth=0.6, transform=axis.get_yaxis_transform(), zorder=0.5)


def _draw_row(axis: Any, middle: float, runs: Float[ndarray, " R"], interval: tuple[float, float] | None) -> None:
    known = runs[np.isfinite(runs)]
    beside = np.linspace(-SPREAD, SPREAD, len(known)) if len(known) > 1 else np.zeros(len(known))
    axis.plot(known, middle + beside, **_RUN)
    if interval is not None:
        axis.plot(interval, [middle, middle], **_INTERVAL)
    if len(known) > 0:
        axis.plot([known.mean()], [middle], **_MEAN)


_RUN: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 4.5,
    "color": "#56b4e9",
    "markeredgecolor": INK,
    "markeredgewidth": 0.6,
    "zorder": 4,
}
_MEAN: dict[str, Any] = {
    "linestyle": "",
    "marker": "|",
    "markersize": 13,
    "markeredgewidth": 2.5,
    "color": INK,
    "zorder": 3,
}
_INTERVAL: dict[str, Any] = {"linestyle": "-", "linewidth": 1.3, "color": INK, "zorder": 2}


def _samples(intervals: bool) -> list[Line2D]:
    samples = [Line2D([], [], label="run", **_RUN), Line2D([], [], label="mean", **_MEAN)]
    return [*samples, Line2D([], [], label="95 % interval", **_INTERVAL)] if intervals else samples
