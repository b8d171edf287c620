"""How much each source of variance contributes to the accuracy of a run, from run records.

Shapes: L runs.
"""

from collections.abc import Hashable, Iterable, Sequence

import pandas

from poolwise.compare.inference import THE_REST, VarianceComponent, variance_components
from poolwise.compare.records import REPORTED_METRIC

SOURCES = {
    "stage-1 run": "stage1_seed",
    "label draw": "label_seed",
    "head": "head_seed",
    "order of the texts": "order_seed",
    "fresh pooler": "pooler_seed",
    "seed of stage 2": "seed",
}
"""Outer sources first. The last is what those before it follow unless they have a seed of their own."""
CONDITION = ["encoder_key", "repr"]
ON_ONE_RUN = [*CONDITION, "stage1_seed"]
WITHIN = {
    "stage-1 run": ["encoder_key"],
    "label draw": [],
    "head": ON_ONE_RUN,
    "order of the texts": ["label_seed"],
    "fresh pooler": ON_ONE_RUN,
    "seed of stage 2": ON_ONE_RUN,
}
"""What a seed draws something else in. A seed of stage 1 makes a run of each encoder, which its representations share.
All conditions train on the texts that a label draw gives, and in the order that an order seed gives those. A head or a
pooler is another one on each representation and stage-1 run, even where its first numbers are the same."""
BY_REPRESENTATION = "stage-1 run, unlike by representation"


def variance_table(runs: pandas.DataFrame) -> dict[str, VarianceComponent]:
    """Standard deviation in points, and share, of each source that has several levels in the runs of one setting.

    Conditions differ by more than chance, so they are a factor before all others, and left out of the shares. Sources
    that go together, as where all follow `seed`, are told as one, nested in all that any of them is nested in. What a
    stage-1 run gives to some of its representations only is a source of its own where several runs on each show it.
    """
    counts = runs["material"].map(lambda material: "seed" in material)
    runs = runs.assign(seed=runs["seed"].where(counts), label_seed=runs["label_seed"].where(runs["draws_labels"]))
    factors: dict[str, Sequence[Hashable]] = {"condition": _levels(runs, CONDITION)}
    for names in _together(runs):
        nested_in = dict.fromkeys(column for name in names for column in WITHIN[name])
        factors[", ".join(names)] = _levels(runs, dict.fromkeys([*nested_in, SOURCES[names[0]]]))
        if names == ["stage-1 run"] and runs.duplicated(ON_ONE_RUN).any():
            factors[BY_REPRESENTATION] = _levels(runs, ON_ONE_RUN)
    if len(factors) == 1:
        return {}
    found = variance_components(100 * runs[REPORTED_METRIC].to_numpy(dtype=float), factors)
    told = {name: part for name, part in found.items() if name != "condition" and part.degrees_of_freedom > 0}
    total = sum(part.deviation**2 for part in told.values())
    return {
        name: VarianceComponent(part.deviation, part.deviation**2 / total if total else 0.0, part.degrees_of_freedom)
        for name, part in told.items()
        if name != THE_REST or len(told) > 1
    }


def _together(runs: pandas.DataFrame) -> list[list[str]]:
    """The sources that vary; in one list those that never vary apart within a condition, where both draw something."""
    groups: list[list[str]] = []
    for source, column in SOURCES.items():
        drawn = runs[runs[column].notna()] if column in runs else runs[:0]
        levels = _partition(_levels(drawn, [*CONDITION, column])) if len(drawn) else ()
        if len(set(levels)) == drawn.groupby(CONDITION).ngroups:  # one level in each condition
            continue
        alike = [group for group in groups if levels == _partition(_levels(drawn, [*CONDITION, SOURCES[group[0]]]))]
        if not alike:
            groups.append([source])
        elif column != "seed":
            alike[0].append(source)
    return groups


def _levels(runs: pandas.DataFrame, columns: Iterable[str]) -> list[Hashable]:
    """Of each run, its values in these columns; a seed that it does not depend on is one value for all."""
    return list(zip(*(runs[column].astype(str) for column in columns), strict=True))


def _partition(levels: Sequence[Hashable]) -> tuple[int, ...]:
    """Which runs share a level, whatever it is called."""
    codes = {level: code for code, level in enumerate(dict.fromkeys(levels))}
    return tuple(codes[level] for level in levels)
