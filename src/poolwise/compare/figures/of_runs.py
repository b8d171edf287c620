"""The dot plot straight from run records, until the report writes its own rows."""

import io
from typing import Any

import matplotlib
import numpy as np
import pandas

matplotlib.use("svg")
from matplotlib import pyplot

from poolwise.compare.statistics import REPORTED_METRIC, questions, runs_of, table_of

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "svg.hashsalt": "poolwise",
    "figure.constrained_layout.use": True,
}
INK, PALE = "#1f4e79", "#7fa6c9"
LEAST_RANGE = 2.0
"""Points that the axis spans at least, so that a difference of nothing does not fill it."""
SPREAD = 0.2
"""How far runs lie apart across the axis, so that runs with the same figure do not hide each other."""


def dot_plot_of_runs(runs: pandas.DataFrame) -> str:
    """Every run's test accuracy as a dot, each condition's mean as a bar; one panel a question. Returns SVG."""
    panels = questions(table_of(runs))
    heights = [len(rows) for rows in panels.values()]
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            len(panels),
            1,
            figsize=(5.0, 0.9 * len(panels) + 0.42 * sum(heights)),
            height_ratios=heights,
            sharex=True,
            squeeze=False,
        )
        for axis, (question, rows) in zip(axes[:, 0], panels.items(), strict=True):
            _panel(axis, rows, runs)
            axis.set_title(question, loc="left", fontsize=10)
        low, high = axes[-1, 0].get_xlim()
        if high - low < LEAST_RANGE:
            axes[-1, 0].set_xlim((low + high - LEAST_RANGE) / 2, (low + high + LEAST_RANGE) / 2)
        axes[-1, 0].set_xlabel("test accuracy, % (dots: runs; bars: means)")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return stream.getvalue()


def _panel(axis: Any, rows: pandas.DataFrame, runs: pandas.DataFrame) -> None:
    for place, (_, row) in enumerate(rows.iloc[::-1].iterrows()):
        own = runs_of(row, runs)
        values = 100 * own[REPORTED_METRIC]
        beside = np.linspace(-SPREAD, SPREAD, len(values)) if len(values) > 1 else np.zeros(1)
        axis.plot(values, place + beside, "o", color=PALE, markersize=5, zorder=2)
        axis.plot([values.mean()], [place], "|", color=INK, markersize=18, markeredgewidth=2.5, zorder=3)
    axis.set_yticks(range(len(rows)), list(rows["label"].iloc[::-1]))
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.grid(axis="x", color="#dddddd", linewidth=0.8, zorder=1)
    axis.tick_params(axis="y", length=0)
