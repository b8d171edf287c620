"""Draws of examples: few of each class, folds, and what is held out. Copies of a text are on one side of each split.

Shapes: N examples, C classes, n drawn examples, U different texts.
"""

import numpy as np
from datasets import Dataset
from jaxtyping import Bool, Int, Int64, UInt64
from numpy import ndarray

from poolwise.settings import UserError
from poolwise.words import counted


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


def folds_of_texts(
    labels: Int[ndarray, " N"], keys: UInt64[ndarray, " N"], names: tuple[str, ...], count: int, seed: int
) -> Int64[ndarray, " N"]:
    """As `stratified_folds`, of the first of each text's copies; the others are in its fold.

    Args:
        labels: (N,) class ids.
        keys: (N,) the same of copies of a text (`poolwise.data.contamination.text_keys`).
        names: of the C classes, for the message.
        count: of folds.
        seed: of the draw.

    Raises:
        UserError: a class has fewer different texts than there are folds.
    """
    firsts, text = different(keys)
    return np.take(stratified_folds(labels[firsts], names, count, seed), text)


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

    A class all of whose texts are copies of others', with other labels, keeps a text, too.

    Args:
        labels: (N,) class ids.
        keys: (N,) the same of copies of a text (`poolwise.data.contamination.text_keys`).
        share: of the different texts of each class.
        seed: of the draw.
    """
    firsts, text = different(keys)
    out = np.take(stratified_share(labels[firsts], share, seed), text)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if out[own].all():
            out[text == text[own[0]]] = False
    return out


def different(keys: UInt64[ndarray, " N"]) -> tuple[Int64[ndarray, " U"], Int64[ndarray, " N"]]:
    """Where each different text stands first, in the order of the data, and which of these each example is."""
    _, first, text = np.unique(keys, return_index=True, return_inverse=True)
    firsts = np.sort(first)
    return firsts, np.searchsorted(firsts, first[text])


LEAST_HELD_OUT = 10
"""Texts; of fewer short ones it can be that no token is masked, and then there is no dev loss."""


def held_out(texts: Dataset, keys: UInt64[ndarray, " N"], share: float, source: str) -> tuple[Dataset, Dataset]:
    """Split off a seeded random share of the different texts; returns what stays and what is held out, shuffled.

    At least `LEAST_HELD_OUT` texts are held out, or half of them where there are less than twice as many. Copies of
    a text go with it.

    Args:
        texts: N rows.
        keys: (N,) the same of copies of a text (`poolwise.data.contamination.text_keys`).
        share: of the different texts.
        source: the setting that names the texts, for messages.

    Raises:
        UserError: fewer than two different texts.
    """
    firsts, text = different(keys)
    out = number_held_out(len(firsts), share, source)
    places = np.empty(len(firsts), dtype=np.int64)
    places[np.random.default_rng(0).permutation(len(firsts))] = np.arange(len(firsts))
    order = np.argsort(places[text], kind="stable")
    rows_out = int((places[text] < out).sum())
    return texts.select(order[rows_out:]), texts.select(order[:rows_out])


def number_held_out(texts: int, share: float, source: str) -> int:
    """How many of so many different texts `held_out` takes; its arguments and errors."""
    if texts < 2:
        raise UserError(f"{source}: {counted(texts, 'text')}; at least 2 different ones are needed, some for dev")
    least = min(LEAST_HELD_OUT, texts // 2)
    return min(max(round(share * texts), least), texts - 1)


def _check_enough(labels: Int[ndarray, " N"], names: tuple[str, ...], count: int, setting: str) -> None:
    """Raise a UserError that names the setting unless each class has `count` examples."""
    found = np.bincount(labels, minlength=len(names))
    if (found < count).any():
        few = int(found.argmin())
        raise UserError(
            f"{setting}={count}: the training texts hold {found[few]} of class {names[few]!r}; at most so many"
        )
