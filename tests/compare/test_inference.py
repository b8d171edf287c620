import math
import time

import numpy as np
import pytest
from scipy import stats

from poolwise.compare import inference
from poolwise.compare.inference import (
    THE_REST,
    Axes,
    Estimate,
    difference_of_differences,
    equivalent,
    holm,
    in_words,
    mean_accuracy,
    paired_difference,
    permutation_p,
    pooled,
    seen_in_words,
    smallest_detectable,
    variance_components,
)


def difference(points, run_error=0.0, example_error=0.0, joint_error=0.0, shape=(3, 1, 1000)):
    return Estimate(float(points), math.nan, float(run_error), example_error, joint_error, *shape)


def accuracy(latent_mean, variance):
    return 100 * stats.norm.cdf(latent_mean / np.sqrt(variance))


def simulated(random, runs, examples=800, stage1_deviation=1.0, seed_deviation=1.0, effect=0.0):
    """Answers of two conditions, their true difference in points, and nothing but chance between them without effect.

    An answer is right where a sum of normal draws is above 0: the example's difficulty, which the conditions share;
    what is particular to example and condition, stage-1 run and stage-2 run; and how good each stage-1 and stage-2 run
    is, with the deviations in points. Conditions are right on 85 % and disagree on 10 %. Where there is one stage-1
    run, or one run at all, its own deviation is left out, as no claim is made beyond it.
    """
    stage1_runs, stage2_runs = runs
    spread = np.sqrt(1.6**2 + 0.35**2 + 0.4**2 + 0.5**2)
    mean = 1.04 * spread
    slope = 100 * stats.norm.pdf(mean / spread) / spread  # points for each unit of the sum
    deviations = (
        stage1_deviation / slope * (stage1_runs > 1),
        seed_deviation / slope * (stage1_runs * stage2_runs > 1),
    )

    def drawn(deviation, *shape):
        return np.float32(deviation) * random.standard_normal(shape, dtype=np.float32)

    shared = mean + drawn(1.6, examples) + drawn(0.35, stage1_runs, 1, examples)
    answers = [
        shared + condition_effect + drawn(0.4, examples) + drawn(0.5, *runs, examples)
        + drawn(deviations[0], stage1_runs, 1, 1) + drawn(deviations[1], *runs, 1) > 0
        for condition_effect in (effect / slope, 0.0)
    ]  # fmt: skip
    variance = spread**2 + sum(np.square(deviations))
    return *answers, accuracy(mean + effect / slope, variance) - accuracy(mean, variance)


REPETITIONS = 1000
"""Of what is simulated in the slow tests here."""


def at(tail: float):
    """The upper quantile of t at `tail`, by its degrees of freedom."""
    return lambda freedom: float(stats.t.isf(tail, freedom))


def test_errors_are_those_of_the_analysis_of_variance():
    """What the bootstrap draws has a closed form: mean squares of units, examples and both."""
    first, second, _ = simulated(np.random.default_rng(0), (3, 2))
    gap = paired_difference(first, second)
    values = 100 * (first.astype(float) - second).mean(axis=1)
    units, examples = values.shape
    by_unit, by_example = values.mean(axis=1), values.mean(axis=0)
    left = values - by_unit[:, None] - by_example + values.mean()
    assert gap.points == pytest.approx(values.mean())
    assert gap.deviation == pytest.approx(by_unit.std(ddof=1))
    assert gap.run_error == pytest.approx(by_unit.std(ddof=1) / units**0.5, rel=0.04)
    assert gap.example_error == pytest.approx(by_example.std(ddof=1) / examples**0.5, rel=0.04)
    joint = np.square(left).sum() / ((units - 1) * (examples - 1))
    assert gap.joint_error == pytest.approx((joint / (units * examples)) ** 0.5, rel=0.06)


def test_the_unit_is_the_stage_1_run_where_there_are_several():
    """Runs on one stage-1 run spread by 10 points here, and say nothing of stage-1 runs, which do not differ."""
    right = np.zeros((3, 2, 1000))
    right[:, 0, :600] = right[:, 1, :500] = 1
    several = paired_difference(right, np.zeros_like(right))
    assert (several.points, several.deviation, several.run_error) == (pytest.approx(55), 0.0, pytest.approx(0.0))
    one = paired_difference(right[:1], np.zeros_like(right[:1]))
    assert one.deviation == pytest.approx(10 / 2**0.5)
    assert one.run_error == pytest.approx(5, rel=0.04)
    single = paired_difference(right[:1, :1], np.zeros_like(right[:1, :1]))
    assert (single.points, single.run_error, single.joint_error) == (60, 0.0, 0.0)
    assert single.example_error == pytest.approx(100 * (0.6 * 0.4 / 1000) ** 0.5, rel=0.04)


def test_accuracy_is_a_mean_with_the_same_interval():
    first, second, _ = simulated(np.random.default_rng(0), (3, 3))
    mean = mean_accuracy(first)
    over_nothing = paired_difference(first, np.zeros_like(first))
    assert mean.points == pytest.approx(100 * first.mean())
    assert (mean.low, mean.high) == (over_nothing.low, over_nothing.high)
    assert mean_accuracy(first).points - mean_accuracy(second).points == pytest.approx(
        paired_difference(first, second).points
    )


def test_the_interval_is_students_where_runs_are_all_that_varies():
    by_run = np.array([0.4, 1.0, 1.9])
    gap = difference(by_run.mean(), run_error=stats.sem(by_run))
    reference = stats.ttest_1samp(by_run, 0)
    assert (gap.low, gap.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert gap.p == pytest.approx(reference.pvalue)


def test_the_interval_is_normal_where_examples_are_all_that_varies():
    gap = difference(1.2, example_error=0.5, shape=(1, 1, 1000))
    assert (gap.low, gap.high) == pytest.approx((1.2 - 1.96 * 0.5, 1.2 + 1.96 * 0.5), abs=1e-4)
    assert gap.p == pytest.approx(2 * stats.norm.sf(2.4))


def test_draws_that_stage_1_runs_share_are_a_part_of_the_interval():
    """Three stage-1 runs on four draws: each mean of a draw is over all runs."""
    random = np.random.default_rng(0)
    values = 0.5 + 0.01 * random.normal(size=(3, 4, 1)) + 0.02 * random.normal(size=(1, 4, 1)) + np.zeros(500)
    gap = paired_difference(values, np.zeros_like(values), axes=Axes(shared_draws=True))
    assert gap.draw_error == pytest.approx(stats.sem(100 * values.mean(axis=(0, 2))))
    units, draws, examples = gap.parts(at(0.025))
    assert draws == pytest.approx(stats.t.ppf(0.975, 3) * gap.draw_error)
    assert gap.reach(0.025) == pytest.approx(math.sqrt(units**2 + draws**2 + examples**2))
    heads = paired_difference(values, np.zeros_like(values), axes=Axes(shared_draws=True, one_encoder=True))
    assert (heads.low, heads.high, heads.units) == (gap.low, gap.high, 3)
    assert (heads.stage1_runs, heads.stage2_runs, heads.draws) == (1, 3, 4)
    apart = paired_difference(values, np.zeros_like(values))
    assert (apart.draw_error, apart.run_error) == (0, gap.run_error)


@pytest.mark.slow
def test_the_interval_covers_where_draws_are_shared_and_would_not_without_their_part():
    """Effects of 0.3 points of stage-1 runs, 2 of draws and 0.5 of both together, on three runs and five draws."""
    random = np.random.default_rng(0)
    covered = {True: 0, False: 0}
    for _ in range(300):
        effects = {(3, 1, 1): 0.3, (1, 5, 1): 2.0, (3, 5, 1): 0.5}
        good = sum(size * random.normal(size=shape) for shape, size in effects.items())
        values = (good + 5 * random.normal(size=(3, 5, 1000))) / 100
        for shared in covered:
            gap = paired_difference(values, np.zeros_like(values), axes=Axes(shared))
            covered[shared] += gap.low <= 0 <= gap.high
    assert covered[True] >= stats.binom.ppf(0.001, 300, 0.95)
    assert covered[False] < 0.9 * 300


def test_the_mean_of_estimates_takes_errors_of_a_group_as_one():
    one, other = difference(1.0, run_error=0.5, example_error=0.3), difference(3.0, run_error=0.2, example_error=0.4)
    together = pooled([one, other], ["run", "run"], ["data", "data"])
    assert together.points == 2.0
    by_part = zip(one.parts(at(0.025)), other.parts(at(0.025)), strict=True)
    assert together.reach(0.025) == pytest.approx(math.hypot(*(np.mean(parts) for parts in by_part)))
    apart = pooled([one, other], ["run", "another"], ["data", "more"])
    freedom = (0.5**2 + 0.2**2) ** 2 / (0.5**4 / 2 + 0.2**4 / 2)
    units, *others = apart.parts(at(0.025))
    assert units == pytest.approx(stats.t.ppf(0.975, freedom) * math.hypot(0.5, 0.2) / 2)
    assert math.hypot(*others) == pytest.approx(math.hypot(one.parts(at(0.025))[2], other.parts(at(0.025))[2]) / 2)
    same = pooled([one, one], ["run", "run"], ["data", "data"])
    assert (same.low, same.high, same.p) == pytest.approx((one.low, one.high, one.p))


@pytest.mark.slow
@pytest.mark.parametrize("spreads", [(1.0, 1.0), (1.0, 0.2), (2.0, 0.0)])
def test_the_mean_of_estimates_covers_whatever_settings_share(spreads):
    """Four settings of two models: three of one share their stage-1 runs wholly, all share the texts."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        texts = 20 * random.normal(size=1000)
        every = [
            spread * random.normal(size=(3, 1, 1)) + texts + 20 * random.normal(size=(3, 1, 1000)) for spread in spreads
        ]
        gaps = [paired_difference(values / 100, np.zeros_like(values)) for values in [every[0], every[0], *every]]
        found = pooled(gaps, ["a", "a", "a", "b"], ["d"] * 4)
        covered += found.low <= 0 <= found.high
    assert covered >= stats.binom.ppf(0.001, 300, 0.95)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [0.0, 1.0])
@pytest.mark.parametrize("questions", [1, 8])
@pytest.mark.parametrize("draws", [0.0, 2.0])
def test_the_answer_over_settings_is_wrong_no_more_often_than_claimed(alone, questions, draws):
    """Two data sets by two models, three stage-1 runs each; a group's two settings share these, in part or wholly, and
    those of one data set share its texts, and the draws of labels that each run has. Of `questions`, each at its part
    of the 5 %."""
    random = np.random.default_rng(2)
    missed = 0
    for _ in range(REPETITIONS):
        gaps, groups, data = [], [], []
        for texts_of in "de":
            texts = 20 * random.normal(size=1000)
            of_draws = draws * random.normal(size=(3, 1, 1))
            for model in "mn":
                of_runs = random.normal(size=(3, 1, 1))
                for _ in range(2):
                    values = of_runs + of_draws + alone * random.normal(size=(3, 1, 1)) + texts
                    values = values + 20 * random.normal(size=(3, 1, 1000))
                    gaps.append(paired_difference(values / 100, np.zeros_like(values)))
                    groups.append((texts_of, "" if draws else model))  # as `verdict.mean_of` has it
                    data.append(texts_of)
        found = pooled(gaps, groups, data)
        missed += abs(found.points) > found.reach(0.025 / questions)
    assert missed <= stats.binom.ppf(0.999, REPETITIONS, 0.05 / questions)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [(1, 3), (3, 1), (5, 1)])
def test_the_smallest_difference_that_is_told_is_seen_about_four_times_in_five(runs):
    """Of runs that spread, and 800 texts: what is told on average of alike conditions, as a true difference.

    It rests on an estimate of the spread: seen with probability 0.66 of three runs, 0.71 and 0.77 of the others."""
    random = np.random.default_rng(3)
    told = [smallest_detectable(paired_difference(*simulated(random, runs)[:2])) for _ in range(200)]
    effect = float(np.mean(told))
    seen = 0
    for _ in range(REPETITIONS):
        first, second, _ = simulated(random, runs, effect=effect)
        seen += paired_difference(first, second).p <= 0.05
    assert 0.6 <= seen / REPETITIONS <= 0.9


def test_differences_that_hardly_exist_are_not_told_as_seen():
    assert seen_in_words([3.44]) == "above 3.4"
    assert seen_in_words([5.62, 3.44]) == "above 3.4 to 5.6"
    assert seen_in_words([61.0, 31.0]) == "above 31.0 to more than 50"
    assert seen_in_words([61.0, 75.3]) == "of more than 50 points"


def test_the_interval_joins_runs_and_examples_and_is_never_narrower_than_examples_alone():
    both = difference(0, run_error=0.3, example_error=0.5, joint_error=0.3)
    assert both.high == pytest.approx(math.hypot(stats.t.ppf(0.975, 2) * 0.3, stats.norm.ppf(0.975) * 0.4))
    calm = difference(0, run_error=0.01, example_error=0.5, joint_error=0.3)
    assert calm.high == pytest.approx(stats.norm.ppf(0.975) * 0.5)


@pytest.mark.parametrize("points", [-1.5, 0.2, 3.0])
def test_p_is_the_level_at_which_the_interval_begins_at_0(points):
    gap = difference(points, run_error=0.3, example_error=0.5, joint_error=0.3)
    assert gap.reach(gap.p / 2) == pytest.approx(abs(points))
    assert (gap.p <= 0.05) == (gap.low >= 0 or gap.high <= 0)


def test_p_at_its_ends():
    assert difference(0.0, run_error=0.3).p == 1
    assert difference(1.0).p == 0  # nothing varies


def test_the_other_way_round_is_the_same_with_the_other_sign():
    first, second, _ = simulated(np.random.default_rng(0), (1, 3))
    gap, turned = paired_difference(first, second), paired_difference(second, first)
    assert turned.points == -gap.points
    assert (turned.low, turned.high, turned.p) == pytest.approx((-gap.high, -gap.low, gap.p), rel=1e-4)


def test_conditions_of_other_shapes_are_refused():
    right = np.ones((3, 1, 10))
    for compare in (paired_difference, permutation_p):
        with pytest.raises((ValueError, TypeError)):  # the second from the tests' shape checks
            compare(right, right[:1])


def test_difference_of_differences():
    random = np.random.default_rng(0)
    pooler, linear, _ = simulated(random, (3, 2), effect=2)
    pooler_before, linear_before, _ = simulated(random, (3, 2))
    gap = difference_of_differences(pooler, linear, pooler_before, linear_before)
    assert gap.points == pytest.approx(
        100 * (pooler.mean() - linear.mean() - pooler_before.mean() + linear_before.mean())
    )
    parts = [paired_difference(pooler, linear), paired_difference(pooler_before, linear_before)]
    assert gap.example_error == pytest.approx(math.hypot(*(part.example_error for part in parts)), rel=0.1)
    same = difference_of_differences(pooler, linear, pooler, linear)
    assert (same.points, same.p) == (0, 1)
    examples = pooler.shape[-1]
    assert same.high == -same.low == pytest.approx(1.96 * 100 / (examples + 2), rel=1e-3)  # nothing is known for sure


def apart(only_second, only_first):
    """One pair of runs on 1,000 examples, by how many are right in one of them only."""
    first, second = np.ones((2, 1, 1, 1000), dtype=bool)
    first[..., :only_second] = False
    second[..., only_second : only_second + only_first] = False
    return first, second


def test_permutation_is_mcnemars_exact_test_for_one_pair_of_runs():
    first, second = apart(12, 30)
    exact = stats.binomtest(12, 42).pvalue
    assert permutation_p(first, second) == pytest.approx(exact, abs=3 * (exact / inference.DRAWS) ** 0.5)
    assert permutation_p(first, second) == pytest.approx(paired_difference(first, second).p, abs=0.01)
    assert permutation_p(first, first) == 1


def test_permutation_swaps_all_runs_of_an_example_together():
    """Three runs with the same answers say no more than one does."""
    first, second = apart(12, 24)
    exact = stats.binomtest(12, 36).pvalue
    threefold = np.repeat(first, 3, axis=1), np.repeat(second, 3, axis=1)
    gap = paired_difference(*threefold)
    assert permutation_p(*threefold) == pytest.approx(2 * stats.norm.sf(abs(gap.points) / gap.example_error), abs=0.03)
    assert permutation_p(*threefold) == pytest.approx(exact, abs=3 * (exact / inference.DRAWS) ** 0.5)


def test_permutation_of_a_difference_of_differences_swaps_all_four():
    first, second = apart(12, 30)
    same = np.ones_like(first)
    assert permutation_p(first, second, same, same) == permutation_p(first, second)
    assert permutation_p(first, second, first, second) == 1


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005]), 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.4, 0.9]), 2) == pytest.approx([0.8, 0.9])
    assert holm(np.array([0.7, 0.6]), 2) == pytest.approx([1.0, 1.0])


def test_holm_of_some_of_a_family_is_never_below_holm_of_all():
    assert holm(np.array([0.01, 0.004]), 5) == pytest.approx([0.04, 0.02])
    random = np.random.default_rng(0)
    for _ in range(200):
        every = random.uniform(size=8) ** 3
        told = random.permutation(8)[:3]
        assert (holm(every[told], 8) >= holm(every, 8)[told] - 1e-12).all()


def test_the_smallest_detectable_difference():
    examples_alone = difference(0.3, example_error=0.5, shape=(1, 1, 1000))
    assert smallest_detectable(examples_alone) == pytest.approx((1.95996 + 0.84162) * 0.5, abs=1e-4)
    runs_alone = difference(0.3, run_error=0.5)
    for level in (0.05, 0.01, 0.05 / 34):
        quantile = stats.t.isf(level / 2, 2)
        assert stats.nct.sf(quantile, 2, smallest_detectable(runs_alone, level) / 0.5) == pytest.approx(0.8)


def test_the_smallest_detectable_difference_is_shown_in_four_of_five_comparisons():
    """Also of few units, and where many comparisons are allowed for."""
    random = np.random.default_rng(0)
    for units, level in ((2, 0.05), (3, 0.05), (3, 0.05 / 34), (5, 0.05)):
        true = smallest_detectable(difference(0, run_error=0.5, shape=(units, 1, 1000)), level)
        by_unit = true + 0.5 * units**0.5 * random.standard_normal((20_000, units))
        assert (stats.ttest_1samp(by_unit, 0, axis=1).pvalue <= level).mean() == pytest.approx(0.8, abs=0.012)


def test_equivalence_is_two_one_sided_tests():
    by_run = np.array([0.1, 0.3, 0.2, 0.35])
    gap = difference(by_run.mean(), run_error=stats.sem(by_run), shape=(4, 1, 1000))
    lower = stats.ttest_1samp(by_run, -0.4, alternative="greater").pvalue
    upper = stats.ttest_1samp(by_run, 0.4, alternative="less").pvalue
    assert max(lower, upper) < 0.05
    assert equivalent(gap, 0.4)
    assert not equivalent(gap, 0.4, level=max(lower, upper) - 1e-6)
    assert equivalent(gap, 0.4, level=max(lower, upper) + 1e-6)
    assert not equivalent(gap, 0.2)


def test_sentences():
    better = difference(1.2, example_error=0.4, shape=(1, 1, 1000))
    expected = "pooler beats mean by 1.2 points (95 % interval 0.4 to 2.0, p = 0.003)"
    assert in_words("pooler", "mean", better, better.p) == expected
    worse = difference(-1.2, example_error=0.4, shape=(1, 1, 1000))
    assert in_words("mean", "pooler", worse, better.p) == expected
    assert in_words("pooler", "mean", better, 0.0002).endswith("(95 % interval 0.4 to 2.0, p < 0.001)")

    near = difference(0.1, example_error=0.2, shape=(1, 1, 1000))
    assert in_words("cls", "cls_linear", near, near.p) == "cls and cls_linear are equivalent within 0.5"
    assert in_words("cls", "cls_linear", near, near.p, margin=0.3).startswith("cannot tell")

    unsure = difference(1.0, example_error=0.75, shape=(1, 1, 1000))
    assert (
        in_words("cls", "mean", unsure, unsure.p)
        == "cannot tell cls from mean: these runs see differences above 2.1 only"
    )
    assert (
        in_words("cls", "mean", better, 0.06) == "cannot tell cls from mean: these runs see differences above 1.1 only"
    )
    many = in_words("cls", "cls_linear", near, 1.0, pairs=10)
    assert many == "cannot tell cls from cls_linear: these runs see differences above 0.7 only"


def test_variance_of_a_nested_table_is_the_textbooks():
    """Stage-1 runs of 2, 3 and 4 heads: mean squares, and n0 = (n - sum n_i^2 / n) / (k - 1) runs on each."""
    groups = [np.array([80.0, 81.0]), np.array([83.0, 84.5, 82.5]), np.array([79.0, 80.0, 80.5, 78.5])]
    values = np.concatenate(groups)
    labels = np.repeat(["a", "b", "c"], [2, 3, 4]).tolist()
    within = sum(np.square(group - group.mean()).sum() for group in groups) / 6
    between = sum(len(group) * (group.mean() - values.mean()) ** 2 for group in groups) / 2
    stage1_variance = (between - within) / ((9 - (4 + 9 + 16) / 9) / 2)
    found = variance_components(values, {"stage-1 run": labels})
    assert found["stage-1 run"].deviation == pytest.approx(stage1_variance**0.5)
    assert found[THE_REST].deviation == pytest.approx(within**0.5)
    assert found["stage-1 run"].share == pytest.approx(stage1_variance / (stage1_variance + within))
    assert (found["stage-1 run"].degrees_of_freedom, found[THE_REST].degrees_of_freedom) == (2, 6)


def test_variance_of_a_crossed_table_is_the_textbooks():
    """Four label draws that three stage-1 runs share, with two heads each."""
    random = np.random.default_rng(0)
    table = 80 + random.normal(size=(3, 1, 1)) * 2 + random.normal(size=(1, 4, 1)) + random.normal(size=(3, 4, 2)) / 2
    run, draw = (axis.ravel().tolist() for axis in np.indices(table.shape)[:2])
    found = variance_components(table.ravel(), {"stage-1 run": run, "label draw": draw})
    left = table - table.mean(axis=(1, 2), keepdims=True) - table.mean(axis=(0, 2), keepdims=True) + table.mean()
    rest = np.square(left).sum() / 18
    by_run, by_draw = table.mean(axis=(1, 2)).var(ddof=1), table.mean(axis=(0, 2)).var(ddof=1)
    assert found[THE_REST].deviation == pytest.approx(rest**0.5)
    assert found["stage-1 run"].deviation == pytest.approx((by_run - rest / 8) ** 0.5)
    assert found["label draw"].deviation == pytest.approx((by_draw - rest / 6) ** 0.5)


def test_sources_that_the_runs_cannot_tell_apart_are_not_told():
    """Accuracies that add up exactly; one data order only; and a head seed of its own for each run."""
    run, head = [1, 1, 2, 2], [(1, 1), (1, 2), (2, 1), (2, 2)]
    found = variance_components(
        np.array([80.0, 82.0, 86.0, 84.0]), {"stage-1 run": run, "data order": [1] * 4, "head seed": head}
    )
    assert found["head seed"].deviation == pytest.approx(2**0.5)
    assert found["stage-1 run"].deviation == pytest.approx((4**2 / 2 - 2 / 2) ** 0.5)
    for name in ("data order", THE_REST):
        assert math.isnan(found[name].deviation)
        assert math.isnan(found[name].share)
        assert found[name].degrees_of_freedom == 0
    assert found["head seed"].share + found["stage-1 run"].share == pytest.approx(1)


def test_a_single_run_tells_no_source():
    found = variance_components(np.array([80.0]), {"stage-1 run": [1]})
    assert all(math.isnan(component.deviation) and math.isnan(component.share) for component in found.values())


def test_negative_variances_are_reported_as_0():
    found = variance_components(np.array([80.0, 84.0, 81.0, 83.0]), {"stage-1 run": [1, 1, 2, 2]})
    assert found["stage-1 run"].deviation == found["stage-1 run"].share == 0
    assert found[THE_REST].share == 1


def test_ten_pairs_are_quick():
    first, second, _ = simulated(np.random.default_rng(0), (3, 3), examples=5000)
    start = time.process_time()
    for _ in range(10):
        assert paired_difference(first, second).p > 0
    assert time.process_time() - start < 3


def misses(runs, comparisons, **settings):
    """In how many of so many comparisons the 95 % interval leaves out the true difference."""
    random = np.random.default_rng(1)
    missed = 0
    for _ in range(comparisons):
        first, second, true = simulated(random, runs, **settings)
        gap = paired_difference(first, second)
        missed += abs(gap.points - true) > gap.reach(0.025)
    return missed


def most(comparisons):
    """Misses of 5 % that chance exceeds once in 1,000 times."""
    return stats.binom.ppf(0.999, comparisons, 0.05)


@pytest.mark.parametrize("runs", [(1, 1), (1, 3), (3, 1), (3, 3)])
@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_intervals_cover_as_often_as_they_claim(runs, effect):
    """Without an effect, alike conditions are called different in 5 % at most: the interval leaves out 0 then."""
    assert misses(runs, 200, effect=effect) <= most(200)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [(1, 1), (1, 2), (1, 3), (1, 5), (2, 1), (3, 1), (3, 3), (3, 5), (5, 1), (5, 3)])
def test_intervals_cover_in_many_simulations(runs):
    """Each spread alone is a coarse look; together they would show a share of 6 %."""
    missed = [
        misses(runs, 1000, stage1_deviation=stage1, seed_deviation=seed, effect=effect)
        for stage1, seed in [(0.3, 0.3), (1.0, 0.3), (0.3, 1.0), (1.0, 1.0)]
        for effect in (0.0, 1.0)
    ]
    assert max(missed) <= most(1000), missed
    assert sum(missed) <= most(1000 * len(missed)), missed
