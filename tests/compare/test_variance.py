from itertools import product

import numpy as np
import pandas
import pytest

from poolwise.compare.inference import THE_REST
from poolwise.compare.variance import BY_REPRESENTATION, variance_table


def runs_of(effects: dict[str, float], seed: int, levels: tuple[int, int, int, int]) -> pandas.DataFrame:
    """Two encoders x two representations, 10 points apart, with normal effects (their deviations in points).

    `levels` of stage-1 runs (another for each encoder), label draws (shared by all), heads (another for each condition
    and stage-1 run) and orders of the texts (another for each label draw, shared by all conditions).
    """
    random = np.random.default_rng(seed)
    runs, draws, heads, orders = levels
    of = {
        "stage1": random.normal(size=(2, 1, runs, 1, 1, 1)),
        "by representation": random.normal(size=(2, 2, runs, 1, 1, 1)),
        "draw": random.normal(size=(draws, 1, 1)),
        "head": random.normal(size=(2, 2, runs, 1, heads, 1)),
        "order": random.normal(size=(draws, 1, orders)),
        "rest": random.normal(size=(2, 2, *levels)),
    }
    points = 70 + sum((deviation * of[name] for name, deviation in effects.items()), np.zeros((2, 2, *levels)))
    points += 10 * np.indices(points.shape)[0] + 5 * np.indices(points.shape)[1]
    names = ["encoder_key", "repr", "stage1_seed", "label_seed", "head_seed", "order_seed"]
    rows = [dict(zip(names, place, strict=True)) for place in product(*map(range, points.shape))]
    shared = {"seed": 1, "pooler_seed": None, "draws_labels": True, "material": [{}] * len(rows)}
    return pandas.DataFrame(rows).assign(**shared, **{"test/accuracy": points.ravel() / 100})


@pytest.mark.parametrize(
    ("source", "name", "degrees"),
    [
        ("stage1", "stage-1 run", 2 * 2),
        ("by representation", BY_REPRESENTATION, 2 * 2),
        ("draw", "label draw", 3),
        ("head", "head", 2 * 2 * 3),
        ("order", "order of the texts", 4 * 2),
    ],
)
def test_a_source_alone_gets_the_variance_of_what_it_drew(source, name, degrees):
    runs = runs_of({source: 2.0}, 0, (3, 4, 2, 3))
    found = variance_table(runs)[name]
    accuracies = (100 * runs["test/accuracy"]).groupby([runs["encoder_key"], runs["repr"]]).transform("mean")
    left = runs.assign(points=100 * runs["test/accuracy"] - accuracies)
    drawn = {
        "stage1": (["encoder_key"], "stage1_seed"),
        "by representation": (["encoder_key", "stage1_seed"], "repr"),
        "draw": (["seed"], "label_seed"),
        "head": (["encoder_key", "repr", "stage1_seed"], "head_seed"),
        "order": (["label_seed"], "order_seed"),
    }
    outer, inner = drawn[source]
    variances = left.groupby([*outer, inner])["points"].mean().groupby(outer).var()
    factor = 3 / 2 if source == "by representation" else 1  # of 3 runs, whose mean each condition has lost
    assert found.deviation**2 == pytest.approx(factor * variances.mean())
    assert found.degrees_of_freedom == degrees


def test_together_each_source_gets_its_own_deviation():
    effects = {"stage1": 3.0, "by representation": 1.5, "draw": 2.0, "head": 1.0, "rest": 0.5}
    found = [variance_table(runs_of(effects, seed, (3, 4, 2, 1))) for seed in range(30)]
    assert list(found[0]) == ["stage-1 run", BY_REPRESENTATION, "label draw", "head", THE_REST]
    assert all(sum(part.share for part in each.values()) == pytest.approx(1.0) for each in found)
    for name, deviation in zip(found[0], effects.values(), strict=True):
        variances = np.array([each[name].deviation ** 2 for each in found])
        assert abs(variances.mean() - deviation**2) < 3.5 * variances.std() / len(found) ** 0.5
    assert found[0][THE_REST].degrees_of_freedom == 96 - 4 - 4 - 4 - 3 - 12


def test_heads_are_no_levels_that_conditions_share():
    """One seed of stage 2 that all follows, as in a plain sweep: all spread on a stage-1 run is of the head."""
    effects = {"stage1": 1.0, "head": 2.0}
    found = [variance_table(runs_of(effects, seed, (3, 1, 5, 1))) for seed in range(12)]
    assert list(found[0]) == ["stage-1 run", BY_REPRESENTATION, "head"]
    assert np.mean([each["head"].deviation ** 2 for each in found]) == pytest.approx(4.0, rel=0.15)
    assert found[0]["head"].degrees_of_freedom == 2 * 2 * 3 * 4


def test_sources_that_go_together_are_told_as_one():
    runs = runs_of({"head": 1.0, "rest": 0.1}, 0, (2, 3, 3, 1))
    followed = runs.assign(order_seed=runs["head_seed"], seed=runs["head_seed"], material=[{"seed": 1}] * len(runs))
    assert list(variance_table(followed))[2:] == ["label draw", "head, order of the texts"]  # orders differ by draw
    drawn = followed.assign(pooler_seed=followed["head_seed"].where(followed["repr"] == 1))
    assert list(variance_table(drawn))[3] == "head, order of the texts, fresh pooler"
    apart = runs.assign(order_seed=(runs["head_seed"] + runs["label_seed"]) % 3)
    assert list(variance_table(apart))[3:5] == ["head", "order of the texts"]
    alone = runs.assign(head_seed=None, order_seed=None, seed=runs["head_seed"], material=[{"seed": 1}] * len(runs))
    assert list(variance_table(alone))[3] == "seed of stage 2"


def test_label_draws_that_the_seed_follows_are_still_shared():
    """As in a probe, whose record has the label draw as its seed."""
    runs = runs_of({"draw": 2.0, "rest": 0.5}, 0, (2, 4, 1, 1))
    followed = runs.assign(seed=runs["label_seed"], head_seed=None, order_seed=None)
    assert variance_table(followed)["label draw"].degrees_of_freedom == 3


def test_where_all_labels_are_used_none_are_drawn():
    runs = runs_of({"stage1": 1.0, "rest": 0.1}, 0, (3, 1, 2, 1)).assign(draws_labels=False)
    assert list(variance_table(runs)) == ["stage-1 run", BY_REPRESENTATION, "head"]


def test_an_encoder_without_stage_1_runs_has_no_levels_of_them():
    runs = runs_of({"stage1": 1.0, "rest": 0.1}, 0, (3, 1, 2, 1))
    unadapted = runs.assign(stage1_seed=runs["stage1_seed"].where(runs["encoder_key"] == 0))
    unadapted["head_seed"] = range(len(runs))
    assert variance_table(unadapted)["stage-1 run"].degrees_of_freedom == 2


def test_runs_that_differ_in_their_condition_only_have_no_table():
    assert variance_table(runs_of({"rest": 1.0}, 0, (1, 1, 1, 1))) == {}
