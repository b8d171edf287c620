"""What a sweep can show, told before it is run."""

import math

from scipy import stats

from poolwise.compare.inference import LEVEL, POWER

DISAGREEMENT = 0.10
"""Share of test texts on which two fine-tuned classifiers of like accuracy are taken to differ in being right."""
SEED_DEVIATION = 0.5
"""Points; the standard deviation over seeds that a fine-tuned encoder is taken to have."""


def smallest_difference(examples: int, seeds: int) -> float:
    """The difference in accuracy, in points, that two conditions must have to be told apart with probability 0.8.

    The larger of two: what N test examples can show, (z_0.975 + z_0.8) sqrt(d / N) for paired answers with a share d
    of disagreement (Connor 1987; Card et al. 2020 for NLP), and what S seeds can show, (t_0.975 + t_0.8)
    sqrt(2 s^2 / S) with S - 1 degrees of freedom. d = 10 % and s = 0.5 points are assumed, as nothing has been run
    yet. For one seed, which has no spread, what the examples alone can show.
    """
    by_examples = (stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(POWER)) * math.sqrt(DISAGREEMENT / examples)
    if seeds < 2:
        return float(100 * by_examples)
    quantiles = stats.t.ppf(1 - LEVEL / 2, seeds - 1) + stats.t.ppf(POWER, seeds - 1)
    by_seeds = quantiles * SEED_DEVIATION * math.sqrt(2 / seeds)
    return float(max(100 * by_examples, by_seeds))


def power_in_words(examples: int, seeds: int) -> str:
    """What a sweep can show, before it is run."""
    if seeds < 2:
        return (
            f"nothing for sure, as one seed has no spread (give several: seed=1,2,3); its {examples:,} test texts "
            f"alone could show differences of about {smallest_difference(examples, seeds):.1f} points in accuracy"
        )
    return (
        f"differences of about {smallest_difference(examples, seeds):.1f} points in accuracy, by {examples:,} test "
        f"texts and {seeds} seeds (two runs taken to disagree on {DISAGREEMENT:.0%} of texts, seeds to spread by "
        f"{SEED_DEVIATION} points, as large encoders do; small ones spread more)"
    )
