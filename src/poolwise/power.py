"""What a sweep can show, told before it is run."""

import math

from poolwise.compare.inference import LEVEL, noncentrality

DISAGREEMENT = 0.10
"""Share of test texts on which two fine-tuned classifiers of like accuracy are taken to differ in being right."""
SEED_DEVIATION = 0.5
"""Points; the standard deviation over seeds that a fine-tuned encoder is taken to have."""


def smallest_difference(examples: int, seeds: int, level: float = LEVEL) -> float:
    """The difference in accuracy, in points, that two conditions must have to be told apart with probability 0.8.

    The root of the sum of squares of two: what N test examples can show, (z_0.975 + z_0.8) sqrt(d / N) for paired
    answers with a share d of disagreement (Connor 1987; Card et al. 2020 for NLP), and what S seeds can show,
    `noncentrality` at S - 1 degrees of freedom times sqrt(2 s^2 / S). d = 10 % and s = 0.5 points are assumed, as
    nothing has been run yet. For one seed, which has no spread, what the examples alone can show.

    Args:
        examples: N.
        seeds: S.
        level: of the test; of one among several comparisons that are allowed for, 0.05 by their number.
    """
    by_examples = 100 * noncentrality(level, math.inf) * math.sqrt(DISAGREEMENT / examples)
    if seeds < 2:
        return by_examples
    return math.hypot(by_examples, noncentrality(level, float(seeds - 1)) * SEED_DEVIATION * math.sqrt(2 / seeds))


def power_in_words(examples: int, seeds: int, conditions: int) -> str:
    """What a sweep of so many conditions can show, before it is run."""
    if seeds < 2:
        return (
            f"nothing for sure, as one seed has no spread (give several: seed=1,2,3); its {examples:,} test texts "
            f"alone could show differences of about {smallest_difference(examples, seeds):.1f} points in accuracy"
        )
    pairs = math.comb(conditions, 2)
    of_all = smallest_difference(examples, seeds, LEVEL / max(pairs, 1))
    allowed = f", of {of_all:.1f} where all {pairs} pairs of conditions are allowed for" if pairs > 1 else ""
    return (
        f"differences of about {smallest_difference(examples, seeds):.1f} points in accuracy{allowed}, by {examples:,} "
        f"test texts and {seeds} seeds (two runs taken to disagree on {DISAGREEMENT:.0%} of texts, seeds to spread by "
        f"{SEED_DEVIATION} points, as large encoders do; small ones spread more)"
    )
