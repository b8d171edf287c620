"""Vectors in two dimensions.

Shapes: N texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.lines import Line2D
from numpy import ndarray

from poolwise.compare.figures.drawing import (
    GRID,
    WIDTH,
    legend_above,
    looks,
    new_figure,
    nothing_to_show,
    panels_in,
    styled,
    svg,
    wrapped,
)


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

    def __post_init__(self) -> None:
        if len(self.points) != len(self.labels):
            raise ValueError(f"{self.title}: {len(self.points)} points, but {len(self.labels)} labels")


def projection(panels: Sequence[ProjectionPanel], classes: Sequence[str]) -> str:
    """Each text as a mark of its class, a panel each representation. Returns SVG.

    Raises:
        ValueError: a label has no name in `classes`.
    """
    known = range(len(classes))
    if any(label not in known for panel in panels for label in np.unique(panel.labels).tolist()):
        raise ValueError(f"labels beyond the {len(classes)} classes {list(classes)}")
    title = f"Texts in two dimensions, by class: {'; '.join(panel.title for panel in panels)}"
    with styled():
        if not panels or not classes:
            return nothing_to_show(title)
        marks: dict[str, dict[str, Any]] = {
            name: {"color": look.colour, "marker": look.marker, "fillstyle": "none", "linestyle": "", "markersize": 4}
            for name, look in looks(classes).items()
        }
        columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
        side = WIDTH / columns if columns > 1 else 0.6 * WIDTH
        figure = new_figure((side + 0.2) * -(-len(panels) // columns) + 0.1)
        for axis, panel in zip(panels_in(figure, len(panels), columns), panels, strict=True):
            for place, name in enumerate(classes):
                points = panel.points[(panel.labels == place) & np.isfinite(panel.points).all(axis=1)]
                axis.plot(*points.T, markeredgewidth=0.8, **marks[name])
            axis.set_title(wrapped(panel.title, 72 * side - 10))
            axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
            axis.spines[:].set(visible=True, color=GRID)
        legend_above(figure, [Line2D([], [], label=name, **mark) for name, mark in marks.items()])
        return svg(figure, title)
