import numpy as np
import pytest

from poolwise.power import power_in_words, smallest_difference


def test_the_smallest_difference_of_examples_is_the_published_one():
    """Points at 80 % power and 10 % disagreement, by hand: 2.8 sqrt(0.1 / N)."""
    for examples, points in ((872, 3.00), (1821, 2.07), (10_662, 0.86)):
        assert smallest_difference(examples, seeds=1) == pytest.approx(points, abs=0.01)
    by_seeds = 5.653 * 0.5 * (2 / 3) ** 0.5  # noncentrality at 2 degrees of freedom
    assert smallest_difference(10**7, seeds=3) == pytest.approx(by_seeds, abs=0.01)
    assert smallest_difference(872, seeds=3) == pytest.approx((3.00**2 + by_seeds**2) ** 0.5, abs=0.01)
    assert power_in_words(1000, 1, 4).startswith("nothing for sure, as one seed has no spread")


def test_several_comparisons_show_less_each():
    """Four conditions have six pairs."""
    assert smallest_difference(769, seeds=3, level=0.05 / 6) == pytest.approx(6.9, abs=0.05)
    words = power_in_words(769, 3, 4)
    assert words.startswith("differences of about 3.9 points in accuracy, of 6.9 where all 6 pairs of conditions")
    assert "pairs" not in power_in_words(769, 3, 2)


def test_the_smallest_difference_is_shown_in_four_of_five_comparisons():
    """Simulated: paired answers that disagree on 10 % of 1,000 texts, a true difference of the smallest size."""
    random = np.random.default_rng(0)
    points = smallest_difference(1000, seeds=1)
    better = (0.10 + points / 100) / 2
    signs = random.choice([1, -1, 0], p=[better, 0.10 - better, 0.90], size=(4000, 1000))
    shown = np.abs(signs.mean(axis=1)) > 1.96 * signs.std(axis=1) / 1000**0.5
    assert 0.77 < shown.mean() < 0.83
