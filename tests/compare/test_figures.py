"""What the figures show is read back out of their SVG."""

import re
import time
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from poolwise.compare.figures import (
    AccuracyPanel,
    AccuracyRow,
    Confidences,
    EfficiencyLine,
    EfficiencyPanel,
    GeometryRow,
    LearningCurve,
    ProjectionPanel,
    calibration,
    confusion_matrix,
    dot_plot,
    geometry,
    label_efficiency,
    layer_heat_map,
    learning_curves,
    projection,
    reliability_diagram,
)
from poolwise.compare.figures.drawing import COLOURS, MARKERS, WIDTH, looks, styled, text_colour, width_of

SVG = "{http://www.w3.org/2000/svg}"
LABELS = ["cls_linear", "pooler (never trained)", "mean@layer1", "mean_first_last"]
NOTHING = np.empty(0)
RUN, MEAN, INTERVAL = "#56b4e9", "stroke-width: 2.5", "stroke-width: 1.3"
"""How runs, means and intervals of the dot plot are told apart in the SVG."""


def texts(svg):
    """The words of the figure, in the order in which they are drawn."""
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def marks(svg, style):
    """(x, y) of the marks whose style holds the words, in the order in which they are drawn; y points down."""
    groups = ElementTree.fromstring(svg).iter()
    uses = [
        use
        for group in groups
        for use in group.findall(f"{SVG}use")
        if style in use.get("style", group.get("style", ""))  # marks that look alike have it from their group
    ]
    return np.array([(float(use.get("x")), float(use.get("y"))) for use in uses]).reshape(-1, 2)


def paths(svg, style):
    """The corners, each (x, y), of the lines whose style holds the words."""
    found = [path for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if style in path.get("style", "")]
    return [np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), dtype=float) for path in found]


def ends_of_text(svg):
    """The leftmost and rightmost points of level text, and the smallest font size."""
    left, right, sizes = [], [], []
    for element in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        style = element.get("style")
        size = float(re.search(r"font-size: ([\d.]+)px", style).group(1))
        sizes.append(size)
        moved = re.search(r"translate\((\S+) \S+\) rotate\(-0\)", element.get("transform", ""))
        if moved is None and "rotate(-0 " not in element.get("transform", ""):
            continue
        x = float(moved.group(1) if moved else element.get("x"))
        share = {"start": 0, "middle": 0.5, "end": 1}[(re.search(r"text-anchor: (\w+)", style) or ["", "start"])[1]]
        width = width_of(element.text or "", size)
        left.append(x - share * width)
        right.append(x + (1 - share) * width)
    return min(left), max(right), min(sizes)


def is_affine(values, places):
    """Whether places on the page follow values by one scale and shift, to a hundredth of a point."""
    fit = np.polynomial.Polynomial.fit(values, places, 1)
    return np.abs(fit(np.asarray(values)) - places).max() < 0.01


def accuracies(seed, rows=4, runs=3, group=None):
    random = np.random.default_rng(seed)
    values = [70 + row + random.normal(size=runs) for row in range(rows)]
    return [
        AccuracyRow(LABELS[row % 4], value, (float(value.mean() - 1), float(value.mean() + 2)), group)
        for row, value in enumerate(values)
    ]


def efficiency(label, start=60.0, numbers=(8, 16, 64, None)):
    accuracy = start + np.arange(len(numbers), dtype=float) ** 2
    return EfficiencyLine(label, numbers, accuracy, accuracy - 2, accuracy + 1)


def answers(label="cls", sharpness=1.0, count=500):
    random = np.random.default_rng(0)
    confidence = 1 - np.abs(random.normal(0, 0.15 * sharpness, count)).clip(0, 0.5)
    return Confidences(label, confidence, random.random(count) < 0.8)


def curve(label="cls", runs=3):
    steps = np.arange(0, 500, 50)
    return LearningCurve(label, steps, np.exp(-steps / 200) + 0.01 * np.arange(runs)[:, None])


def vectors(label="cls", group=None, runs=2):
    along = np.arange(runs, dtype=float)
    return GeometryRow(label, 20 + along, 0.3 + along / 10, 0.2 + along / 10, -2 + along / 10, group)


def points(title="cls", count=30, classes=2):
    random = np.random.default_rng(0)
    return ProjectionPanel(title, random.normal(size=(count, 2)), np.arange(count) % classes)


def examples():
    """Each figure on usual data, and on so much that it is hard to fit; then what could go wrong."""
    groups = [row for group in ("minilm after stage 1 with bow (seed 1)", "base") for row in accuracies(1, 6, 5, group)]
    question = "rotten_tomatoes, minilm after stage 1 with decoder (seed 1), finetune"
    many = [AccuracyPanel(question, groups)] * 6
    heat = np.arange(13 * 13.0).reshape(13, 13)
    confusion = np.arange(100).reshape(10, 10) * 17
    nan = np.array([np.nan, np.nan])
    return {
        "dots": lambda: dot_plot([AccuracyPanel("demo, tiny", accuracies(0))]),
        "many dots": lambda: dot_plot(many),
        "one run": lambda: dot_plot([AccuracyPanel("q", [AccuracyRow("cls", np.array([70.0]))])]),
        "equal runs": lambda: dot_plot([AccuracyPanel("q", [AccuracyRow("cls", np.full(3, 70.0), (70.0, 70.0))])]),
        "no runs": lambda: dot_plot([AccuracyPanel("q", [AccuracyRow("", NOTHING), AccuracyRow("cls", nan)])]),
        "no rows": lambda: dot_plot([AccuracyPanel("q", []), AccuracyPanel("", accuracies(0))]),
        "no panels": lambda: dot_plot([]),
        "labels": lambda: label_efficiency([EfficiencyPanel("base", [efficiency(label) for label in LABELS])] * 3),
        "one number": lambda: label_efficiency([EfficiencyPanel("base", [efficiency("cls", numbers=[8])])]),
        "only all": lambda: label_efficiency([EfficiencyPanel("base", [efficiency("cls", numbers=[None])])]),
        "NaN labels": lambda: label_efficiency(
            [EfficiencyPanel("base", [EfficiencyLine("cls", [8, None], nan, nan, nan)])]
        ),
        "no points": lambda: label_efficiency([EfficiencyPanel("base", [efficiency("cls", numbers=[])])]),
        "no lines": lambda: label_efficiency([EfficiencyPanel("base", [])]),
        "layers": lambda: layer_heat_map(heat, range(13), [*LABELS, *"abcdefghi"], "accuracy, points"),
        "one cell": lambda: layer_heat_map(heat[:1, :1], [0], ["cls"], "accuracy, points"),
        "equal cells": lambda: layer_heat_map(np.ones((2, 2)), [0, 1], ["cls", "mean"], "accuracy, points"),
        "NaN cells": lambda: layer_heat_map(np.full((2, 1), np.nan), [0, 1], ["cls"], "accuracy, points"),
        "no cells": lambda: layer_heat_map(np.empty((0, 1)), [], ["cls"], "accuracy, points"),
        "reliability": lambda: reliability_diagram([answers(label, 1 + at) for at, label in enumerate(LABELS)]),
        "always sure": lambda: reliability_diagram([Confidences("cls", np.ones(3), np.array([True, True, False]))]),
        "NaN confidence": lambda: reliability_diagram([Confidences("cls", nan, np.array([True, False]))]),
        "no texts": lambda: reliability_diagram([Confidences("cls", NOTHING, np.empty(0, dtype=bool))]),
        "no conditions": lambda: reliability_diagram([]),
        "curves": lambda: learning_curves([curve(label) for label in LABELS], "dev loss, nats"),
        "flat curve": lambda: learning_curves([LearningCurve("cls", np.array([5]), np.ones((2, 1)))], "loss"),
        "NaN curve": lambda: learning_curves([LearningCurve("cls", np.array([5, 6]), nan[None])], "loss"),
        "no curve": lambda: learning_curves([LearningCurve("cls", np.arange(2), np.empty((0, 2)))], "loss"),
        "no curves": lambda: learning_curves([], "loss"),
        "geometry": lambda: geometry([vectors(label, group) for group in ("base", "bow") for label in LABELS]),
        "NaN geometry": lambda: geometry([GeometryRow("cls", nan, nan, nan, nan)]),
        "no geometry": lambda: geometry([]),
        "projection": lambda: projection([points(label) for label in LABELS], ["negative", "positive"]),
        "one point": lambda: projection([points(count=1)], ["negative", "positive"]),
        "no point": lambda: projection([points(count=0)], ["negative"]),
        "NaN points": lambda: projection([ProjectionPanel("cls", nan[None], np.array([0]))], ["negative"]),
        "no projection": lambda: projection([], ["negative"]),
        "confusion": lambda: confusion_matrix(confusion, [*LABELS, *"abcdef"]),
        "one class": lambda: confusion_matrix(np.array([[3]]), ["positive"]),
        "a class without texts": lambda: confusion_matrix(np.array([[0, 0], [2, 3]]), ["negative", "positive"]),
        "no confusion": lambda: confusion_matrix(np.empty((0, 0), dtype=int), []),
        "names": lambda: confusion_matrix(np.array([[3, 1], [2, 4]]), ["$x_1$ & <b> -->", "正面"]),
    }


@pytest.mark.parametrize("name", examples())
def test_every_figure_is_one_whole_svg_that_fits_its_width(name):
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path"}):  # a reader's own settings do not matter
        start = time.process_time()
        svg = examples()[name]()
        assert time.process_time() - start < 3  # under 1 on an idle core
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert svg.startswith("<svg ")
    assert float(root.get("width").removesuffix("pt")) == pytest.approx(72 * WIDTH)
    title = root.find(f"{SVG}title")
    assert title.text.strip(" :;,")
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", title.get("id"))
    with styled():
        left, right, smallest = ends_of_text(svg)
    assert left >= 0
    assert right <= 72 * WIDTH
    assert smallest >= 8
    references = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", svg))
    assert references <= {element.get("id") for element in root.iter()}
    assert "date" not in svg
    assert set(re.findall(r"https?://[^\"]+", svg)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@pytest.mark.parametrize("name", ["dots", "one number", "one cell", "flat curve", "names"])
def test_the_same_input_gives_the_same_text(name):
    assert examples()[name]() == examples()[name]()


def test_figures_on_one_page_share_no_id():
    page = [examples()[name]() for name in ("dots", "one run", "flat curve", "one point")]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in page]
    assert sum(map(len, ids)) == len(set().union(*ids))


def test_nothing_to_show_is_said():
    for name in (
        "no panels",
        "no lines",
        "no points",
        "no cells",
        "no conditions",
        "no curves",
        "no geometry",
        "no confusion",
    ):
        assert texts(examples()[name]()) == ["nothing to show"]


def test_thirteen_conditions_have_thirteen_markers_and_none_of_many_looks_like_another():
    chosen = looks([str(number) for number in range(len(COLOURS) * len(MARKERS))])
    assert len({look.marker for look in list(chosen.values())[:13]}) == 13
    assert len({(look.colour, look.marker) for look in chosen.values()}) == len(chosen)
    assert list(looks(["b", "a", "b"])) == ["b", "a"]


def test_text_on_a_shade_has_the_contrast_that_wcag_asks_for():
    def luminance(shade):
        return (
            torch.tensor([0.2126, 0.7152, 0.0722]).double()
            @ torch.tensor(
                [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in shade]
            ).double()
        )

    for shade in matplotlib.colormaps["Blues"](np.linspace(0, 1, 50))[:, :3]:
        of_shade = luminance(shade)
        ratio = (of_shade + 0.05) / 0.05 if text_colour(tuple(shade)) == "black" else 1.05 / (of_shade + 0.05)
        assert ratio >= 4.5


def test_dots_means_and_intervals_lie_at_their_values():
    rows = accuracies(0)
    svg = dot_plot([AccuracyPanel("demo", rows)])
    runs, means, lines = marks(svg, RUN), marks(svg, MEAN), paths(svg, INTERVAL)
    assert (len(runs), len(means), len(lines)) == (12 + 1, 4 + 1, 4 + 1)  # one of each in the legend
    ends = np.concatenate([line[:, 0] for line in lines[:4]])
    values = np.concatenate(
        [row.runs for row in rows] + [[row.runs.mean()] for row in rows] + [r.interval for r in rows]
    )
    assert is_affine(values, np.concatenate([runs[:12, 0], means[:4, 0], ends]))
    assert is_affine(range(4), means[:4, 1])  # rows from the top down
    assert means[3, 1] > means[0, 1]
    shown = texts(svg)
    assert [text for text in shown if text in LABELS] == LABELS
    assert {"demo", "test accuracy, points", "run", "mean", "95 % interval"} <= set(shown)


def test_panels_have_one_axis_and_groups_are_named_once():
    rows = [*accuracies(0, 2, group="base"), *accuracies(1, 2, group="bow")]
    svg = dot_plot([AccuracyPanel("first", rows), AccuracyPanel("second", rows[:1])], measure="dev accuracy")
    shown = texts(svg)
    assert shown.count("base") == 2
    assert shown.count("bow") == 1
    assert "dev accuracy, points" in shown
    runs = marks(svg, RUN)
    assert len(runs) == 12 + 3 + 1
    assert runs[:3, 0] == pytest.approx(runs[12:15, 0])  # the same values, in both panels
    assert max(runs[12:15, 1]) > max(runs[:12, 1])


def test_an_interval_that_is_missing_is_not_drawn_and_not_explained():
    svg = dot_plot([AccuracyPanel("q", [AccuracyRow("cls", np.array([70.0, 71.0]))])])
    assert "95 % interval" not in texts(svg)
    assert paths(svg, INTERVAL) == []


def test_runs_that_are_equal_do_not_hide_each_other_or_fill_the_axis():
    svg = examples()["equal runs"]()
    dots = marks(svg, RUN)[:3]
    assert len(set(dots[:, 1])) == 3
    assert len(set(dots[:, 0])) == 1
    numbers = [float(text) for text in texts(svg) if re.fullmatch(r"[\d.]+", text)]
    assert (min(numbers), max(numbers)) == (69, 71)


def test_long_labels_are_whole():
    label = "a representation with a name that is far too long for one line@layer12"
    svg = dot_plot([AccuracyPanel("q", [AccuracyRow(label, np.array([70.0]))])])
    assert label in " ".join(texts(svg))


def test_label_efficiency_has_a_logarithmic_axis_and_all_apart():
    line = efficiency("cls", numbers=(None, 8, 64, 16))
    svg = label_efficiency([EfficiencyPanel("base", [line])])
    shown = texts(svg)
    assert [text for text in shown if text in ("8", "16", "all")] == ["8", "16", "all"]
    x, y = marks(svg, f"fill: {COLOURS[0]}")[:4].T
    assert is_affine([3, 4, 6, 7], x)  # doublings; all a doubling beyond 64
    order = [1, 3, 2, 0]
    bars = [path for path in paths(svg, f"stroke: {COLOURS[0]}") if len(path) == 2 and path[0, 0] == path[1, 0]]
    assert len(bars) == 4
    values = np.concatenate([line.accuracy[order], line.low, line.high])
    assert is_affine(values, np.concatenate([y, [bar[0, 1] for bar in bars], [bar[1, 1] for bar in bars]]))
    joined = [path for path in paths(svg, f"stroke: {COLOURS[0]}") if len(path) == 3]
    assert joined[0] == pytest.approx(np.stack([x, y], axis=1)[:3])


def test_a_representation_looks_the_same_in_all_panels():
    first = EfficiencyPanel("base", [efficiency("cls"), efficiency("mean")])
    second = EfficiencyPanel("bow", [efficiency("mean", start=62)])
    svg = label_efficiency([first, second])
    assert len(marks(svg, f"fill: {COLOURS[0]}")) == 4 + 1
    assert len(marks(svg, f"fill: {COLOURS[1]}")) == 8 + 1
    assert texts(svg).count("mean") == 1


def test_ticks_of_many_numbers_do_not_touch():
    numbers = [2**power for power in range(12)] + [1000, None]
    panel = EfficiencyPanel("base", [efficiency("cls", numbers=numbers)])
    shown = texts(label_efficiency([panel, panel]))
    assert {"all", "1,024"} <= set(shown)
    assert "1,000" not in shown  # beside 1,024


def test_cells_of_the_heat_map_hold_their_values_and_missing_ones_nothing():
    values = np.array([[61.04, np.nan], [72.0, 100.0]])
    shown = texts(layer_heat_map(values, [0, 6], ["cls", "mean"], "test accuracy, points"))
    assert [text for text in shown if re.fullmatch(r"\d+\.\d", text)] == ["61.0", "72.0", "100.0"]
    assert [text for text in shown if text in ("cls", "mean", "0", "6")] == ["cls", "mean", "0", "6"]


def test_cells_of_the_confusion_matrix_hold_counts_and_shares_of_their_row():
    shown = texts(confusion_matrix(np.array([[1200, 300], [0, 0]]), ["negative", "positive"]))
    assert [text for text in shown if text[0].isdigit()] == ["1,200", "80 %", "300", "20 %", "0", "0"]
    assert shown.index("true class") > shown.index("predicted class")


@pytest.mark.parametrize("classes", [2, 5])
def test_calibration_error_is_that_of_torchmetrics(classes):
    generator = torch.Generator().manual_seed(classes)
    probabilities = torch.softmax(2 * torch.randn(1000, classes, generator=generator), dim=1)
    labels = torch.randint(classes, (1000,), generator=generator)
    reference = multiclass_calibration_error(probabilities, labels, classes, n_bins=15, norm="l1")
    confidence, answer = (part.numpy() for part in probabilities.max(dim=1))
    found = calibration(confidence, answer == labels.numpy())
    assert found.error == pytest.approx(float(reference), abs=1e-6)
    assert found.counts.sum() == 1000


def test_bins_of_the_calibration_by_hand():
    confidence = np.array([1 / 15, 0.5, 0.51, 0.95, 1.0, np.nan])  # the first on the edge of the lowest bin
    found = calibration(confidence, np.array([False, True, False, True, False, True]))
    assert np.flatnonzero(found.counts).tolist() == [0, 7, 14]
    assert found.counts[[0, 7, 14]].tolist() == [1, 2, 2]
    assert found.confidence[[0, 7, 14]] == pytest.approx([1 / 15, 0.505, 0.975])
    assert found.accuracy[[0, 7, 14]] == pytest.approx([0, 0.5, 0.5])
    assert np.isnan(found.accuracy[1])
    assert found.error == pytest.approx((1 / 15 + 2 * 0.005 + 2 * 0.475) / 5)
    assert np.isnan(calibration(NOTHING, np.empty(0, dtype=bool)).error)


def test_the_reliability_diagram_shows_its_bins_and_states_the_error():
    condition = answers("mean@layer1")
    found = calibration(condition.confidence, condition.correct)
    svg = reliability_diagram([condition])
    assert f"mean@layer1: ECE {100 * found.error:.1f} points" in texts(svg)
    filled = found.counts > 0
    x, y = marks(svg, f"fill: {COLOURS[0]}")[: filled.sum()].T
    assert is_affine(found.confidence[filled], x)
    assert is_affine(found.accuracy[filled], y)
    assert "cls: no texts" in texts(examples()["no texts"]())


def test_learning_curves_show_every_run_and_the_mean_of_all_of_them():
    steps = np.array([0, 1000, 2000, 3000])
    runs = np.array([[1.0, 0.5, 0.4, 0.3], [0.8, np.nan, 0.6, np.nan]])
    svg = learning_curves([LearningCurve("cls", steps, runs)], "dev loss, nats")
    lines = paths(svg, f"stroke: {COLOURS[0]}")
    whole, gapped, mean = (line for line in lines if len(line) in (4, 2))
    assert is_affine([0, 1000, 2000, 3000], whole[:, 0])
    assert len(gapped) == 2  # where it was measured
    assert mean[:, 0] == pytest.approx(whole[[0, 2], 0])
    assert mean[:, 1] == pytest.approx((whole[[0, 2], 1] + gapped[:, 1]) / 2, abs=0.01)
    assert {"cls", "dev loss, nats", "3,000"} <= set(texts(svg))


def test_geometry_has_four_columns_with_their_own_axes():
    first, second = vectors("cls", "base"), vectors("pooler", "base")
    svg = geometry([first, GeometryRow("mean", *[np.array([1.0, np.nan])] * 4, "base"), second])
    runs = marks(svg, RUN)
    assert len(runs) == 4 * (2 + 1 + 2) + 1
    for column, name in enumerate(["effective_rank", "mean_cosine", "alignment", "uniformity"]):
        values = np.concatenate([getattr(first, name), [1.0], getattr(second, name)])
        assert is_affine(values, runs[5 * column : 5 * column + 5, 0])
    shown = texts(svg)
    assert [text for text in shown if text in ("base", "cls", "mean", "pooler")][:4] == [
        "base",
        "cls",
        "mean",
        "pooler",
    ]
    assert {"uniformity", "mean cosine"} <= set(shown)


def test_projection_marks_each_text_by_its_class_on_equal_axes():
    panel = points(count=30, classes=3)
    svg = projection([panel, panel], ["negative", "neutral", "positive"])
    for place, colour in enumerate(COLOURS[:3]):
        found = marks(svg, f"stroke: {colour}")
        assert len(found) == 10 + 10 + 1
        x, y = panel.points[panel.labels == place].T
        assert is_affine(x, found[:10, 0])
        scales = [np.ptp(found[:10, axis]) / np.ptp(values) for axis, values in enumerate((x, y))]
        assert scales[0] == pytest.approx(scales[1], rel=1e-3)
    assert texts(svg) == ["cls", "cls", "negative", "neutral", "positive"]


def test_names_are_shown_as_they_are():
    shown = texts(examples()["names"]())
    assert " ".join(shown).count("$x_1$ & <b> -->") == 2
    assert shown.count("正面") == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: EfficiencyLine("cls", [8], np.ones(2), np.ones(2), np.ones(2)),
        lambda: LearningCurve("cls", np.arange(3), np.ones((1, 2))),
        lambda: Confidences("cls", np.ones(2), np.array([True])),
        lambda: ProjectionPanel("cls", np.ones((2, 2)), np.zeros(3, dtype=int)),
        lambda: projection([points(classes=3)], ["negative", "positive"]),
        lambda: layer_heat_map(np.ones((2, 2)), [0], ["cls", "mean"], "accuracy"),
        lambda: confusion_matrix(np.ones((2, 2), dtype=int), ["positive"]),
    ],
)
def test_what_does_not_fit_together_is_refused(wrong):
    with pytest.raises((ValueError, TypeError)):  # the second from the tests' shape checks
        wrong()
