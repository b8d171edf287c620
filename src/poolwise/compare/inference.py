"""What stage-2 runs may claim: means and differences with intervals, tests, equivalence, and the sources of variance.

Shapes: S stage-1 runs, R stage-2 runs on each (or draws of labels that all of them share), N test examples, K units
(see `Estimate`), P pairs of conditions, L runs of a table. Accuracies and differences are in points (0 to 100).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from scipy import optimize, stats

LEVEL = 0.05
POWER = 0.8
DRAWS = 2000
"""Of a bootstrap or permutation; a standard error of the bootstrap is then off by 1.6 % (1 / sqrt(2 DRAWS))."""
PARTS = 20
"""In which the draws of a bootstrap are computed, so that hundreds of thousands of test texts find room."""
LARGEST = 50.0
"""Points; from chance to no mistake with two classes. A smallest difference above that is told as more than that."""
FARTHEST = 20.0
"""Standard normal deviations beyond which a p-value (below 1e-88) is told as 0."""

StandardErrors = Callable[[float], float]
"""How many standard errors to go, at so many degrees of freedom (infinity where the error is known)."""

Answers = Bool[ndarray, "S R N"] | Float[ndarray, "S R N"]
"""Of one condition: whether each example was answered right, or the share from 0 to 1 of draws in which it was."""


class Axes(NamedTuple):
    """What the first two axes of `Answers` are, if not stage-1 runs and runs of their own on each.

    Attributes:
        shared_draws: the second is of draws of labels that all of the first share, or that are all that one has.
        one_encoder: the first is of what stage 2 drew (heads, say) on one encoder, not of stage-1 runs.
    """

    shared_draws: bool = False
    one_encoder: bool = False


NESTED = Axes()
"""Stage-1 runs, and runs of their own on each."""


class Interval(ABC):
    """A value in points whose error has parts, each of some standard errors, joined to an interval and a p-value.

    Attributes:
        points: the value.
    """

    points: float

    @abstractmethod
    def parts(self, errors: StandardErrors) -> tuple[float, ...]:
        """Of each part, in points, so many of its standard errors as it has degrees of freedom for."""

    def reach(self, tail: float) -> float:
        """The parts together at the upper quantile `tail` of t, as Banerjee (1960) joins them."""
        return math.hypot(*self.parts(lambda freedom: float(stats.t.isf(tail, freedom))))

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval, in points."""
        return self.points - self.reach(LEVEL / 2)

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval, in points."""
        return self.points + self.reach(LEVEL / 2)

    @property
    def p(self) -> float:
        """Two-sided, of a true value of 0 (no difference): the level at which the interval begins at 0."""

        def beyond(deviations: float) -> float:
            return self.reach(float(stats.norm.sf(deviations))) - abs(self.points)

        if self.points == 0:
            return 1.0
        return 0.0 if beyond(FARTHEST) < 0 else float(2 * stats.norm.sf(optimize.brentq(beyond, 0, FARTHEST)))


@dataclass(frozen=True)
class Estimate(Interval):
    """A mean over runs and examples with its 95 % interval, by one hierarchical bootstrap over both.

    The unit that is resampled is the stage-1 run where there are several, with all the stage-2 runs on it; else the
    stage-2 run; else there is none, and examples alone are resampled. K is the number of units. Each draw takes K - 1
    of the K units with replacement (which makes the variance unbiased for few units: McCarthy and Snowden 1985) and N
    of the N examples. Runs in a stage-1 run are not resampled again, since the spread of stage-1 runs holds theirs
    already (Davison and Hinkley 1997, section 3.8).

    What is particular to one unit and one example counts in the draw of units and in the draw of examples (Owen 2007);
    the joint draws measure it, and it is taken off the examples' part. The interval joins the parts as Banerjee's
    (1960) does, points +- sqrt(t^2 a^2 + z^2 b^2), with a of the units, t its quantile at K - 1 degrees of freedom,
    and b of the examples. That covers at least as often as it claims, whatever the ratio of a to b, because the
    distribution function of a squared normal is concave; Satterthwaite's, which is narrower, misses in up to 8 % for
    K = 3 and 13 % for K = 2. It is never narrower than the examples alone would have it.

    Draws of labels that all units share (stage-1 runs, or heads on one encoder), or that are all that varies in the
    runs of one, are a part of their own, c, the standard error of the draws' means over units, with t at one less
    degree of freedom than there are draws. What is particular to a unit and a draw is in a and in c, so that
    a^2 + b^2 + c^2 is no less than the variance of the mean of both (Owen 2007). A single draw that all share has no
    spread: the claim then holds for this draw.

    Assumes that units, and draws, are independent and normal, and that N is in the hundreds.

    Found by the slow simulations of the tests, 1,000 comparisons a setting, with N = 800 and deviations of 0.3 or 1
    point of stage-1 runs and of stage-2 runs: the interval covers, by (S, R), in 95 to 96 % (1, 1), 98 to 99 (1, 2), 96
    to 99 (1, 3), 96 to 97 (1, 5), 97 to 100 (2, 1), 96 to 98 (3, 1), 96 to 98 (3, 3), 96 to 97 (3, 5), 95 to 97 (5, 1)
    and 96 to 97 (5, 3). With N = 3,000 these are 94 to 98, where percentiles of a plain bootstrap of all three levels
    cover in 84 to 86 (tried for (1, 3), (3, 3) and (5, 1), stage-2 runs or stage-1 runs spread by 1 point).

    Attributes:
        points: the mean.
        deviation: standard deviation (K - 1) over units, in points; NaN for a single unit.
        run_error: standard error from the draw of units, in points; 0 for a single unit.
        example_error: standard error from the draw of examples with the units as they are, in points; at least that of
            answers which differ nowhere by Agresti and Min (2005), 1 / (N + 2), since no bootstrap of these sees any.
        joint_error: the part of both that is particular to unit and example, in points; 0 for a single unit.
        stage1_runs, stage2_runs, examples: S, R, N; where heads on one encoder share draws, 1, the heads, and N.
        draw_error: standard error from the draws of labels that all units share, in points; 0 where none are.
        draws: how many these are.
    """

    points: float
    deviation: float
    run_error: float
    example_error: float
    joint_error: float
    stage1_runs: int
    stage2_runs: int
    examples: int
    draw_error: float = 0.0
    draws: int = 0

    @property
    def units(self) -> int:
        """K."""
        return self.stage1_runs if self.stage1_runs > 1 else self.stage2_runs

    def parts(self, errors: StandardErrors) -> tuple[float, float, float]:
        """Those of units, of shared draws, and of examples."""
        normal = errors(math.inf)
        units = errors(float(max(self.units, 2) - 1)) * self.run_error if self.run_error else 0.0
        draws = errors(float(max(self.draws, 2) - 1)) * self.draw_error if self.draw_error else 0.0
        examples = normal * math.sqrt(max(self.example_error**2 - self.joint_error**2, 0.0))
        return max(units, normal * self.joint_error), draws, examples


@dataclass(frozen=True)
class PooledEstimate(Interval):
    """The mean of estimates of one question in several settings, each counted alike.

    Settings may share stage-1 runs, draws of labels and test texts. Nothing is known of how far their errors go
    together, so those of one group are taken to go together wholly: the standard error of a mean is never more than
    the mean of the standard errors. Errors of several groups are taken to be independent, and what is said holds for
    settings such as these, not for data sets and models in general.

    The groups' errors of units have t's degrees of freedom by Satterthwaite (1946), of those that each group has.

    Attributes:
        points: the mean.
        estimates: one of each setting.
        runs: of each, the name of the group that shares stage-1 runs.
        data: of each, the name of the group that shares draws of labels and test texts.
    """

    points: float
    estimates: Sequence[Estimate]
    runs: Sequence[Hashable]
    data: Sequence[Hashable]

    def parts(self, errors: StandardErrors) -> tuple[float, ...]:
        """The mean's parts: of all units, and of each data set one of draws and one of examples."""
        of_data: dict[Hashable, float] = {}
        for each, data in zip(self.estimates, self.data, strict=True):
            _, *others = each.parts(errors)
            for kind, part in enumerate(others):
                of_data[kind, data] = of_data.get((kind, data), 0.0) + part / len(self.estimates)
        groups = [
            [each for each, runs in zip(self.estimates, self.runs, strict=True) if runs == name]
            for name in {*self.runs}
        ]
        count = len(self.estimates)
        of_runs = np.array([sum(each.run_error for each in group) / count for group in groups])
        joint = math.hypot(*(sum(each.joint_error for each in group) / count for group in groups))
        degrees = np.array([min((each.units for each in group if each.units > 1), default=2) - 1 for group in groups])
        freedom = float((of_runs**2).sum() ** 2 / (of_runs**4 / degrees).sum()) if of_runs.any() else math.inf
        return max(errors(freedom) * math.hypot(*of_runs), errors(math.inf) * joint), *of_data.values()


def _estimate(values: Float[ndarray, "S R N"], axes: Axes) -> Estimate:
    """The mean of values in points, such as 100 for a right answer; for a difference, from -100 to 100."""
    first, second, examples = values.shape
    crossed = axes.shared_draws and second > 1
    alone = crossed and first == 1  # nothing but draws varies
    by_draw = values.mean(axis=(0, 2))
    by_unit = values.mean(axis=1) if first > 1 else values[0]
    units, means = len(by_unit), by_unit.mean(axis=1)
    of_units = by_unit.T.astype(np.float32)
    drawn = np.concatenate([counts.astype(np.float32) @ of_units for counts in _example_draws(examples)])
    drawn /= examples
    by_runs = joint = np.zeros(DRAWS)
    if units > 1:
        draws = np.random.default_rng(1).multinomial(units - 1, np.full(units, 1 / units), DRAWS)
        weights = draws / (units - 1)
        by_runs = weights @ means
        joint = (weights * drawn).sum(axis=1) - by_runs - drawn.mean(axis=1)
    return Estimate(
        points=float(means.mean()),
        deviation=float(means.std(ddof=1)) if units > 1 else math.nan,
        run_error=0.0 if alone else float(by_runs.std()),
        example_error=max(float(drawn.mean(axis=1).std()), 100 / (examples + 2)),
        joint_error=0.0 if alone else float(joint.std()),
        stage1_runs=1 if axes.one_encoder else first,
        stage2_runs=first if axes.one_encoder else second,
        examples=examples,
        draw_error=float(by_draw.std(ddof=1)) / math.sqrt(second) if crossed else 0.0,
        draws=second if crossed else 0,
    )


@lru_cache(maxsize=1)  # the pairs of a comparison share their examples, and so the draws
def _example_draws(examples: int) -> list[UInt8[ndarray, "draws N"]]:
    """How often each draw has each example, in parts that are multiplied one after the other: a byte a count."""
    random = np.random.default_rng(0)
    counts = np.empty((DRAWS, examples), np.uint8)
    for draw in counts:
        draw[:] = np.bincount(random.integers(examples, size=examples), minlength=examples)
    return np.array_split(counts, PARTS)


def mean_accuracy(answers: Answers, *, axes: Axes = NESTED) -> Estimate:
    """Accuracy of one condition, in points, of answers (S, R, N)."""
    return _estimate(100 * answers.astype(float), axes)


def paired_difference(first: Answers, second: Answers, *, axes: Axes = NESTED) -> Estimate:
    """First less second, paired by stage-1 run, stage-2 run and example.

    An unadapted encoder beside S stage-1 runs needs S x R stage-2 runs of its own, each given once: repeated ones
    would hide their spread.

    Args:
        first, second: (S, R, N).
        axes: what S and R are.

    Raises:
        ValueError: the shapes differ.
    """
    return _estimate(_in_points(first, second), axes)


def difference_of_differences(
    first: Answers,
    second: Answers,
    baseline_first: Answers,
    baseline_second: Answers,
    *,
    axes: Axes = NESTED,
) -> Estimate:
    """(First less second) less the same of a baseline, all four paired.

    What the pooler's training is worth, for one: pooler less cls_linear with the objective, less the same without it.
    A unit is then a pair of stage-1 runs of one seed, with the objective and without.

    Args:
        first, second, baseline_first, baseline_second: (S, R, N).
        axes: what S and R are.

    Raises:
        ValueError: the shapes differ.
    """
    return _estimate(_in_points(first, second) - _in_points(baseline_first, baseline_second), axes)


def pooled(estimates: Sequence[Estimate], runs: Sequence[Hashable], data: Sequence[Hashable]) -> PooledEstimate:
    """The mean of estimates; arguments as the attributes of `PooledEstimate`."""
    return PooledEstimate(float(np.mean([each.points for each in estimates])), estimates, runs, data)


def _in_points(first: Answers, second: Answers) -> Float[ndarray, "S R N"]:
    pair = 100 * np.stack([first, second]).astype(float)  # stacking refuses other shapes; subtraction may broadcast
    difference: ndarray = pair[0] - pair[1]
    return difference


def permutation_p(first: Answers, second: Answers, *baseline: Answers) -> float:
    """The check of `Estimate.p` by swapping the two conditions' answers, two-sided, in (0, 1].

    Null: for these very runs, each example is as likely to be answered so by the first condition and so by the second
    as the other way round. All runs' answers to an example are swapped together, as they depend on each other. For one
    pair of runs this is McNemar's exact test, and agrees with `Estimate.p`. For several it agrees with what
    `example_error` alone would give, knows nothing of other runs, and is lower than `Estimate.p`. Runs alone cannot be
    swapped to any use: 3 of them can be in 2^3 ways, so that p is never under 2 / 8; 6 would be needed for 2 / 64.

    By `DRAWS` swaps, the observed one counted among them (Phipson and Smyth 2010).

    Args:
        first, second: (S, R, N).
        baseline: the other two of `difference_of_differences`; each then goes with its own in a swap.

    Raises:
        ValueError: the shapes differ.
    """
    less = _in_points(*baseline) if baseline else 0.0
    by_example = (_in_points(first, second) - less).mean(axis=(0, 1))
    sizes, counts = np.unique(np.abs(by_example), return_counts=True)
    kept = np.random.default_rng(0).binomial(counts, 0.5, (DRAWS, len(counts)))
    sums = (2 * kept - counts) @ sizes
    rounding = 1e-6
    return float(1 + (np.abs(sums) >= abs(by_example.sum()) - rounding).sum()) / (DRAWS + 1)


def holm(p_values: Float[ndarray, " P"], family: int) -> Float[ndarray, " P"]:
    """Holm's (1979) adjusted p-values: where those up to 0.05 are believed, any is wrongly so with 5 % at most.

    The k-th smallest is multiplied by F - k + 1, is no less than the one before it, and at most 1. Assumes nothing
    about how the pairs depend on each other.

    Args:
        p_values: (P,).
        family: F, the number of pairs that could have been told, P or more. Those that are not told count as if their
            p-values were the largest, which gives no smaller adjusted ones than Holm's over all F would.
    """
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(p_values[order] * (family - np.arange(len(p_values))))
    return np.minimum(adjusted, 1.0)


def smallest_detectable(difference: Interval, level: float = LEVEL) -> float:
    """The true difference, in points, that such runs would show at `level` with probability 0.8.

    Of each part as many standard errors as `noncentrality` says, put together like the interval. It rests on the spread
    of these runs, so from few it is rough itself: in simulations what three runs tell on average was shown with
    probability 0.66 to 0.71, and what five tell with 0.77.
    """
    return math.hypot(*difference.parts(lambda freedom: noncentrality(level, freedom)))


@lru_cache
def noncentrality(level: float, freedom: float) -> float:
    """How many standard errors from 0 a true difference lies that a two-sided t test shows with probability 0.8.

    Where the noncentral t distribution has the quantile of the central one at 1 - `level` / 2 exceeded so often; for
    many degrees of freedom z_0.975 + z_0.8 at the level 0.05.
    """
    quantile = float(stats.t.isf(level / 2, freedom))
    if math.isinf(freedom):
        return quantile + float(stats.norm.isf(1 - POWER))
    return float(
        optimize.brentq(lambda shift: stats.nct.sf(quantile, freedom, shift) - POWER, 0.0, 2 * quantile + FARTHEST)
    )


def equivalent(difference: Interval, margin: float, level: float = LEVEL) -> bool:
    """Whether both one-sided tests at `level` say that the conditions are less than `margin` points apart.

    By the interval of 1 - 2 `level`, 90 %, which must lie within the margin (Schuirmann 1987).
    """
    return abs(difference.points) + difference.reach(level) < margin


def in_words(
    first: str, second: str, difference: Estimate, adjusted_p: float, margin: float = 0.5, pairs: int = 1
) -> str:
    """What a comparison shows, in one sentence: which is better, that they are equivalent, or what it could have seen.

    Args:
        first, second: the conditions' names.
        difference: first less second.
        adjusted_p: of `holm`, or `difference.p` for a single pair. The interval printed is not adjusted.
        margin: points within which conditions count as equivalent.
        pairs: number of pairs that are looked at; for equivalence and the smallest difference the level is divided
            by it (Bonferroni).
    """
    if adjusted_p <= LEVEL:
        better, worse = (first, second) if difference.points > 0 else (second, first)
        gap, reach = abs(difference.points), difference.reach(LEVEL / 2)
        interval = f"95 % interval {gap - reach:.1f} to {gap + reach:.1f}"
        return f"{better} beats {worse} by {gap:.1f} points ({interval}, {p_in_words(adjusted_p)})"
    if equivalent(difference, margin, LEVEL / pairs):
        return f"{first} and {second} are equivalent within {margin:g}"
    seen = seen_in_words([smallest_detectable(difference, LEVEL / pairs)])
    return f"cannot tell {first} from {second}: these runs see differences {seen} only"


def seen_in_words(smallest: Sequence[float]) -> str:
    """From which differences on runs see them, up to `LARGEST`.

    Args:
        smallest: of `smallest_detectable`, one of each comparison.
    """
    low, high = (f"{points:.1f}" if points <= LARGEST else "" for points in (min(smallest), max(smallest)))
    if not low:
        return f"of more than {LARGEST:.0f} points"
    return f"above {low}" if low == high else f"above {low} to {high or f'more than {LARGEST:.0f}'}"


def p_in_words(p: float) -> str:
    """Three digits, as far as they say something."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


@dataclass(frozen=True)
class VarianceComponent:
    """How much one source of variance contributes to the accuracy of a run.

    Attributes:
        deviation: standard deviation in points; 0 where the estimate is negative, NaN where these runs cannot tell it.
        share: of the sum of all variances, from 0 to 1.
        degrees_of_freedom: that the estimate rests on; from 2 it is rough.
    """

    deviation: float
    share: float
    degrees_of_freedom: int


THE_REST = "the rest (interactions, and what no seed here names)"


def variance_components(
    accuracies: Float[ndarray, " L"], factors: Mapping[str, Sequence[Hashable]]
) -> dict[str, VarianceComponent]:
    """Variance by source, by the method of moments: sums of squares set equal to their expectations, and solved.

    Each factor is random, and takes the sum of squares that it adds to those before it (Henderson 1953, method 3;
    for balanced tables the usual analysis of variance). What no factor explains, interactions among it, is `THE_REST`.
    A factor that has one level, or goes with those before it, cannot be told: its variance counts with them.

    Args:
        accuracies: (L,) of the runs, in points.
        factors: a label for each of the L runs, by the factor's name. Outer factors come first. A factor nested in
            another has labels that do not recur in another level of it, such as (stage-1 seed, head seed); labels
            that recur, as of label draws that all stage-1 runs share, make it a crossed one.
    """
    indicators = {name: _indicators(labels) for name, labels in factors.items()} | {THE_REST: np.eye(len(accuracies))}
    explained = np.full((len(accuracies), 1), 1 / math.sqrt(len(accuracies)))
    squares, expected, degrees = [], [], []
    for levels in indicators.values():
        left, singular, _ = np.linalg.svd(levels - explained @ (explained.T @ levels), full_matrices=False)
        added = left[:, singular > 1e-8]
        explained = np.hstack([explained, added])
        squares.append(np.square(added.T @ accuracies).sum())
        expected.append([np.square(added.T @ other).sum() for other in indicators.values()])
        degrees.append(added.shape[1])
    told = np.flatnonzero(degrees)
    variances = np.full(len(degrees), math.nan)
    variances[told] = np.linalg.solve(np.array(expected)[np.ix_(told, told)], np.array(squares)[told]).clip(min=0)
    total = np.nansum(variances) or math.nan
    return {
        name: VarianceComponent(math.sqrt(variance), float(variance / total), degree)
        for name, variance, degree in zip(indicators, variances, degrees, strict=True)
    }


def _indicators(labels: Sequence[Hashable]) -> Float[ndarray, "L levels"]:
    codes = {label: code for code, label in enumerate(dict.fromkeys(labels))}
    ones: ndarray = np.eye(len(codes))[[codes[label] for label in labels]]
    return ones
