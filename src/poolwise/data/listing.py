"""Which texts of a corpus a person should look at, and where they stand in the files that they were read from."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from jaxtyping import UInt64
from numpy import ndarray

from poolwise.data.contamination import held_back
from poolwise.data.corpus import SPLITS, label_text
from poolwise.data.parts import Layout, Part, find_parts
from poolwise.data.quality import STAGE1_DEV, Keys, Pairs, badly_decoded, conflicting
from poolwise.settings import DataSettings, FilesData

KINDS = ("exact", "near", "conflicting", "repeated", "wrongly decoded")
"""What may be the matter with a text; a text may be listed with several of these."""


@dataclass(frozen=True, order=True, slots=True)
class Row:
    """A text of a split.

    Attributes:
        split: the setting that names it: `train`, `dev` and `test` have labels, `text` and `text_dev` have none.
        number: within the split, from 0.
    """

    split: str
    number: int


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A text to look at.

    Attributes:
        kind: one of `KINDS`.
        row: the text.
        other: the first that it is a copy of, or whose label is another; None where it is wrongly decoded.
        similarity: of the two; 1 but for near-copies.
    """

    kind: str
    row: Row
    other: Row | None = None
    similarity: float = 1.0


def doubtful(splits: Mapping[str, Dataset], keys: Keys, near: Mapping[tuple[str, str], Pairs]) -> Iterator[Doubtful]:
    """All texts of a corpus to look at, kind by kind.

    Args:
        splits: by setting (see `Row`); `text` only where stage 1 does not read `train`.
        keys: `text_keys` of these.
        near: near-copies of dev and test texts, by split and by the split that has the training texts.
    """
    labelled = {split: splits[split] for split in SPLITS if split in splits}
    training = [place for place in ("train", "text") if place in splits]
    held = dict.fromkeys(held_back(labelled), training)
    # Stage 1 reads the last of these, and its dev texts may be in the other one.
    held |= {STAGE1_DEV: training[-1:]} if STAGE1_DEV in splits else {}
    for split, places in held.items():
        for place in places:
            for number, other in first_copies(keys[split], keys[place]).items():
                yield Doubtful("exact", Row(split, number), Row(place, other))
    for (split, place), pairs in near.items():
        for number, (other, similarity) in sorted(pairs.items(), key=lambda pair: -pair[1][1]):
            yield Doubtful("near", Row(split, number), Row(place, other), similarity)
    for one, another in conflicting(labelled, keys):
        yield Doubtful("conflicting", Row(*one), Row(*another))
    for split in splits:
        for number, first in first_copies(keys[split], keys[split]).items():
            if number != first:
                yield Doubtful("repeated", Row(split, number), Row(split, first))
    for split, texts in splits.items():
        for number in sorted({number for numbers in badly_decoded(texts).values() for number in numbers}):
            yield Doubtful("wrongly decoded", Row(split, number))


def first_copies(keys: UInt64[ndarray, " N"], others: UInt64[ndarray, " M"]) -> dict[int, int]:
    """The number of each text that is among others, and that of the first of these."""
    known, first = np.unique(others, return_index=True)
    numbers = np.flatnonzero(np.isin(keys, known))
    return dict(zip(numbers.tolist(), first[np.searchsorted(known, keys[numbers])].tolist(), strict=True))


def places_of(data: DataSettings, rows: Mapping[Row, tuple[str, str]]) -> dict[Row, str]:
    """Where rows stand, such as `all.csv, row 12`: files are read once more, until all are found.

    Those of other sources than files, and of streams, have no place. Rows with the same text and label are told apart
    by their order; so of these, those before a row must be given with it.

    Args:
        data: the settings.
        rows: the text and the name of the label of each; no label where the split has none.

    Raises:
        UserError: a file cannot be read any more.
    """
    found: dict[Row, str] = {}
    if not isinstance(data, FilesData):
        return found
    # Splits that are made of one file are looked for in one pass.
    sought: dict[tuple[str, str, bool], dict[str, list[Row]]] = {}
    for row in sorted(rows):
        source = _source(data, row.split)
        if source is not None:
            sought.setdefault((*source, row.split in SPLITS), {}).setdefault(rows[row][0], []).append(row)
    for (path, split, is_labelled), by_text in sought.items():
        read = data if is_labelled else data.of_stage1
        parts = find_parts(path, Layout(read.text_per, read.header))
        found |= _found(parts.get("") or parts.get(split) or parts["train"], by_text, rows)
    return found


def _source(data: FilesData, split: str) -> tuple[str, str] | None:
    """What a split was read from, and its name there; None where that is not known, or not kept."""
    path: str | None = getattr(data, split)
    name = {"text": "train", "text_dev": "dev"}.get(split, split)
    if path in (None, "", "."):
        path, name = (data.text, "train") if split == "text_dev" else (data.train, split)
    streamed = data.streaming and split not in SPLITS
    return None if streamed or path in (None, "", ".") else (str(path), name)


def _found(
    parts: Sequence[Part], by_text: Mapping[str, Sequence[Row]], rows: Mapping[Row, tuple[str, str]]
) -> dict[Row, str]:
    """The places of rows, which are given by their text, in parts; a row's text and label may be in any column."""
    left = {text: list(of) for text, of in by_text.items()}
    found: dict[Row, str] = {}
    for part in parts:
        for place, values in part.rows():
            cells = [value for value in values.values() if isinstance(value, str | int | float)]
            for text in {str(value) for value in cells} & left.keys():
                labels = {"", *map(label_text, cells)}
                row = next((row for row in left[text] if rows[row][1] in labels), None)
                if row is not None:
                    found[row] = f"{part.path}, {place}"
                    left[text].remove(row)
                    if not left[text]:
                        del left[text]
            if not left:
                return found
    return found


def beginning(text: str, most: int) -> str:
    """The first characters of a text on one line, without control characters and halves of surrogate pairs."""
    line = " ".join(text[: 2 * most].split())
    shown = "".join("\ufffd" if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in line)
    return shown if len(shown) <= most and len(text) <= 2 * most else shown[: most - 1] + "\u2026"
