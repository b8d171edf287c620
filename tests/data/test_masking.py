import numpy as np
import pytest

from helpers import MASKING
from poolwise.data.masking import IGNORED_LABEL, mask_batch, mix, random_bits

MASK, SPECIALS = 4, 5
EXAMPLES = np.arange(400)


def masked(seed=1, epoch=0, examples=EXAMPLES, length=100):
    token_ids = np.tile(np.arange(SPECIALS, SPECIALS + length), (len(examples), 1))
    maskable = np.ones_like(token_ids, dtype=bool)
    maskable[:, 0] = maskable[:, -5:] = False
    inputs, labels = mask_batch(
        token_ids,
        maskable,
        examples,
        MASKING,
        mask_id=MASK,
        replacement_ids=np.arange(SPECIALS, 2000),
        seed=seed,
        epoch=epoch,
    )
    return token_ids, maskable, inputs, labels


def test_mix_agrees_with_the_published_sequence():
    """SplitMix64 from state 0: the first outputs that reference implementations give."""
    with np.errstate(over="ignore"):
        states = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [hex(value) for value in mix(states)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_shares_are_15_percent_and_80_10_10():
    token_ids, maskable, inputs, labels = masked()
    chosen = labels != IGNORED_LABEL
    assert chosen.sum() / maskable.sum() == pytest.approx(0.15, abs=0.006)
    became_mask = inputs[chosen] == MASK
    kept = inputs[chosen] == token_ids[chosen]
    assert became_mask.mean() == pytest.approx(0.8, abs=0.015)
    assert kept.mean() == pytest.approx(0.1, abs=0.012)
    assert (~became_mask & ~kept).mean() == pytest.approx(0.1, abs=0.012)


def test_labels_hold_the_originals_and_the_rest_is_untouched():
    token_ids, maskable, inputs, labels = masked()
    chosen = labels != IGNORED_LABEL
    assert (labels[chosen] == token_ids[chosen]).all()
    assert (inputs[~chosen] == token_ids[~chosen]).all()
    assert not chosen[~maskable].any()
    assert inputs.min() == MASK


def test_masks_are_a_function_of_seed_epoch_and_example_alone():
    _, _, inputs, labels = masked()
    order = np.random.default_rng(0).permutation(len(EXAMPLES))[:50]
    _, _, again, labels_again = masked(examples=EXAMPLES[order])
    assert (again == inputs[order]).all()
    assert (labels_again == labels[order]).all()
    _, _, shorter, _ = masked(length=60)
    assert (shorter[:, :55] == inputs[:, :55]).all()


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 1}])
def test_masks_change_with_seed_and_epoch(other):
    chosen = masked()[3] != IGNORED_LABEL
    others = masked(**other)[3] != IGNORED_LABEL
    both = (chosen & others).sum() / chosen.sum()
    assert both == pytest.approx(0.15, abs=0.02)


def test_streams_are_uniform_and_independent():
    first, second = (random_bits(1, 0, EXAMPLES, 100, stream) >> np.uint64(11) for stream in (0, 1))
    uniform = first.ravel() * 2.0**-53
    assert uniform.mean() == pytest.approx(0.5, abs=0.005)
    assert np.histogram(uniform, bins=10, range=(0, 1))[0] / uniform.size == pytest.approx(0.1, abs=0.006)
    assert abs(np.corrcoef(uniform, second.ravel() * 2.0**-53)[0, 1]) < 0.01
