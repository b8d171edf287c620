from itertools import pairwise

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from poolwise.data.batching import LengthGroupedBatches
from poolwise.data.imbalance import balanced_order, class_weights, given_weights, is_unbalanced
from poolwise.settings import UserError

LABELS = np.repeat([0, 1, 3], [70, 25, 5])


@pytest.mark.parametrize(("counts", "unbalanced"), [([30, 20], False), ([31, 20], True), ([5, 4, 0], False)])
def test_when_classes_are_unbalanced(counts, unbalanced):
    assert is_unbalanced(np.repeat(np.arange(len(counts)), counts)) == unbalanced


def test_weights_are_those_of_scikit_learn():
    weights = class_weights(LABELS, 4)
    reference = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS)
    np.testing.assert_allclose(weights, [*reference[:2], 0.0, reference[2]])
    assert weights[LABELS].mean() == pytest.approx(1.0)


def test_an_epoch_holds_as_many_of_each_class():
    order = balanced_order(LABELS, np.random.default_rng(0))
    assert np.bincount(LABELS[order]).tolist() == [34, 33, 0, 33]
    times = np.bincount(order, minlength=100)
    assert set(times[:70]) == {0, 1}  # some of the large class
    assert set(times[70:95]) == {1, 2}
    assert set(times[95:]) == {6, 7}
    assert np.abs(np.diff(np.flatnonzero(LABELS[order] == 3))).max() < 20  # not one class after the other


def test_balanced_batches_are_of_like_length_and_change_with_seed_and_epoch():
    lengths = np.random.default_rng(1).integers(5, 120, size=100)

    def epoch_of(seed: int, epoch: int) -> list[list[int]]:
        sampler = LengthGroupedBatches(lengths, 8, seed, balanced=LABELS)
        sampler.set_epoch(epoch)
        assert len(sampler) == 13
        return [[example for _, example in batch] for batch in sampler]

    batches = epoch_of(1, 0)
    assert [len(batches), sum(map(len, batches))] == [13, 100]
    assert np.bincount(LABELS[np.concatenate(batches)]).tolist() == [34, 33, 0, 33]
    spans = sorted((lengths[batch].min(), lengths[batch].max()) for batch in batches)
    assert all(shorter[1] <= longer[0] for shorter, longer in pairwise(spans))
    assert batches == epoch_of(1, 0)
    assert set(np.concatenate(batches)) != set(np.concatenate(epoch_of(1, 1)))
    assert epoch_of(2, 0) != batches


def test_weights_of_ones_own_are_of_the_classes_one_each():
    assert given_weights({"good": 1.0, "bad": 2.5}, ("bad", "good")).tolist() == [2.5, 1.0]
    assert given_weights({"True": 2.5, "False": 1.0}, ("false", "true")).tolist() == [1.0, 2.5]  # as Hydra reads them
    with pytest.raises(UserError, match="no class god; no weight of good; give one for each of the classes bad, good"):
        given_weights({"god": 1.0, "bad": 2.5}, ("bad", "good"))
