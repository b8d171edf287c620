"""Classes of unlike size: when they are called so, and ways to train as if they were not.

Shapes: N examples, C classes.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Int64
from numpy import ndarray

from poolwise.settings import UserError
from poolwise.words import some

UNBALANCED = 1.5
"""How many times as many examples as the rarest class the most frequent one has where classes are called unbalanced."""


def is_unbalanced(labels: Int[ndarray, " N"]) -> bool:
    """Whether the classes that there are have unlike numbers of examples."""
    return are_unlike(np.unique(labels, return_counts=True)[1].tolist())


def are_unlike(counts: Iterable[int]) -> bool:
    """The same of how many examples each class has; those of none are left aside."""
    there = [count for count in counts if count]
    return bool(there) and max(there) > UNBALANCED * min(there)


def class_weights(labels: Int[ndarray, " N"], classes: int) -> Float[ndarray, " C"]:
    """N / (C n) for a class of n examples, as scikit-learn's `balanced` (King and Zeng 2001): their mean over N is 1.

    C counts the classes that there are; one that has no example gets 0.
    """
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts > 0, len(labels) / ((counts > 0).sum() * np.maximum(counts, 1)), 0.0)


AS_LABELS = {"True": "true", "False": "false"}
"""Names that Hydra takes for something else, as labels are called."""


def given_weights(weights: Mapping[str, float], names: Sequence[str]) -> Float[ndarray, " C"]:
    """The weights that a person gives, in the order of the class ids.

    Raises:
        UserError: they are not of these classes, one each.
    """
    weights = {AS_LABELS.get(name, name): weight for name, weight in weights.items()}
    wrong = [f"no class {name}" for name in weights if name not in names]
    wrong += [f"no weight of {name}" for name in names if name not in weights]
    if wrong:
        raise UserError(f"protocol.imbalance: {'; '.join(wrong)}; give one for each of the classes {some(names, 20)}")
    return np.array([weights[name] for name in names])


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
