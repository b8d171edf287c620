"""Which figures a setting gets, from its runs.

Shapes: R runs, N test examples, C classes, L layers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas
from numpy import ndarray

from poolwise.compare.figures import (
    AccuracyPanel,
    AccuracyRow,
    Confidences,
    EfficiencyLine,
    EfficiencyPanel,
    GeometryRow,
    LearningCurve,
    ProjectionPanel,
    confusion_matrix,
    dot_plot,
    geometry,
    label_efficiency,
    layer_heat_map,
    learning_curves,
    projection,
    reliability_diagram,
)
from poolwise.compare.records import (
    AFTER_PLAIN,
    REPORTED_METRIC,
    UNADAPTED,
    Condition,
    components,
    predictions,
    steps_of,
)
from poolwise.compare.verdict import Setting
from poolwise.settings import SELECTION_METRIC

FEWEST_LAYERS = 3
"""From so many layers of one encoder on there is a map of layers."""
PROJECTED_TEXTS = 300
"""Marks in a projection: more hide each other, and are most of a page's bytes."""
GEOMETRY = ("effective_rank", "mean_cosine", "alignment", "uniformity")


@dataclass(frozen=True)
class Drawing:
    """A figure: its name in the folder of figures, what it shows, and the picture."""

    name: str
    caption: str
    svg: str


def accuracies_drawn(setting: Setting, name: str) -> Drawing:
    """Every run, the mean and its interval."""
    rows = [
        AccuracyRow(each.label, _accuracies(each), each.interval, adaptation)
        for adaptation, conditions in setting.encoders.items()
        for each in conditions
    ]
    caption = f"Test accuracy, {setting.label}: every run (small), the mean and its 95 % interval."
    return Drawing(f"accuracy-{name}", caption, dot_plot([AccuracyPanel(setting.label, rows)]))


def _accuracies(condition: Condition) -> ndarray:
    accuracies: ndarray = 100 * condition.runs[REPORTED_METRIC].to_numpy(dtype=float)
    return accuracies


def labels_drawn(family: Sequence[Setting], name: str) -> Drawing:
    """Accuracy against the number of labels: the settings of one family, from few labels to all."""
    panels = []
    for adaptation in sorted({encoder for setting in family for encoder in setting.encoders}, key=_least_changed_first):
        by_label: dict[str, list[tuple[float, Condition]]] = {}
        for setting in family:
            for each in setting.encoders.get(adaptation, []):
                by_label.setdefault(each.representation, []).append((setting.labels, each))
        lines = [_efficiency_line(label, found) for label, found in sorted(by_label.items())]
        panels.append(EfficiencyPanel(adaptation, lines))
    words = family[0].label.split(" on ")[0]
    caption = f"Test accuracy against the number of labels a class, {words}, with 95 % intervals."
    return Drawing(f"labels-{name}", caption, label_efficiency(panels))


def _least_changed_first(adaptation: str) -> tuple[int, str]:
    """The order of encoders where no figure decides, so that figures of several families can be compared."""
    starts = (UNADAPTED, AFTER_PLAIN)
    return next((place for place, start in enumerate(starts) if adaptation.startswith(start)), len(starts)), adaptation


def _efficiency_line(label: str, found: Sequence[tuple[float, Condition]]) -> EfficiencyLine:
    counts = [None if np.isnan(labels) else int(labels) for labels, _ in found]
    low, high = zip(*(condition.interval for _, condition in found), strict=True)
    points = [condition.accuracy.points for _, condition in found]
    return EfficiencyLine(label, counts, np.array(points), np.array(low), np.array(high))


def layers_drawn(setting: Setting, name: str) -> list[Drawing]:
    """A map of layers for each encoder on which representations were read from several layers."""
    found = []
    for place, (adaptation, conditions) in enumerate(setting.encoders.items()):
        cells: dict[tuple[int, str], float] = {}
        for each in conditions:
            layer = each.runs["representation"].iloc[0].get("layer")
            if layer is not None:
                cells[layer, each.representation.partition("@")[0]] = float(_accuracies(each).mean())
        layers, kinds = sorted({layer for layer, _ in cells}), sorted({kind for _, kind in cells})
        if len(layers) >= FEWEST_LAYERS:
            values = np.array([[cells.get((layer, kind), np.nan) for kind in kinds] for layer in layers])
            caption = f"Test accuracy by layer, {setting.label}, {adaptation}."
            picture = layer_heat_map(values, layers, kinds, "test accuracy")
            found.append(Drawing(f"layers-{name}-{place}", caption, picture))
    return found


def details_drawn(setting: Setting, name: str) -> list[Drawing]:
    """What the runs of the best encoder look like from near: curves, calibration, confusion, geometry, projection."""
    adaptation, conditions = next(iter(setting.encoders.items()))
    where = f"{setting.label}, {adaptation}"
    found = []
    if curves := [curve for each in conditions if (curve := _learning_curve(each)) is not None]:
        caption = f"Macro F1 on dev while training, {where}: every run (thin) and the mean."
        found.append(Drawing(f"curves-{name}", caption, learning_curves(curves, "dev macro F1")))
    caption = f"How often an answer of some confidence is right, {where}; all runs of a representation together."
    found.append(Drawing(f"calibration-{name}", caption, reliability_diagram(list(map(_confidences, conditions)))))
    best = setting.best
    caption = f"Test texts by label and answer, {best.label}, {where}; all its runs together."
    found.append(Drawing(f"confusion-{name}", caption, confusion_matrix(_confusion(best), _classes(best))))
    if rows := list(_geometry_rows(setting)):
        caption = f"How the vectors of test texts lie, {setting.label}."
        found.append(Drawing(f"geometry-{name}", caption, geometry(rows)))
    panels = [
        ProjectionPanel(each.label, points[shown], predictions(folder)[1][shown])
        for each in conditions
        if (points := components(folder := each.runs["folder"].iloc[0])) is not None
        for shown in [_some_projected(points)]
    ]
    if panels:
        caption = f"Vectors of test texts on their first two principal components, {where}; the first run of each."
        found.append(Drawing(f"projection-{name}", caption, projection(panels, _classes(best))))
    return found


def _some_projected(points: ndarray) -> ndarray:
    """Places of at most `PROJECTED_TEXTS` texts that have a place in the plane, evenly spread: the same ones of each
    representation."""
    there = np.flatnonzero(np.isfinite(points).all(axis=1))
    shown: ndarray = there[np.linspace(0, len(there) - 1, min(len(there), PROJECTED_TEXTS)).astype(int)]
    return shown


def _learning_curve(condition: Condition) -> LearningCurve | None:
    """The curves of the runs that logged at the steps of the first; None where nothing was trained step by step."""
    curves = [steps_of(folder, SELECTION_METRIC) for folder in condition.runs["folder"]]
    steps = [step for step, _ in curves[0]]
    values = [[value for _, value in curve] for curve in curves if [step for step, _ in curve] == steps]
    return LearningCurve(condition.label, np.array(steps), 100 * np.array(values)) if len(steps) > 1 else None


def _together(condition: Condition) -> tuple[ndarray, ndarray]:
    """Logits and labels of all runs, one after the other."""
    found = [predictions(folder)[:2] for folder in condition.runs["folder"]]
    return np.concatenate([logits for logits, _ in found]), np.concatenate([labels for _, labels in found])


def _confidences(condition: Condition) -> Confidences:
    logits, labels = _together(condition)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return Confidences(condition.label, shares.max(axis=1), shares.argmax(axis=1) == labels)


def _confusion(condition: Condition) -> ndarray:
    logits, labels = _together(condition)
    classes = logits.shape[1]
    counts: ndarray = np.bincount(labels * classes + logits.argmax(axis=1), minlength=classes**2)
    return counts.reshape(classes, classes)


def _classes(condition: Condition) -> list[str]:
    return [str(name) for name in condition.runs["label_names"].iloc[0]]


def _geometry_rows(setting: Setting) -> Iterable[GeometryRow]:
    for adaptation, conditions in setting.encoders.items():
        for each in conditions:
            found = [value for value in each.runs.get("vector_geometry", ()) if isinstance(value, dict)]
            if found:
                frame = pandas.DataFrame(found).reindex(columns=GEOMETRY).astype(float)
                yield GeometryRow(each.label, **{name: frame[name].to_numpy() for name in GEOMETRY}, group=adaptation)
