"""Texts that stand in two places: exact copies after normalisation, and near-copies by MinHash with LSH.

Shapes: N texts, M texts that should not be known before, S shingles, P permutations, B bands.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from datasets import Dataset
from jaxtyping import Int64, UInt32, UInt64
from numpy import ndarray

from poolwise.data.corpus import batches_of_rows, each_text, found_once

Of = TypeVar("Of")

SHINGLE = 5
"""Characters; what Leskovec, Rajaraman & Ullman (Mining of Massive Datasets, section 3.2.2) advise for short texts.
Characters serve scripts without blanks between words too."""
THRESHOLD = 0.8
"""Jaccard similarity of the shingles from which on two texts are near-copies."""
BANDS, ROWS = 16, 6
"""Of a signature. Two texts of similarity s share a band with probability 1 - (1 - s^6)^16: 0.99 at 0.8, 0.22 at 0.5,
2e-4 at 0.15."""
ESTIMATE_MARGIN = 0.15
"""By which the estimate of a pair that is counted may lie below the threshold: 3.7 standard errors."""
LARGEST_BUCKET = 20
"""Texts of one band's value that a text is compared with: texts made from one template fill a bucket."""


@cache
def _to_blanks() -> dict[int, str]:
    """Each punctuation mark to a blank: category P, and what BERT counts as such of ASCII's signs."""
    signs = (chr(point) for point in range(0x20000))  # no mark lies beyond
    return {
        ord(sign): " "
        for sign in signs
        if unicodedata.category(sign)[0] == "P" or (sign.isascii() and sign.isprintable() and not sign.isalnum())
    }


def normalised(text: str) -> str:
    """The text without case, punctuation, forms of one character (Unicode's NFKC) and what white space it has.

    A text of punctuation alone keeps it.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.translate(_to_blanks()).split()) or " ".join(plain.split())


@found_once
def text_keys(texts: Dataset) -> UInt64[ndarray, " N"]:
    """A 64-bit hash of each normalised text: that of copies is the same; of others in a million texts, with 3e-8."""
    return keys_of(each_text(texts))


def keys_of(texts: Iterable[str]) -> UInt64[ndarray, " N"]:
    """The same of texts one by one."""
    digests = bytearray()
    for text in texts:
        digests += blake2b(normalised(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.frombuffer(digests, dtype=np.uint64)


def without_copies(
    texts: Dataset, keys: UInt64[ndarray, " N"], others: UInt64[ndarray, " M"], further: Sequence[int] = ()
) -> Dataset:
    """The texts whose key is none of the others', less `further` numbers; the very same object where that is all.

    They stay where they are, mapped from the disk, and are read by their numbers.
    """
    copies = np.isin(keys, others)
    copies[list(further)] = True
    return texts.select(np.flatnonzero(~copies)) if copies.any() else texts


def held_back(by_split: Mapping[str, Of]) -> dict[str, Of]:
    """Of what there is for each split, that of dev and test: what training must not have read."""
    return {split: by_split[split] for split in ("dev", "test") if split in by_split}


def shingles(texts: Sequence[str]) -> tuple[UInt32[ndarray, " S"], Int64[ndarray, " N1"]]:
    """Hashes of the shingles of normalised texts, all in a row, and where each text's begin: (N + 1,).

    A text that is shorter than a shingle is filled up with blanks.
    """
    padded = [text.ljust(SHINGLE) for text in map(normalised, texts)]
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    ends = np.cumsum([len(text) for text in padded])
    hashes = np.zeros(len(points) - SHINGLE + 1, dtype=np.uint32)
    for place in range(SHINGLE):
        hashes = (hashes ^ points[place : place + len(hashes)]) * np.uint32(0x9E3779B1)
        hashes ^= hashes >> np.uint32(15)
    in_one_text = np.ones(len(points), dtype=bool)
    for back in range(1, SHINGLE):
        in_one_text[ends - back] = False
    starts = np.concatenate([[0], ends - (SHINGLE - 1) * np.arange(1, len(ends) + 1)])
    return hashes[in_one_text[: len(hashes)]], starts


def signatures(texts: Dataset) -> UInt32[ndarray, "N P"]:
    """MinHash (Broder 1997): of each text, the least value of its shingles in each of P random orders.

    Two texts agree in a share of these that estimates the Jaccard similarity of their shingles.
    """
    random = np.random.default_rng(0)
    factors = random.integers(2**31, size=BANDS * ROWS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    masks = random.integers(2**32, size=BANDS * ROWS, dtype=np.uint32)
    found = np.empty((len(texts), BANDS * ROWS), dtype=np.uint32)
    first = 0
    for rows in batches_of_rows(texts):
        values, starts = shingles(rows["text"])
        last = first + len(rows["text"])
        for order, (factor, mask) in enumerate(zip(factors, masks, strict=True)):
            found[first:last, order] = np.minimum.reduceat((values ^ mask) * factor, starts[:-1])
        first = last
    return found


def jaccard(text: str, other: str) -> float:
    """The share of the two texts' shingles that both have."""
    (one, _), (two, _) = shingles([text]), shingles([other])
    one, two = np.unique(one), np.unique(two)
    both = len(np.intersect1d(one, two, assume_unique=True))
    return both / (len(one) + len(two) - both)


def near_copies(
    texts: Dataset, others: Dataset, signed: UInt32[ndarray, "M P"], others_signed: UInt32[ndarray, "N P"]
) -> dict[int, tuple[int, float]]:
    """For each text that has one, the number of the other text that is nearest to it, and their similarity.

    Texts that share a band of their signatures are compared by the whole of these (locality-sensitive hashing), and
    the best by what their shingles are; so each pair that is found is one, and a few are missed.

    Args:
        texts: M of them.
        others: N of them.
        signed: signatures of the texts.
        others_signed: signatures of the others.
    """
    best = np.full(len(texts), -1)
    estimates = np.full(len(texts), THRESHOLD - ESTIMATE_MARGIN)
    for band in range(BANDS):
        part = slice(band * ROWS, (band + 1) * ROWS)
        wanted, known = _band_keys(signed[:, part]), _band_keys(others_signed[:, part])
        order = np.argsort(known, kind="stable")
        begin = np.searchsorted(known, wanted, "left", sorter=order)
        end = np.searchsorted(known, wanted, "right", sorter=order)
        for further in range(LARGEST_BUCKET):
            numbers = np.flatnonzero(begin + further < end)
            candidates = order[begin[numbers] + further]
            agreeing = (signed[numbers] == others_signed[candidates]).mean(axis=1)
            better = agreeing > estimates[numbers]
            best[numbers[better]], estimates[numbers[better]] = candidates[better], agreeing[better]
    found = {}
    for number in np.flatnonzero(best >= 0):
        similarity = jaccard(texts[int(number)]["text"], others[int(best[number])]["text"])
        if similarity >= THRESHOLD:
            found[int(number)] = (int(best[number]), similarity)
    return found


def near_groups(texts: Dataset) -> UInt64[ndarray, " N"]:
    """A number for each text, the same for those that are near-copies, or exact ones, of each other by way of others.

    Pairs are found as `near_copies` does; of a band's value each text is compared with the `LARGEST_BUCKET` after it.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    signed = signatures(texts)
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in range(BANDS):
        keys = _band_keys(signed[:, band * ROWS : (band + 1) * ROWS])
        order = np.argsort(keys, kind="stable")
        for further in range(1, LARGEST_BUCKET + 1):
            one, other = order[:-further], order[further:]
            alike = keys[one] == keys[other]
            if not alike.any():
                break
            one, other = one[alike], other[alike]
            agreeing = (signed[one] == signed[other]).mean(axis=1) >= THRESHOLD - ESTIMATE_MARGIN
            found.append(np.stack([one[agreeing], other[agreeing]], axis=1))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    near = [jaccard(texts[int(one)]["text"], texts[int(other)]["text"]) >= THRESHOLD for one, other in pairs]
    one, other = pairs[np.array(near, dtype=bool)].T
    links = coo_matrix((np.ones(len(one)), (one, other)), shape=(len(texts), len(texts)))
    groups: UInt64[ndarray, " N"] = connected_components(links, directed=False)[1].astype(np.uint64)
    return groups


def _band_keys(band: UInt32[ndarray, "N R"]) -> UInt64[ndarray, " N"]:
    """A hash of each row."""
    keys = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys
