"""Classes of unlike size: when they are called so, and two ways to train as if they were not.

Shapes: N examples, C classes.
"""

import numpy as np
from jaxtyping import Float, Int, Int64
from numpy import ndarray

UNBALANCED = 1.5
"""How many times as many examples as the rarest class the most frequent one has where classes are called unbalanced."""


def is_unbalanced(labels: Int[ndarray, " N"]) -> bool:
    """Whether the classes that there are have unlike numbers of examples."""
    counts = np.unique(labels, return_counts=True)[1]
    return bool(counts.max() > UNBALANCED * counts.min())


def class_weights(labels: Int[ndarray, " N"], classes: int) -> Float[ndarray, " C"]:
    """N / (C n) for a class of n examples, as scikit-learn's `balanced` (King and Zeng 2001): their mean over N is 1.

    C counts the classes that there are; one that has no example gets 0.
    """
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts > 0, len(labels) / ((counts > 0).sum() * np.maximum(counts, 1)), 0.0)


def balanced_order(labels: Int[ndarray, " N"], random: np.random.Generator) -> Int64[ndarray, " N"]:
    """N examples in random order, of each class as many, but for one.

    Of a large class some are drawn, each once; a small one is gone through in whole before one of it comes again.
    """
    present = np.unique(labels)
    drawn = []
    for label, share in zip(present, np.array_split(labels, len(present)), strict=True):
        own = np.flatnonzero(labels == label)
        rounds = -(-len(share) // len(own))
        drawn.append(np.concatenate([random.permutation(own) for _ in range(rounds)])[: len(share)])
    return random.permutation(np.concatenate(drawn))
