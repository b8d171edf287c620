import numpy as np
import pytest

from poolwise.data.draws import balanced_draw
from poolwise.settings import UserError

LABELS = np.array([0, 1, 1, 2, 0, 2, 1, 0, 2, 2, 1, 0])
NAMES = ("bad", "fair", "good")


def test_a_draw_has_so_many_of_each_class_once_and_in_order():
    for seed in range(20):
        drawn = balanced_draw(LABELS, NAMES, 3, seed)
        assert np.bincount(LABELS[drawn]).tolist() == [3, 3, 3]
        assert (np.diff(drawn) > 0).all()
    assert len({tuple(balanced_draw(LABELS, NAMES, 1, seed)) for seed in range(20)}) > 5


def test_a_smaller_draw_lies_in_the_larger_one_of_its_seed():
    small, large = (set(balanced_draw(LABELS, NAMES, count, 7).tolist()) for count in (1, 3))
    assert small < large
    assert set(balanced_draw(LABELS, NAMES, 4, 7).tolist()) == set(range(12))


def test_too_few_of_a_class_are_told():
    with pytest.raises(
        UserError, match="labels_per_class=5: the training texts hold 4 of class 'bad'; at most so many"
    ):
        balanced_draw(LABELS, NAMES, 5, 1)
    with pytest.raises(UserError, match="hold 0 of class 'good'"):
        balanced_draw(LABELS[LABELS < 2], NAMES, 1, 1)
