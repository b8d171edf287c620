"""Draws of labelled examples: few of each class, and folds.

Shapes: N examples, C classes, n drawn examples.
"""

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt64
from numpy import ndarray

from poolwise.settings import UserError


def balanced_draw(labels: Int[ndarray, " N"], names: tuple[str, ...], count: int, seed: int) -> Int64[ndarray, " n"]:
    """`count` examples of each class, in the order of the data; a smaller draw of a seed lies in its larger ones.

    Args:
        labels: (N,) class ids.
        names: of the C classes, for the message.
        count: examples a class.
        seed: of the draw.

    Raises:
        UserError: a class has fewer.
    """
    _check_enough(labels, names, count, "labels_per_class")
    order = np.random.default_rng(seed).permutation(len(labels))
    drawn = [order[labels[order] == label][:count] for label in range(len(names))]
    return np.sort(np.concatenate(drawn))


def stratified_folds(labels: Int[ndarray, " N"], names: tuple[str, ...], count: int, seed: int) -> Int64[ndarray, " N"]:
    """The fold of each example, 0 to `count` - 1: sizes differ by at most one, and so do those of each class.

    Args:
        labels: (N,) class ids.
        names: of the C classes, for the message.
        count: of folds.
        seed: of the draw.

    Raises:
        UserError: a class has fewer examples than there are folds.
    """
    _check_enough(labels, names, count, "protocol.folds")
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[by_class] = np.arange(len(labels)) % count
    return folds


def stratified_share(labels: Int[ndarray, " N"], share: float, seed: int) -> Bool[ndarray, " N"]:
    """Which examples are held out: the share of each class, rounded, but of two or more at least one and never all.

    Args:
        labels: (N,) class ids.
        share: of each class.
        seed: of the draw.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        out[own[: min(max(round(share * len(own)), 1), len(own) - 1)]] = True
    return out


def share_of_texts(
    labels: Int[ndarray, " N"], keys: UInt64[ndarray, " N"], share: float, seed: int
) -> Bool[ndarray, " N"]:
    """As `stratified_share`, where it draws the first of each text's copies and the others go with it.

    Args:
        labels: (N,) class ids.
        keys: (N,) the same of copies of a text (`poolwise.data.contamination.text_keys`).
        share: of the different texts of each class.
        seed: of the draw.
    """
    _, first, text = np.unique(keys, return_index=True, return_inverse=True)
    firsts = np.sort(first)
    return stratified_share(labels[firsts], share, seed)[np.searchsorted(firsts, first[text])]


def _check_enough(labels: Int[ndarray, " N"], names: tuple[str, ...], count: int, setting: str) -> None:
    """Raise a UserError that names the setting unless each class has `count` examples."""
    found = np.bincount(labels, minlength=len(names))
    if (found < count).any():
        few = int(found.argmin())
        raise UserError(
            f"{setting}={count}: the training texts hold {found[few]} of class {names[few]!r}; at most so many"
        )
