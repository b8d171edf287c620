"""Rough topics of texts, so that a batch can hold texts that are alike.

Shapes: N texts, V word pieces, D dimensions, K topics.
"""

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from poolwise.data.corpus import ROWS_AT_A_TIME
from poolwise.data.tokens import TokenisedTexts, document_frequencies

TOPICS = 8
"""Few, so that texts of one topic within a pool still fill several batches of like length."""
DIMENSIONS = 64
ROUNDS = 10


def topics_of(texts: TokenisedTexts, vocabulary_size: int) -> Int64[ndarray, " N"]:
    """A topic for each text: spherical k-means (Dhillon and Modha 2001) over `text_vectors`, the same each time."""
    vectors = text_vectors(texts, vocabulary_size)
    centres = vectors[np.random.default_rng(0).permutation(len(vectors))[:TOPICS]]
    for _ in range(ROUNDS):
        nearest = (vectors @ centres.T).argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centres)
    topics: ndarray = (vectors @ centres.T).argmax(axis=1)
    return topics


def text_vectors(texts: TokenisedTexts, vocabulary_size: int) -> Float32[ndarray, "N D"]:
    """Bags of word pieces weighted by log(N / document frequency), projected at random to D, of length 1.

    A projection on normal directions keeps angles about as they are (Johnson and Lindenstrauss 1984).
    """
    frequencies = document_frequencies(texts, vocabulary_size)
    weights = np.log(len(texts) / np.maximum(frequencies, 1))
    directions = np.random.default_rng(0).standard_normal((vocabulary_size, DIMENSIONS)) * weights[:, None]
    parts = []
    for start in range(0, len(texts), ROWS_AT_A_TIME):
        offsets = texts.offsets[start : start + ROWS_AT_A_TIME + 1]
        parts.append(
            np.add.reduceat(directions[texts.ids[offsets[0] : offsets[-1]]], offsets[:-1] - offsets[0], axis=0)
        )
    vectors = np.concatenate(parts)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: ndarray = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit
