import numpy as np
import pandas
import pytest

from poolwise.compare.variance import variance_table


def runs_of(effects: dict[str, float], seed: int = 0) -> pandas.DataFrame:
    """Two conditions 10 points apart x 6 stage-1 runs x 5 label draws x 4 heads, with normal effects (points)."""
    random = np.random.default_rng(seed)
    stage1, draw = random.normal(size=(2, 6)), random.normal(size=5)
    rows = []
    for encoder in (0, 1):
        for s in range(6):
            for d in range(5):
                for h in range(4):
                    points = 80 + 10 * encoder + effects["stage1"] * stage1[encoder, s] + effects["draw"] * draw[d]
                    points += effects["rest"] * random.normal()
                    rows.append(
                        {
                            "encoder_key": f"e{encoder}",
                            "repr": "cls",
                            "draws_labels": True,
                            "stage1_seed": s,
                            "label_seed": d,
                        }
                        | {"head_seed": h, "order_seed": h, "seed": 1, "test/accuracy": points / 100}
                    )
    return pandas.DataFrame(rows)


def test_each_source_gets_its_own_deviation():
    found = [variance_table(runs_of({"stage1": 1.0, "draw": 2.0, "rest": 0.5}, seed)) for seed in range(40)]
    assert list(found[0]) == ["stage-1 run", "label draw", "head, order of the texts", "the rest"]
    variance = {name: np.mean([each[name].deviation ** 2 for each in found]) for name in found[0]}
    assert variance["stage-1 run"] == pytest.approx(1.0, rel=0.25)
    assert variance["label draw"] == pytest.approx(4.0, rel=0.4)
    assert variance["head, order of the texts"] < 0.05
    assert variance["the rest"] == pytest.approx(0.25, rel=0.1)
    assert sum(part.share for part in found[0].values()) == pytest.approx(1.0)
    assert found[0]["stage-1 run"].degrees_of_freedom == 10  # 5 in each of two encoders


def test_sources_that_go_together_are_told_as_one():
    runs = runs_of({"stage1": 1.0, "draw": 0.0, "rest": 0.1})
    assert list(variance_table(runs))[2] == "head, order of the texts"
    runs["order_seed"] = runs["head_seed"] * runs["label_seed"] % 3
    assert list(variance_table(runs))[2:4] == ["head", "order of the texts"]
    followed = runs.assign(order_seed=runs["head_seed"], seed=runs["head_seed"], pooler_seed=None)
    assert list(variance_table(followed))[2] == "head, order of the texts"


def test_where_all_labels_are_used_none_are_drawn():
    runs = runs_of({"stage1": 1.0, "draw": 1.0, "rest": 0.1}).assign(draws_labels=False)
    assert list(variance_table(runs)) == ["stage-1 run", "head, order of the texts", "the rest"]


def test_runs_that_differ_in_their_condition_only_have_no_table():
    runs = runs_of({"stage1": 1.0, "draw": 1.0, "rest": 1.0}).groupby("encoder_key").head(1)
    assert variance_table(runs) == {}
