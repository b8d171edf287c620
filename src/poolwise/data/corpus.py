"""What every source gives: texts for stage 1, labelled texts for stage 2."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from datasets import Dataset
from jaxtyping import Int64, UInt64
from numpy import ndarray

from poolwise.settings import UserError
from poolwise.words import counted, some

RATING = "rating"
"""Column of stage-1 texts with a weak label, such as stars; only the objective `rating` reads it."""

SPLITS = ("train", "dev", "test")
ROWS_AT_A_TIME = 1000


@dataclass(frozen=True, eq=False)
class TextStream:
    """Training texts of stage 1 that are read anew in each pass, and kept nowhere.

    Attributes:
        read: begins a pass over all texts, blank ones left out.
        fingerprint: of what is read (see `poolwise.data.parts.Part`).
        buffer: how many texts are held in memory and shuffled at a time.
        skip: how many of the first texts are dev, and not trained on.
        held_back: (M,) keys of dev and test texts, those of stage 1 and the labelled ones.
        drops: whether copies of these are left out.
    """

    read: Callable[[], Iterator[str]]
    fingerprint: str
    buffer: int
    skip: int = 0
    held_back: UInt64[ndarray, " M"] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    drops: bool = False

    @property
    def material(self) -> dict[str, Any]:
        """What the batches depend on, for the key of a run."""
        copies = {"without": hashlib.sha256(np.unique(self.held_back).tobytes()).hexdigest()} if self.drops else {}
        return {"fingerprint": self.fingerprint, "buffer": self.buffer, "skip": self.skip, **copies}


@dataclass(frozen=True)
class Corpus:
    """Texts and labels from one source.

    Attributes:
        text: splits `train` and `dev` of stage 1, column `text`, and `rating` (text) where the source has one.
            Of a stream, `train` is what is read of it before training: the first texts.
        labelled: splits `train`, `dev` and `test` of stage 2, columns `text` and `label` (0 to C - 1); empty where the
            source has no labels.
        label_names: C names, in the order of the class ids.
        unsplit: all labelled rows, where the source has neither dev nor test; of them folds can be made.
        made_splits: of the splits that the source has not: from which, by which share and seed they were made.
        stream: all training texts of stage 1, where they are not kept; else None.
        left_out: by stage, `stage1` or `stage2`, and by split: of how many rows the text, or the label, was empty.
    """

    text: dict[str, Dataset]
    labelled: dict[str, Dataset]
    label_names: tuple[str, ...]
    unsplit: Dataset | None = None
    made_splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    stream: TextStream | None = None
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)


END_OF_STREAM = bytes.fromhex("ffffffff00000000")
"""How a whole Arrow stream ends; one that is cut off between two batches could be read, with fewer rows."""


def is_whole_stream(file: Path) -> bool:
    """Whether a file of `datasets`, which is an Arrow stream, has its end."""
    with file.open("rb") as stream:
        stream.seek(-min(len(END_OF_STREAM), file.stat().st_size), os.SEEK_END)
        return stream.read() == END_OF_STREAM


def batches_of_rows(texts: Dataset) -> Iterator[dict[str, list[Any]]]:
    """The data set in pieces, so that a corpus larger than memory passes through."""
    yield from texts.iter(batch_size=ROWS_AT_A_TIME)


def each_text(texts: Dataset) -> Iterator[str]:
    """The texts one by one."""
    return (text for rows in batches_of_rows(texts) for text in rows["text"])


Found = TypeVar("Found")


def found_once(find: Callable[[Dataset], Found]) -> Callable[[Dataset], Found]:
    """Keep what is found of a data set as long as that lives: it does not change, and all jobs of a sweep ask."""
    known: WeakKeyDictionary[Dataset, Found] = WeakKeyDictionary()

    @wraps(find)
    def look(rows: Dataset) -> Found:
        if rows not in known:
            known[rows] = find(rows)
        return known[rows]

    return look


@found_once
def labels_of(rows: Dataset) -> Int64[ndarray, " N"]:
    """The labels of all rows, not to be written to."""
    return np.asarray(rows.with_format("numpy", columns=["label"])[:]["label"])


@found_once
def content_hash(texts: Dataset) -> str:
    """SHA-256 over the texts and labels of a data set in their order; where they lie does not enter it."""
    digest = hashlib.sha256()
    for rows in batches_of_rows(texts):
        for text, label in zip(rows["text"], rows.get("label", rows["text"]), strict=True):
            kept = text.encode("utf-8", "surrogatepass")
            digest.update(len(kept).to_bytes(8, "little") + kept)
            if "label" in rows:
                digest.update(int(label).to_bytes(8, "little", signed=True))
    return digest.hexdigest()


def text_columns(rows: Dataset) -> Dataset:
    """The columns of rows that stage 1 may read: the text, and the rating if there is one."""
    return rows.select_columns([name for name in ("text", RATING) if name in rows.column_names])


def label_text(label: object) -> str:
    """The class or rating that a label names, without spaces around it: 1, 1.0 and "1" are one, and true and "TRUE"."""
    text = str(label).strip()
    return text.lower() if text.lower() in ("true", "false") else re.sub(r"^([+-]?\d+)\.0*$", r"\1", text)


def tell_empty(source: str, places: Mapping[str, Sequence[str]], spellings: Iterable[str] = ()) -> None:
    """Raise a UserError if there are rows with nothing in them.

    Args:
        source: the file or split, for messages.
        places: such as `row 41`, by what is empty there, such as `text`.
        spellings: of labels that count as empty and are there.
    """
    counts = f" ({some(spellings)} as a label counts as empty; a class needs another name)"
    messages = [
        f"{source}: {counted(len(empty), what)} empty ({_together(empty)}); fill them in, or have "
        "data.empty=drop leave the rows out" + (counts if what == "label" and spellings else "")
        for what, empty in places.items()
        if empty
    ]
    if messages:
        raise UserError(*messages)


def _together(places: Sequence[str]) -> str:
    """`rows 2, 4` of `row 2` and `row 4`; places without numbers, such as files, as they are."""
    found = [re.fullmatch(r"(row|line|object) (\d+)(.*)", place) for place in places]
    numbers = [match[2] for match in found if match]
    if len(numbers) < len(places) or found[0] is None:
        return some(places)
    return f"{found[0][1]}{'s' if len(places) > 1 else ''} {some(numbers)}{found[0][3]}"


FEW_CLASSES = 20
"""So many are never doubted, however few texts there are."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def check_classes(
    source: str, names: tuple[str, ...], rows: int, messages: Iterable[str], place_of: Callable[[str], str]
) -> None:
    """Check that labels are classes.

    Args:
        source: the file or split, for messages.
        names: of the classes.
        rows: how many have these labels.
        messages: what else is wrong with labels.
        place_of: tells where a label stands first.

    Raises:
        UserError: there is one class only, or nearly as many as rows, or they are a scale of numbers, or names of two
            differ in case only; or there are other messages.
    """
    found = list(messages)
    if len(names) < 2:
        found.insert(
            0,
            f"{source}: all {rows:,} labels are {names[0]!r}, the first in {place_of(names[0])}; a classifier needs "
            "at least two classes; is another column the label (data.label_column=)?",
        )
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    found += [
        f"{source}: labels {some(f'{label!r} ({place_of(label)})' for label in group)} differ in upper and lower case "
        "only; write those of a class alike"
        for group in alike.values()
        if len(group) > 1
    ]
    if len(names) > max(FEW_CLASSES, rows // 2):
        found.insert(
            0,
            f"{source}: {len(names):,} different labels in {counted(rows, 'row')} ({some(names)}), but many texts "
            "share a class; is another column the label (data.label_column=)?",
        )
    elif len(names) > FEW_CLASSES and all(map(NUMBER.fullmatch, names)) and any("." in name for name in names):
        found.insert(
            0,
            f"{source}: the labels are {len(names):,} different numbers ({some(names)}), a scale and not classes; "
            f"round them to at most {FEW_CLASSES}, or name another column (data.label_column=)",
        )
    if found:
        raise UserError(*found)
