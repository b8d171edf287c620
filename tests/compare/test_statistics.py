import json
import re

import numpy as np
import pandas
import pytest

from helpers import EXAMPLES, write_run
from poolwise.compare.statistics import (
    difference,
    label_of,
    power_in_words,
    questions,
    read_runs,
    smallest_difference,
    table_of,
    verdict,
)


def test_table_has_mean_and_spread_of_each_condition(runs):
    table = table_of(read_runs(runs, "sentiment"))
    assert table["label"].tolist() == ["mean", "cls", "pooler (random)"]
    assert table["runs"].tolist() == [3, 3, 3]
    pooler = table.iloc[2]
    values = [1 - wrong / EXAMPLES for wrong in (30, 31, 32)]
    assert pooler["test/accuracy mean"] == pytest.approx(np.mean(values))
    assert pooler["test/accuracy std"] == pytest.approx(np.std(values, ddof=1))
    assert (pooler["test/accuracy min"], pooler["test/accuracy max"]) == (min(values), max(values))


def test_runs_that_did_not_finish_are_left_out(runs):
    record = next((runs / "sentiment").glob("mean-1-*/record.json"))
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "failed"}))
    assert len(read_runs(runs, "sentiment")) == 8


@pytest.mark.parametrize("status", ["random", "stale", "never trained"])
def test_a_doubtful_pooler_is_called_that(status):
    row = pandas.Series({"repr": "pooler", "pooler_status": status})
    assert label_of(row) == f"pooler ({status})"
    assert label_of(pandas.Series({"repr": "cls", "pooler_status": status})) == "cls"
    below = pandas.Series({"repr": "pooler@layer3", "pooler_status": status})
    assert label_of(below) == f"pooler@layer3 ({status})"
    assert label_of(pandas.Series({"repr": "pooler", "pooler_status": "trained"})) == "pooler"


def test_difference_is_paired_by_seed_and_example(runs):
    found = read_runs(runs, "sentiment")
    gap = difference(found[found["repr"] == "mean"], found[found["repr"] == "pooler"])
    assert gap is not None
    assert gap.points == pytest.approx(np.array([20, 21, 22]).mean() / EXAMPLES * 100)
    assert gap.deviation == pytest.approx(100 / EXAMPLES)
    assert (gap.stage1_runs, gap.stage2_runs, gap.examples) == (1, 3, EXAMPLES)
    assert gap.low > 0


def test_a_difference_that_test_examples_can_explain_is_not_shown(runs):
    """Nearly as many mistakes, on other examples: no spread over seeds, and still nothing to tell."""
    found = read_runs(runs, "sentiment")
    gap = difference(found[found["repr"] == "mean"], found[found["repr"] == "cls"])
    assert gap is not None
    assert gap.low < 0 < gap.high


def test_verdict_in_words(runs):
    found = read_runs(runs, "sentiment")
    ((question, rows),) = questions(table_of(found)).items()
    assert question == "demo, tiny after stage 1 with bow (seed 1), finetune"
    words = verdict(rows, found)
    assert words.startswith("Use mean, the best on dev; test accuracy 95.0 % (sd 0.0 over 3 seeds).")
    interval = r"\(95 % interval \d\.\d to 1\d\.\d, p [<=] 0\.00\d\)"
    assert re.search(rf"mean beats pooler \(random\) by 10\.5 points {interval}\.", words)
    assert re.search(r"Cannot tell mean from cls: these runs see differences above \d\.\d only\.", words)
    assert re.search(rf"H1, pooler beats cls: cls beats pooler \(random\) by 10\.5 points {interval}\.", words)
    assert "H2" not in words


def test_verdict_over_one_seed_claims_nothing_of_other_seeds(tmp_path):
    write_run(tmp_path, "mean", 1, [], dev=0.9)
    found = read_runs(tmp_path, "sentiment")
    (rows,) = questions(table_of(found)).values()
    assert verdict(rows, found).endswith("(one seed). There is nothing to compare it with yet.")
    write_run(tmp_path, "cls", 1, list(range(90)), dev=0.5)
    found = read_runs(tmp_path, "sentiment")
    (rows,) = questions(table_of(found)).values()
    words = verdict(rows, found)
    assert re.search(r"mean beats cls by 45\.0 points \(.*\) \(one run each: said of these alone\)\.", words)


def test_runs_with_other_settings_are_another_question(tmp_path):
    """Held away: two settings of one representation, told apart by nothing, in one row or one comparison."""
    for epochs in (1, 2):
        for seed in (1, 2):
            write_run(tmp_path, "cls", seed, list(range(epochs)), dev=0.9, epochs=epochs)
    found = read_runs(tmp_path, "sentiment")
    asked = questions(table_of(found))
    assert len(asked) == 2
    assert all(words.startswith("demo, tiny after stage 1 with bow (seed 1), finetune [") for words in asked)
    assert [rows["test/accuracy mean"].tolist() for rows in asked.values()] in ([[0.995], [0.99]], [[0.99], [0.995]])


def test_runs_without_a_common_seed_are_not_compared(tmp_path):
    write_run(tmp_path, "mean", 1, [0], dev=0.9)
    write_run(tmp_path, "cls", 2, [0, 1], dev=0.8)
    found = read_runs(tmp_path, "sentiment")
    (rows,) = questions(table_of(found)).values()
    assert "mean and cls have no seed in common." in verdict(rows, found)


def test_the_smallest_difference_of_examples_is_the_published_one():
    """Points at 80 % power and 10 % disagreement, by hand: 2.8 sqrt(0.1 / N)."""
    for examples, points in ((872, 3.00), (1821, 2.07), (10_662, 0.86)):
        assert smallest_difference(examples, seeds=100) == pytest.approx(points, abs=0.01)
    assert smallest_difference(10**7, seeds=3) == pytest.approx((4.303 + 1.061) * 0.5 * (2 / 3) ** 0.5, abs=0.01)
    assert smallest_difference(1000, seeds=1) == smallest_difference(1000, seeds=100)
    assert power_in_words(1000, 1).startswith("nothing for sure, as one seed has no spread")


def test_the_smallest_difference_is_shown_in_four_of_five_comparisons():
    """Simulated: paired answers that disagree on 10 % of 1,000 texts, a true difference of the smallest size."""
    random = np.random.default_rng(0)
    points = smallest_difference(1000, seeds=100)
    better = (0.10 + points / 100) / 2
    signs = random.choice([1, -1, 0], p=[better, 0.10 - better, 0.90], size=(4000, 1000))
    shown = np.abs(signs.mean(axis=1)) > 1.96 * signs.std(axis=1) / 1000**0.5
    assert 0.77 < shown.mean() < 0.83


def test_runs_that_answer_like_a_constant_are_not_recommended(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, "cls", seed, wrong=list(range(0, EXAMPLES, 2)), dev=0.4)
    runs = read_runs(tmp_path, "sentiment")
    words = verdict(table_of(runs), runs)
    assert words.startswith("Use none of these yet: the best on dev, cls, is right on 50.0 % of test texts")
    assert "always answering the most frequent class on 50.0 %" in words
