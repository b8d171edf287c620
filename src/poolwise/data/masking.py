"""Dynamic masking as a pure function of (seed, epoch, example, position).

No generator has state here, so masks are fresh in every epoch, the same for every number of loader workers,
and known again after a stop. Shapes: B texts, T tokens.
"""

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from numpy import ndarray

from poolwise.settings import Masking

IGNORED_LABEL = -100
"""Label of a position that no loss reads (the default `ignore_index` of torch's cross entropy)."""

STREAMS = 3
"""Streams of random bits that one draw of masks takes."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: UInt64[ndarray, "..."]) -> UInt64[ndarray, "..."]:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014, figure 17): a bijection that scrambles bits."""
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
) -> tuple[Int64[ndarray, "B T"], Int64[ndarray, "B T"]]:
    """BERT's masking (Devlin et al. 2019, section 3.1): 15 % chosen; of these 80 % [MASK], 10 % random, 10 % kept.

    Args:
        token_ids: (B, T).
        maskable: (B, T), false at special tokens and padding.
        examples: (B,), the number of each text in its split.
        masking: the probability that a position is chosen, and the shares of what stands there then.
        mask_id: the id of [MASK].
        replacement_ids: the ids that a random replacement is drawn from, evenly.
        seed: of the run (training) or fixed (dev).
        epoch: counted from 0.
        draw: several draws of one epoch are independent.

    Returns:
        Input ids (B, T) and labels (B, T): the original id where chosen, -100 elsewhere.
    """
    length = token_ids.shape[1]
    choice_stream, fate_stream, replacement_stream = (STREAMS * draw + stream for stream in range(STREAMS))
    chosen = maskable & (_uniform(seed, epoch, examples, length, choice_stream) < masking.mask_probability)
    fate = _uniform(seed, epoch, examples, length, fate_stream)
    masked = chosen & (fate < masking.mask_token_share)
    replaced = chosen & ~masked & (fate < masking.mask_token_share + masking.random_token_share)
    draws = random_bits(seed, epoch, examples, length, replacement_stream) % np.uint64(len(replacement_ids))
    inputs = np.where(masked, mask_id, token_ids)
    inputs = np.where(replaced, replacement_ids[draws.astype(np.int64)], inputs)
    return inputs, np.where(chosen, token_ids, IGNORED_LABEL)


def all_masked(probability: float) -> Masking:
    """Masking in which each chosen position becomes [MASK]."""
    return Masking(mask_probability=probability, mask_token_share=1.0, random_token_share=0.0)


def _uniform(seed: int, epoch: int, examples: Int64[ndarray, " B"], length: int, stream: int) -> ndarray:
    """Uniform numbers in [0, 1), of the 53 bits that a float64 holds."""
    return (random_bits(seed, epoch, examples, length, stream) >> np.uint64(11)) * 2.0**-53
