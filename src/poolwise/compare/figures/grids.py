"""Figures whose cells hold numbers.

Shapes: L layers, R representations, C classes.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import Normalize
from numpy import ndarray

from poolwise.compare.figures.drawing import (
    CELL_SIZE,
    CHARACTER,
    SHADES,
    SMALL_SIZE,
    WIDTH,
    label_of_row,
    new_figure,
    nothing_to_show,
    styled,
    svg,
    text_colour,
    width_of,
)

LIGHTEST = 0.1
"""How far above the scale's beginning the lowest value of a heat map lies: its cell is not taken for a missing one."""
LARGEST_CELL = 0.9
"""Inches, of a cell of a confusion matrix."""


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
    if values.shape != (len(layers), len(representations)):
        raise ValueError(f"{len(layers)} layers and {len(representations)} names, but values of shape {values.shape}")
    title = f"{measure} by layer and representation"
    known = values[np.isfinite(values)]
    with styled():
        if values.size == 0:
            return nothing_to_show(title)
        figure = new_figure(0.27 * len(layers) + 1.2)
        axis = figure.subplots()
        low, high = (known.min(), known.max()) if len(known) > 0 else (0.0, 1.0)
        shades = Normalize(low - LIGHTEST * (high - low), high)
        texts = [[f"{value:.1f}" if np.isfinite(value) else "" for value in row] for row in values]
        _draw_cells(axis, values, shades, texts)
        axis.set_yticks(range(len(layers)), [str(layer) for layer in layers])
        axis.set_ylabel("layer (0: embeddings)")
        axis.set_title(measure)
        _name_columns(axis, representations, 72 * WIDTH / len(representations) - 8)
        return svg(figure, title)


def confusion_matrix(counts: Int[ndarray, "C C"], classes: Sequence[str]) -> str:
    """How many texts of each class (a row) were taken for which (a column), and their share of the row. Returns SVG.

    Args:
        counts: (C, C) texts, rows being true and columns predicted classes.
        classes: C names; up to about 10 can be read.

    Raises:
        ValueError: the lengths differ.
    """
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"{len(classes)} classes, but counts of shape {counts.shape}")
    title = f"Confusion matrix of {', '.join(classes)}"
    with styled():
        if counts.size == 0:
            return nothing_to_show(title)
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
        texts = [
            [
                f"{count:,}\n{100 * share:.0f} %" if np.isfinite(share) else f"{count:,}"
                for count, share in zip(*row, strict=True)
            ]
            for row in zip(counts, shares, strict=True)
        ]
        labels = [label_of_row(name) for name in classes]
        room = WIDTH - max(width_of(label, SMALL_SIZE) for label in labels) / 72 - 0.6
        cell = min(room / len(classes), LARGEST_CELL)
        figure = new_figure(cell * len(classes) + 1.2)
        axis = figure.subplots()
        _draw_cells(axis, shares, Normalize(0, 1), texts)
        axis.set_yticks(range(len(classes)), labels)
        axis.set_ylim(len(classes) - 0.5, -0.5)
        axis.set_aspect("equal")
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        _name_columns(axis, classes, 72 * cell - 4)
        return svg(figure, title)


def _draw_cells(axis: Any, values: Float[ndarray, "rows columns"], shades: Any, texts: Sequence[Sequence[str]]) -> None:
    """A cell for each value, blank where it is NaN, with its text in black or white."""
    rows, columns = (range(length + 1) for length in values.shape)
    axis.pcolormesh(
        np.array(columns) - 0.5,
        np.array(rows) - 0.5,
        np.ma.masked_invalid(values),
        cmap=SHADES,
        norm=shades,
        edgecolors="white",
        linewidth=1,
    )
    for row, column in np.ndindex(values.shape):
        known = np.isfinite(values[row, column])
        shade = matplotlib.colormaps[SHADES](shades(values[row, column])) if known else (1.0, 1.0, 1.0)
        style = {"ha": "center", "va": "center", "fontsize": CELL_SIZE, "color": text_colour(shade)}
        if texts[row][column]:
            axis.text(column, row, texts[row][column], linespacing=1.1, **style)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _name_columns(axis: Any, names: Sequence[str], room: float) -> None:
    """Names under the columns, each in `room` points; slanted where a word needs more."""
    characters = max(int(room / (CHARACTER * SMALL_SIZE)), 1)
    folded = [textwrap.fill(name, characters, break_long_words=False) for name in names]
    fit = max(width_of(name, SMALL_SIZE) for name in folded) <= room
    axis.set_xticks(range(len(names)), folded if fit else [label_of_row(name) for name in names])
    if not fit:
        for label in axis.get_xticklabels():
            label.set(rotation=40, ha="right")
