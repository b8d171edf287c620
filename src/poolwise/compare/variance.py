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
    "head": "head_seed",
    "order of the texts": "order_seed",
    "fresh pooler": "pooler_seed",
    "seed of stage 2": "seed",
}
"""Outer sources first. Sources that go together, as where all follow `seed`, are told as one."""
CONDITION = "encoder and representation"


def variance_table(runs: pandas.DataFrame) -> dict[str, VarianceComponent]:
    """Standard deviation in points, and share, of each source that has several levels in the runs of one setting.

    Conditions differ by more than chance, so they are a factor before all others, and left out of the shares.
    """
    accuracies = 100 * runs[REPORTED_METRIC].to_numpy(dtype=float)
    conditions = list(zip(runs["encoder_key"], runs["repr"], strict=True))
    sources: dict[tuple[int, ...], list[str]] = {}
    for source, column in SOURCES.items():
        used = column in runs and runs[column].notna().any()
        if not used or (source == "label draw" and not runs["draws_labels"].all()):
            continue
        levels = [str(level) for level in runs[column].fillna(runs["seed"])]
        if source == "stage-1 run":
            levels = [f"{encoder} {level}" for encoder, level in zip(runs["encoder_key"], levels, strict=True)]
        if len(set(levels)) > 1:
            sources.setdefault(_partition(levels), []).append(source)
    sources.pop(_partition(conditions), None)
    factors: dict[str, Sequence[Hashable]] = {CONDITION: conditions}
    factors |= {_named(names): partition for partition, names in sources.items()}
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


def _named(sources: Sequence[str]) -> str:
    """`seed of stage 2` is what the others follow: it is named where it stands alone."""
    return ", ".join(name for name in sources if name != "seed of stage 2" or len(sources) == 1)


def _partition(levels: Sequence[Hashable]) -> tuple[int, ...]:
    """Which runs share a level, whatever it is called."""
    codes = {level: code for code, level in enumerate(dict.fromkeys(levels))}
    return tuple(codes[level] for level in levels)
