"""The figures of a report: plain numbers in, the text of an SVG out.

All are `drawing.WIDTH` wide, share `drawing.STYLE` and tell conditions apart by marker and line besides colour, so
that they can be read in grey. The same input gives the same text. A figure of nothing says so.
"""

from poolwise.compare.figures.calibration import Calibration, Confidences, calibration, reliability_diagram
from poolwise.compare.figures.dots import (
    AccuracyPanel,
    AccuracyRow,
    GeometryRow,
    dot_plot,
    geometry,
)
from poolwise.compare.figures.grids import confusion_matrix, layer_heat_map
from poolwise.compare.figures.lines import (
    EfficiencyLine,
    EfficiencyPanel,
    LearningCurve,
    label_efficiency,
    learning_curves,
)
from poolwise.compare.figures.scatter import ProjectionPanel, projection

__all__ = [
    "AccuracyPanel",
    "AccuracyRow",
    "Calibration",
    "Confidences",
    "EfficiencyLine",
    "EfficiencyPanel",
    "GeometryRow",
    "LearningCurve",
    "ProjectionPanel",
    "calibration",
    "confusion_matrix",
    "dot_plot",
    "geometry",
    "label_efficiency",
    "layer_heat_map",
    "learning_curves",
    "projection",
    "reliability_diagram",
]
