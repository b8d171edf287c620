"""How much each source of variance contributes to the accuracy of a run, from run records.

Shapes: L runs.
"""

from collections.abc import Hashable, Sequence

import pandas

from poolwise.compare.inference import THE_REST, VarianceComponent, variance_components
from poolwise.compare.records import REPORTED_METRIC

SOURCES = {
    "stage-1 run": "stage1_seed",
    "label draw": "label_seed",
    "fresh pooler": "pooler_seed",
    "head": "head_seed",
    "order of the texts": "order_seed",
    "seed of stage 2": "seed",
}
"""Outer sources first. A source that goes with one before it is told with it."""
CONDITION = "encoder and representation"


def variance_table(runs: pandas.DataFrame) -> dict[str, VarianceComponent]:
    """Standard deviation in points, and share, of each source that has several levels in the runs of one setting.

    Conditions differ by more than chance, so they are a factor before all others, and left out of the shares. Seeds
    that follow `seed` are told together, as the first of them.
    """
    if not runs["draws_labels"].all():
        runs = runs.drop(columns="label_seed", errors="ignore")
    accuracies = 100 * runs[REPORTED_METRIC].to_numpy(dtype=float)
    conditions = list(zip(runs["encoder_key"], runs["repr"], strict=True))
    factors: dict[str, Sequence[Hashable]] = {CONDITION: conditions}
    partitions = {_partition(conditions)}
    for source, column in SOURCES.items():
        levels = [str(value) for value in runs.get(column, pandas.Series(0, runs.index))]
        if source == "stage-1 run":
            levels = [f"{encoder} {level}" for encoder, level in zip(runs["encoder_key"], levels, strict=True)]
        partition = _partition(levels)
        if len(set(levels)) > 1 and partition not in partitions:
            partitions.add(partition)
            factors[source] = levels
    if len(factors) == 1:
        return {}
    found = {name: part for name, part in variance_components(accuracies, factors).items() if name != CONDITION}
    told = {name: part for name, part in found.items() if part.degrees_of_freedom > 0}
    total = sum(part.deviation**2 for part in told.values())
    return {
        name: VarianceComponent(part.deviation, part.deviation**2 / total if total else 0.0, part.degrees_of_freedom)
        for name, part in told.items()
        if name != THE_REST or len(told) > 1
    }


def _partition(levels: Sequence[Hashable]) -> tuple[int, ...]:
    """Which runs share a level, whatever it is called."""
    codes = {level: code for code, level in enumerate(dict.fromkeys(levels))}
    return tuple(codes[level] for level in levels)
