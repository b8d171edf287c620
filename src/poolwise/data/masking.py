"""Dynamic masking as a pure function of (seed, epoch, example, position).

No generator has state here, so masks are fresh in every epoch, the same for every number of loader workers,
and known again after a stop. Shapes: B texts, T tokens, M labelled positions.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64, UInt64
from numpy import ndarray
from scipy.optimize import brentq
from torch import Tensor

from poolwise.settings import Masking

IGNORED_LABEL = -100
"""Label of a position that no loss reads (the default `ignore_index` of torch's cross entropy)."""

STREAMS = 4
"""Streams of random bits that one draw of masks takes."""

LONGEST_SPAN = 10
SPAN_LENGTHS = 0.2 * 0.8 ** np.arange(LONGEST_SPAN) / (1 - 0.8**LONGEST_SPAN)
"""Chances of spans of 1 to 10 words: geometric with 0.2, cut at 10; 3.8 on average (Joshi et al. 2020)."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: UInt64[ndarray, "..."]) -> UInt64[ndarray, "..."]:
    """`mix64variant13` of Steele, Lea and Flood 2014, the usual output function of SplitMix64: a bijection of bits."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: ndarray = values ^ (values >> np.uint64(31))
    return scrambled


def random_bits(
    seed: int, epoch: int, examples: Int64[ndarray, " B"], length: int, stream: int
) -> UInt64[ndarray, "B T"]:
    """64 uniform bits for each position 0 to `length` - 1 of each example; streams are independent."""
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in (seed, epoch, stream):
            state = mix((state + np.uint64(part) + np.uint64(1)) * _GOLDEN)
        rows = mix((state + examples.astype(np.uint64)) * _GOLDEN)
        return mix(rows[:, None] + np.arange(1, length + 1, dtype=np.uint64) * _GOLDEN)


def mask_batch(
    token_ids: Int64[ndarray, "B T"],
    maskable: Bool[ndarray, "B T"],
    examples: Int64[ndarray, " B"],
    masking: Masking,
    *,
    mask_id: int,
    replacement_ids: Int64[ndarray, " R"],
    seed: int,
    epoch: int,
    draw: int = 0,
    word_starts: Bool[ndarray, "B T"] | None = None,
) -> tuple[Int64[ndarray, "B T"], Int64[ndarray, "B T"]]:
    """BERT's masking (Devlin et al. 2019): 15 % chosen; of these 80 % [MASK], 10 % random, 10 % kept.

    Chosen are single positions; whole words, each piece of which meets its own fate (as in BERT's code of 2019); or
    spans of words, which meet one fate (SpanBERT, Joshi et al. 2020, without its span boundary objective). In each
    case every maskable position is chosen with `masking.mask_probability`, so the number of chosen ones varies from
    text to text; BERT and SpanBERT choose a fixed share of each.

    Args:
        token_ids: (B, T).
        maskable: (B, T), false at special tokens and padding.
        examples: (B,), the number of each text in its split.
        masking: the probability that a position is chosen, the unit, and the shares of what stands there then.
        mask_id: the id of [MASK].
        replacement_ids: the ids that a random replacement is drawn from, evenly (in BERT's code: all ids).
        seed: of the run (training) or fixed (dev).
        epoch: counted from 0.
        draw: several draws of one epoch are independent.
        word_starts: (B, T), where a word begins; needed for words and spans.

    Returns:
        Input ids (B, T) and labels (B, T): the original id where chosen, -100 elsewhere.
    """
    length = token_ids.shape[1]

    def uniform(stream: int, width: int = length) -> Float64[ndarray, "B W"]:
        return _uniform(seed, epoch, examples, width, STREAMS * draw + stream)

    if masking.unit == "token":
        chosen, fate = uniform(0) < masking.mask_probability, uniform(1)
    elif word_starts is None:
        raise ValueError(f"masking by {masking.unit} needs word_starts")
    elif masking.unit == "word":
        chosen, fate = (
            np.take_along_axis(uniform(0), _latest(word_starts), axis=1) < masking.mask_probability,
            uniform(1),
        )
    else:
        width = length + LONGEST_SPAN - 1
        chosen, fate = spans(
            word_starts, masking.mask_probability, uniform(0, width), uniform(1, width), uniform(3, width)
        )
    chosen = maskable & chosen
    masked = chosen & (fate < masking.mask_token_share)
    replaced = chosen & ~masked & (fate < masking.mask_token_share + masking.random_token_share)
    draws = random_bits(seed, epoch, examples, length, STREAMS * draw + 2) % np.uint64(len(replacement_ids))
    inputs = np.where(masked, mask_id, token_ids)
    inputs = np.where(replaced, replacement_ids[draws.astype(np.int64)], inputs)
    return inputs, np.where(chosen, token_ids, IGNORED_LABEL)


def spans(
    word_starts: Bool[ndarray, "B T"],
    probability: float,
    begin: Float64[ndarray, "B W"],
    fate: Float64[ndarray, "B W"],
    size: Float64[ndarray, "B W"],
) -> tuple[Bool[ndarray, "B T"], Float64[ndarray, "B T"]]:
    """Spans of whole words, of `SPAN_LENGTHS`, that may overlap, so that each word is covered with `probability`.

    A span may begin at any word, also at one of `LONGEST_SPAN` - 1 that are thought before the first; else the first
    words would be covered less. SpanBERT draws spans until 15 % of the word pieces are covered, which may cut the last
    one short: about the same on average. Spans that touch share one fate in its code, here each keeps its own.

    Args:
        word_starts: (B, T).
        probability: that a word is covered.
        begin: (B, W), uniform numbers that say whether a span begins; W = T + `LONGEST_SPAN` - 1.
        fate: (B, W), uniform numbers that say what becomes of it.
        size: (B, W), uniform numbers that say how long it is.

    Returns:
        Where spans lie (B, T), and the fate (B, T) of the span that began last.
    """
    before = LONGEST_SPAN - 1
    starts = np.pad(word_starts, ((0, 0), (before, 0)), constant_values=True)
    begins = starts & (begin < begin_probability(probability))
    word = np.cumsum(starts, axis=1)
    sizes = 1 + np.searchsorted(np.cumsum(SPAN_LENGTHS)[:-1], size, side="right")
    reach = np.maximum.accumulate(np.where(begins, word + sizes, 0), axis=1)
    own_fate = np.take_along_axis(fate, _latest(begins), axis=1)
    return (reach > word)[:, before:], own_fate[:, before:]


@lru_cache
def begin_probability(covered: float) -> float:
    """The chance that a span begins at a word, with which a word is covered with the given probability.

    A word is bare if, for each k, none of more than k words began k words before: prod_k (1 - q P(length > k)).
    """
    longer = 1 - np.concatenate([[0.0], np.cumsum(SPAN_LENGTHS)[:-1]])
    return float(brentq(lambda q: 1 - np.prod(1 - q * longer) - covered, 0.0, 1.0))


def masking_at(masking: Masking, epoch: int, epochs: int) -> Masking:
    """The masking of an epoch, counted from 0, of several: from the first probability linearly to the final one.

    Where a budget comes to more epochs than were planned, the final one stays.
    """
    first, last = masking.mask_probability, masking.final_mask_probability
    if last is None or epochs < 2:
        return masking
    return replace(masking, mask_probability=first + (last - first) * min(epoch, epochs - 1) / (epochs - 1))


def plain(masking: Masking) -> Masking:
    """The same shares and first probability, by token: what dev is masked with, so that dev losses compare."""
    return replace(masking, unit="token", final_mask_probability=None)


def all_masked(probability: float) -> Masking:
    """Masking in which each chosen position becomes [MASK]."""
    return Masking(
        mask_probability=probability,
        mask_token_share=1.0,
        random_token_share=0.0,
        unit="token",
        final_mask_probability=None,
    )


def positions_of(labels: Int[Tensor, "B T"]) -> Int[Tensor, " M"]:
    """(M,) places of the labelled positions among the B T ones, row by row."""
    return (labels.flatten() != IGNORED_LABEL).nonzero().squeeze(1)


def _latest(marked: Bool[ndarray, "B T"]) -> Int64[ndarray, "B T"]:
    """At each position the last marked one up to it; 0 where there is none."""
    latest: ndarray = np.maximum.accumulate(np.where(marked, np.arange(marked.shape[1]), 0), axis=1)
    return latest


def _uniform(seed: int, epoch: int, examples: Int64[ndarray, " B"], length: int, stream: int) -> ndarray:
    """Uniform numbers in [0, 1), of the 53 bits that a float64 holds."""
    return (random_bits(seed, epoch, examples, length, stream) >> np.uint64(11)) * 2.0**-53
