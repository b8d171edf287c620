from dataclasses import replace

import numpy as np
import pytest

from helpers import MASKING
from poolwise.data.masking import (
    IGNORED_LABEL,
    SPAN_LENGTHS,
    begin_probability,
    mask_batch,
    masking_at,
    mix,
    random_bits,
)

MASK, SPECIALS = 4, 5
EXAMPLES = np.arange(400)


def masked(seed=1, epoch=0, examples=EXAMPLES, length=100, masking=MASKING, word_starts=None, draw=0):
    token_ids = np.tile(np.arange(SPECIALS, SPECIALS + length), (len(examples), 1))
    maskable = np.ones_like(token_ids, dtype=bool)
    maskable[:, 0] = maskable[:, -5:] = False
    inputs, labels = mask_batch(
        token_ids,
        maskable,
        examples,
        masking,
        mask_id=MASK,
        replacement_ids=np.arange(SPECIALS, 2000),
        seed=seed,
        epoch=epoch,
        draw=draw,
        word_starts=word_starts,
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


def words(length=100) -> np.ndarray:
    """Words of one, two and three pieces in turn."""
    return np.tile(np.isin(np.arange(length) % 6, (0, 1, 3)), (len(EXAMPLES), 1))


def test_draws_of_one_epoch_are_independent():
    first, second = (masked(draw=draw)[3] != IGNORED_LABEL for draw in (0, 1))
    assert (first & second).sum() / first.sum() == pytest.approx(0.15, abs=0.02)


def test_whole_words_are_chosen_or_not_and_their_pieces_meet_their_own_fate():
    starts = words()
    _, maskable, inputs, labels = masked(masking=replace(MASKING, unit="word"), word_starts=starts)
    chosen = labels != IGNORED_LABEL
    inside = ~starts[:, 1:] & maskable[:, 1:] & maskable[:, :-1]
    assert (chosen[:, 1:][inside] == chosen[:, :-1][inside]).all()
    assert chosen.sum() / maskable.sum() == pytest.approx(0.15, abs=0.01)
    became_mask = inputs == MASK
    assert became_mask[chosen].mean() == pytest.approx(0.8, abs=0.015)
    both = chosen[:, 1:] & inside
    assert (became_mask[:, 1:][both] != became_mask[:, :-1][both]).mean() == pytest.approx(2 * 0.8 * 0.2, abs=0.03)


@pytest.mark.parametrize("probability", [0.15, 0.5])
def test_spans_cover_each_position_alike(probability):
    masking = replace(MASKING, unit="span", mask_probability=probability)
    starts = words()
    _, maskable, _, labels = masked(masking=masking, word_starts=starts)
    chosen = labels != IGNORED_LABEL
    by_place = np.stack([masked(seed=s, masking=masking, word_starts=starts)[3] != IGNORED_LABEL for s in range(20)])
    share = by_place.mean(axis=(0, 1))[maskable[0]]
    assert share.mean() == pytest.approx(probability, abs=0.01)
    assert share[:3].mean() == pytest.approx(probability, abs=0.02)
    inside = ~starts[:, 1:] & maskable[:, 1:] & maskable[:, :-1]
    assert (chosen[:, 1:][inside] == chosen[:, :-1][inside]).all()


def test_spans_have_spanberts_lengths_and_one_fate():
    assert SPAN_LENGTHS.sum() == pytest.approx(1.0)
    assert (SPAN_LENGTHS * np.arange(1, 11)).sum() == pytest.approx(3.8, abs=0.01)
    sparse = replace(MASKING, unit="span", mask_probability=0.01)  # spans that hardly ever touch
    each = np.ones((len(EXAMPLES), 100), dtype=bool)
    lengths, mixed = [], 0
    for seed in range(10):
        _, _, inputs, labels = masked(seed=seed, masking=sparse, word_starts=each)
        for row, kept in zip(labels[:, 20:80], inputs[:, 20:80] == MASK, strict=True):
            chosen = np.concatenate([[False], row != IGNORED_LABEL, [False]])
            for begin, end in np.flatnonzero(np.diff(chosen)).reshape(-1, 2):
                lengths.append(end - begin)
                mixed += len(set(kept[begin:end])) > 1
    assert np.mean(lengths) == pytest.approx(3.8, abs=0.25)
    assert max(lengths) >= 9
    assert mixed / len(lengths) < 0.04


def test_begin_probability_by_simulation():
    random, q = np.random.default_rng(0), begin_probability(0.3)
    begins = random.random((20000, 10)) < q
    sizes = random.choice(np.arange(1, 11), p=SPAN_LENGTHS, size=begins.shape)
    assert (begins & (sizes > np.arange(10))).any(axis=1).mean() == pytest.approx(0.3, abs=0.01)


def test_the_probability_of_an_epoch():
    rising = replace(MASKING, final_mask_probability=0.45)
    assert [masking_at(rising, epoch, 4).mask_probability for epoch in range(4)] == pytest.approx(
        [0.15, 0.25, 0.35, 0.45]
    )
    assert masking_at(rising, 7, 4) == masking_at(rising, 3, 4)
    assert masking_at(MASKING, 2, 4) is masking_at(MASKING, 0, 1) is MASKING


def test_words_and_spans_need_to_know_where_words_start():
    with pytest.raises(ValueError, match="masking by span needs word_starts"):
        masked(masking=replace(MASKING, unit="span"))
