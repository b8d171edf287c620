"""Several settings at a glance: a row for each, and the one representation that suits all of them best."""

from collections.abc import Sequence

import numpy as np

from poolwise.compare.records import Condition
from poolwise.compare.tables import Table
from poolwise.compare.verdict import Setting, compare, mean_of
from poolwise.words import counted, signed

MOST_REPRESENTATIONS = 6
"""That have a column, so that the table stays one to be read at a glance."""
COLUMNS = ("setting", "use", "test accuracy", "95 % interval")
ENCODER = "encoder"


def best_with(setting: Setting, representation: str) -> Condition | None:
    """The condition of a representation on the encoder that is best on dev for it; None where there is none."""
    found = [each for each in setting.conditions if each.representation == representation]
    return max(found, key=lambda each: each.dev, default=None)


def summary_table(settings: Sequence[Setting]) -> Table:
    """The best on dev of each setting, and by how many points of test accuracy each representation differs from it.

    Each representation is on the encoder that is best on dev for it. Settings of one data set and model are a group.
    """
    shown = _representations(settings)[:MOST_REPRESENTATIONS]
    rows = []
    for setting in settings:
        best = setting.best
        interval = "{:.1f} to {:.1f}".format(*best.interval)
        cells = [_row_label(setting, settings), best.label, f"{best.accuracy.points:.1f}", interval]
        rows.append([*cells, *(_difference(setting, representation) for representation in shown), best.adaptation])
    return Table([*COLUMNS, *shown, ENCODER], rows, [_group(setting) for setting in settings], "data and model")


def one_for_all(settings: Sequence[Setting]) -> str | None:
    """Which representation to use where one must serve all settings, in words; None where fewer than two could.

    It has the smallest mean distance on dev to the best of each setting; what is told of it is measured on test, and
    of its differences from the others there are intervals, as of planned questions (see `PooledEstimate`), whose level
    allows for nothing.
    """
    everywhere = [name for name in _representations(settings) if all(best_with(each, name) for each in settings)]
    if len(everywhere) < 2:
        return None
    best, *others = [f"{name} {_on_test(settings, name)}" for name in everywhere]
    lacking = [name for name in _representations(settings) if name not in everywhere]
    words = [
        f"Use {everywhere[0]} where one representation must serve all {counted(len(settings), 'setting')}: "
        "on dev it is nearest to the best of each.",
        "Test accuracy less that of each setting's best, in points, on average and at worst: "
        f"{'; '.join([best, *others])}.",
    ]
    if lacking:
        words.append(f"Not run in all: {', '.join(lacking)}.")
    gaps = {other: _less(settings, everywhere[0], other) for other in everywhere[1:]}
    words += [f"{everywhere[0]} less {other}: {gap}." for other, gap in gaps.items() if gap is not None]
    words.append(
        "These comparisons were not planned, and intervals allow for nothing; each setting has its own answer."
    )
    return " ".join(words)


def _less(settings: Sequence[Setting], representation: str, other: str) -> str | None:
    """By how much one representation is better on average over settings, each on its best encoder."""
    found = [compare([best_with(setting, representation), best_with(setting, other)]) for setting in settings]
    both = [compared for compared in found if compared is not None]
    if not both:
        return None
    gap = mean_of(both)
    return f"{signed(gap.points)} points (95 % interval {signed(gap.low)} to {signed(gap.high)})"


def _representations(settings: Sequence[Setting]) -> list[str]:
    """Those that are in most settings first, of these the ones that are nearest to the best on dev."""
    gaps: dict[str, list[float]] = {}
    for setting in settings:
        for name in dict.fromkeys(each.representation for each in setting.conditions):
            condition = best_with(setting, name)
            assert condition is not None
            gaps.setdefault(name, []).append(setting.best.dev - condition.dev)
    return sorted(gaps, key=lambda name: (-len(gaps[name]), np.mean(gaps[name])))


def _on_test(settings: Sequence[Setting], representation: str) -> str:
    gaps = [gap for setting in settings if (gap := _gap(setting, representation)) is not None]
    return f"{signed(float(np.mean(gaps)))} and {signed(min(gaps))}"


def _gap(setting: Setting, representation: str) -> float | None:
    condition = best_with(setting, representation)
    return None if condition is None else condition.accuracy.points - setting.best.accuracy.points


def _difference(setting: Setting, representation: str) -> str:
    gap = _gap(setting, representation)
    if gap is None:
        return "not run"
    return "best" if representation == setting.best.representation else signed(gap)


def _group(setting: Setting) -> str:
    """Data and model; the words of a setting start with them."""
    run = setting.best.runs.iloc[0]
    return f"{run['data']}, {run['model']}"


def _row_label(setting: Setting, settings: Sequence[Setting]) -> str:
    label = setting.label.removeprefix(f"{_group(setting)}, ")
    has_fewer = any(other.family == setting.family and other is not setting for other in settings)
    return f"{label} on all labels" if np.isnan(setting.labels) and has_fewer else label
