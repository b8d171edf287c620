"""A person's own files, folders and data sets: text for stage 1, labelled rows for stage 2."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Value
from datasets.table import InMemoryTable

from poolwise import ranks
from poolwise.data.columns import Wanted, found_columns
from poolwise.data.contamination import near_groups, text_keys
from poolwise.data.corpus import (
    RATING,
    ROWS_AT_A_TIME,
    SPLITS,
    Corpus,
    TextStream,
    check_classes,
    label_text,
    labels_of,
    tell_empty,
    text_columns,
)
from poolwise.data.draws import held_out, number_held_out, share_of_texts
from poolwise.data.parts import UNLABELLED, Found, Layout, Part, find_parts, parts_of_split
from poolwise.data.reading import HIDDEN, PlacedRow, Row, Unusable, is_json
from poolwise.durable import DIGEST_BYTES, is_kept, sealed_draft_of
from poolwise.settings import FilesData, UserError, take_all
from poolwise.words import counted, first_line, some

log = logging.getLogger(__name__)

CODE_VERSION = 4
"""Raised by hand when the rows that are read of the same files change; part of every cache key."""
NO_LABELS = frozenset(("N/A", "n/a", "NA", "NULL", "None"))
"""What programs write where a value is missing, spelt as they do: `none` may well be a class."""
ROWS_FOR_NAMES = 1000
"""Of a JSON file, whose names of columns are looked for in these."""
PIECE_CHARACTERS = 2**25
"""What is held in memory at a time while rows are read, if they are not `ROWS_AT_A_TIME` before."""


def load_files(data: FilesData, cache: Path | None = None) -> Corpus:
    """Read what `data` names; stage-1 text is `text`, or the training texts where it is not given.

    Rows are streamed to Arrow files, which are mapped into memory: a corpus may be larger than it. Of a train without
    dev or test, these are made: a share of each class, drawn by `split_seed`, with all copies of a text in one split
    (near ones too with `near_copies`); `Corpus.made_splits` says so. With `streaming`, of `text` no more than
    `shuffle_buffer` texts are read here, and dev is made of the first of them where it is not given.

    Args:
        data: the settings.
        cache: where the Arrow files are kept, by a key of the content of what they are read from; None holds rows in
            memory.

    Raises:
        UserError: something is missing, empty, not UTF-8, of an unknown kind, lacks a column, a text or a label; what
            is wrong with all of it is told together.
    """
    labelled: dict[str, Labelled] = {}
    texts: dict[str, Texts] = {}
    streams: list[TextStream] = []
    take_all(
        [
            lambda: labelled.update(_read_labelled(data, cache)),
            (lambda: streams.append(_stream_into(texts, data)))
            if data.streaming
            else partial(_read_texts_into, texts, "text", data, cache),
            partial(_read_texts_into, texts, "text_dev", data, cache),
        ]
    )
    label_names = _label_names(data, labelled)
    given = {split: _with_ids(of.table, label_names) for split, of in labelled.items()}
    unsplit = given["train"].select_columns(["text", "label"]) if list(given) == ["train"] else None
    splits, made = _with_made_splits(data, given)
    unrated = {split: rows.select_columns(["text", "label"]) for split, rows in splits.items()}
    text = _stage1_text(data, {name: of.rows for name, of in texts.items()}, splits, made)
    read = {"train": texts.get("text") or labelled["train"], "dev": texts.get("text_dev") or labelled.get("dev")}
    left_out = {
        "stage1": {split: of.left_out for split, of in read.items() if of is not None},
        "stage2": {split: of.left_out for split, of in labelled.items()},
    }
    stream = replace(streams[0], skip=made.get("text_dev", {}).get("texts", 0)) if streams else None
    return Corpus(text, unrated, label_names, unsplit, made, stream, left_out)


def texts_in(path: str, column: str | None = None) -> Iterator[str]:
    """The texts of a file, a folder or a data set, one after the other.

    Args:
        path: of a file of any kind that the readers know, a pattern, a folder, or a name of the hub.
        column: that holds the texts; None for one of a common name.

    Raises:
        UserError: there is nothing there, or no text.
    """
    for parts in find_parts(path).values():
        yield from (values["text"] for _, values in _placed_values(parts, {"text": column}))


def _stage1_text(
    data: FilesData, texts: dict[str, Dataset], labelled: dict[str, Dataset], made: dict[str, Any]
) -> dict[str, Dataset]:
    if "text" in texts:
        text, source = texts["text"], f"data.text={data.text}"
    elif labelled:
        text, source = text_columns(labelled["train"]), f"data.train={data.train}"
    else:
        raise UserError("data=files needs data.text (stage 1), or data.train, data.dev and data.test")
    if "text_dev" in texts:
        dev = texts["text_dev"]
    elif "dev" in labelled:
        dev = text_columns(labelled["dev"])
    elif data.streaming:
        count = number_held_out(len(text), data.text_dev_share, source)
        text, dev = text.select(range(count, len(text))), text.select(range(count))
        made["text_dev"] = {"from": "the first of text", "texts": count}
    else:
        keys = near_groups(text) if data.near_copies else text_keys(text)
        text, dev = held_out(text, keys, data.text_dev_share, source)
        made["text_dev"] = {"from": "text", "share": data.text_dev_share, "seed": 0, "texts": len(dev)}
    return {"train": text, "dev": dev}


def _with_made_splits(
    data: FilesData, given: dict[str, Dataset]
) -> tuple[dict[str, Dataset], dict[str, dict[str, Any]]]:
    """All three splits, and how those were made that are not given: of train, before dev is taken test is."""
    splits = dict(given)
    made: dict[str, dict[str, Any]] = {}
    if given and len(given) < len(SPLITS):
        _warn_of_rare_classes(data, given["train"])
    if list(given) == ["train"] and data.dev_share + data.test_share >= 1:
        raise UserError(
            f"data.dev_share={data.dev_share} and data.test_share={data.test_share} leave nothing of data.train="
            f"{data.train} for training; their sum must be less than 1"
        )
    for split, share in (("test", data.test_share), ("dev", data.dev_share)):
        if given and split not in given:
            rows = splits["train"]
            whole = len(given["train"])
            labels = np.array(rows["label"])
            keys = near_groups(rows) if data.near_copies else text_keys(rows)
            out = share_of_texts(labels, keys, share * whole / len(rows), data.split_seed)
            if not out.any() or out.all():
                raise UserError(
                    f"data.train={data.train}: {counted(len(rows), 'text')} are too few to hold some of a class out as "
                    f"{split}; give data.{split}"
                )
            splits["train"], splits[split] = (rows.select(np.flatnonzero(part)) for part in (~out, out))
            held = int(out.sum())
            made[split] = {"from": "train", "share": share, "seed": data.split_seed, "stratified": True, "texts": held}
            log.info("data.%s: made of data.train, %s by seed %d", split, counted(held, "text"), data.split_seed)
    return {split: splits[split] for split in SPLITS if split in splits}, made


def _warn_of_rare_classes(data: FilesData, rows: Dataset) -> None:
    """Warn of classes with fewer texts than there are splits."""
    names = rows.features["label"].names
    counts = np.bincount(labels_of(rows), minlength=len(names))
    rare = [f"{name!r} ({count})" for name, count in zip(names, counts, strict=True) if count < len(SPLITS)]
    if rare:
        log.warning(
            "data.train=%s: fewer than %d texts of %s, which may never reach dev or test; add some, or leave them out",
            *(data.train, len(SPLITS), some(rare)),
        )


@dataclass(frozen=True)
class Labelled:
    """Text and label of a split.

    Attributes:
        table: of the rows.
        left_out: how many further rows there are, whose text or label is empty.
        placed: reads them anew, each with its place; for messages.
    """

    table: pyarrow.Table
    left_out: int
    placed: Callable[[], Iterator[tuple[str, dict[str, str]]]]

    def place_of(self, label: str) -> str:
        """Where a label stands first."""
        return next((place for place, values in self.placed() if values["label"] == label), "")


@dataclass(frozen=True)
class Texts:
    """Texts without labels, and how many further rows or lines there are, which are blank."""

    rows: Dataset
    left_out: int = 0


def _read_labelled(data: FilesData, cache: Path | None) -> dict[str, Labelled]:
    """Text and label of the splits that are given; those that lie beside train in its folder or data set are too."""
    paths = {split: path for split in SPLITS if (path := _path(data, split)) is not None}
    if not paths:
        return {}
    found: dict[str, Found] = {}
    tables: dict[str, Labelled] = {}

    def find(split: str, path: str) -> None:
        found[split] = find_parts(path, _layout(data))

    def read(split: str, path: str) -> None:
        wanted = {"text": data.text_column, "label": data.label_column}
        has_dev = "dev" in paths or "dev" in found.get("train", {})
        wanted |= _rating(data) if split in _splits_of_stage1(data, has_dev) else {}
        parts = parts_of_split(path, found[split], split)
        table, left_out = _together(_table(part, wanted, data.empty == "drop", cache) for part in parts)
        if table.num_rows == 0:
            raise UserError(f"{path}: no row of {split} has a text and a label")
        tables[split] = Labelled(table, left_out, partial(_placed_values, parts, wanted))

    def steps() -> Iterator[Any]:
        if "train" not in paths:
            yield partial(_tell, f"stage 2 needs data.train; given: {some(f'data.{split}' for split in paths)}")
        for split, path in list(paths.items()):
            yield partial(find, split, path)
            if split in found:
                yield partial(read, split, path)
        for split in SPLITS:
            if split not in paths and split in found.get("train", {}):
                found[split] = found["train"]
                yield partial(read, split, paths["train"])

    take_all(steps())
    return {split: tables[split] for split in SPLITS if split in tables}


def _splits_of_stage1(data: FilesData, has_dev: bool) -> set[str]:
    """The labelled splits that are texts of stage 1 too, where it has none of its own; a made dev is of train."""
    of_train = {"train"} if _path(data, "text") is None else set()
    of_dev = {"dev" if has_dev else "train"} if _path(data, "text_dev") is None else set()
    return of_train | of_dev


def _tell(message: str) -> None:
    raise UserError(message)


def _label_names(data: FilesData, labelled: dict[str, Labelled]) -> tuple[str, ...]:
    """The classes, sorted by name: those of train, which must be at least two and hold those of dev and test."""
    if not labelled:
        return ()
    found = {split: sorted(of.table["label"].unique().to_pylist()) for split, of in labelled.items()}
    names = tuple(found["train"])
    messages = [
        f"{getattr(data, split) or data.train}: {'labels' if len(unknown) > 1 else 'label'} {some(map(repr, unknown))} "
        f"(first in {labelled[split].place_of(unknown[0])}) not in {data.train}; the classifier knows "
        f"{some(map(repr, names))}; add texts of it to data.train, or leave these rows out"
        for split, labels in found.items()
        if (unknown := [label for label in labels if label not in names])
    ]
    check_classes(str(data.train), names, labelled["train"].table.num_rows, messages, labelled["train"].place_of)
    return names


def _with_ids(table: pyarrow.Table, names: tuple[str, ...]) -> Dataset:
    """Columns `text` and `label` (class ids), and `rating` where it was read."""
    ids = pyarrow.compute.index_in(table["label"], value_set=pyarrow.array(names)).cast(pyarrow.int64())
    return _as_dataset(table.set_column(table.schema.get_field_index("label"), "label", ids), names)


def _as_dataset(table: pyarrow.Table, names: tuple[str, ...] = ()) -> Dataset:
    features = {name: Value("string") for name in table.column_names}
    features |= {"label": ClassLabel(names=list(names))} if names else {}
    # The fingerprint is of no use here, and a hash of the table would read all of it.
    return Dataset(InMemoryTable(table), DatasetInfo(features=Features(features)), fingerprint=os.urandom(8).hex())


def _read_texts_into(texts: dict[str, Texts], name: str, data: FilesData, cache: Path | None) -> None:
    path = _path(data, name)
    if path is None:
        return
    data = data.of_stage1
    wanted = {"text": data.text_column} | _rating(data)
    parts = parts_of_split(path, find_parts(path, _layout(data)), {"text": "train", "text_dev": "dev"}[name])
    table, left_out = _together(_table(part, wanted, True, cache) for part in parts)
    if table.num_rows == 0:
        raise UserError(f"{path} holds no text")
    texts[name] = Texts(_as_dataset(table), left_out)


def _stream_into(texts: dict[str, Texts], data: FilesData) -> TextStream:
    """The stream of `text`, whose first texts are read."""
    path = _path(data, "text")
    if path is None:
        raise UserError("data.streaming=true: streams data.text, which is not given; data.train is read as a whole")
    data = data.of_stage1
    parts = parts_of_split(path, find_parts(path, replace(_layout(data), streaming=True)), "train")
    read = partial(_each_text, parts, {"text": data.text_column})
    first = list(islice(read(), data.shuffle_buffer))
    if not first:
        raise UserError(f"{path} holds no text")
    texts["text"] = Texts(_as_dataset(pyarrow.table({"text": first})))
    material = [CODE_VERSION, data.text_column, *(part.fingerprint() for part in parts)]
    return TextStream(read, hashlib.sha256(json.dumps(material).encode()).hexdigest(), data.shuffle_buffer)


def _each_text(parts: Sequence[Part], wanted: Wanted) -> Iterator[str]:
    """The texts of parts, one after the other, without those that are blank."""
    return (values["text"] for _, values in _placed_values(parts, wanted) if values["text"].strip())


def _path(data: FilesData, name: str) -> str | None:
    """What a setting names; nothing for `data.text=`, which makes no path or that of this folder."""
    path: str | None = getattr(data, name)
    return None if path in ("", ".") else path


def _layout(data: FilesData) -> Layout:
    return Layout(data.text_per, data.header)


def _rating(data: FilesData) -> dict[str, str | None]:
    return {} if data.rating_column is None else {RATING: data.rating_column}


def _together(tables: Iterable[tuple[pyarrow.Table, int]]) -> tuple[pyarrow.Table, int]:
    """The rows of several tables, and how many were left out of them."""
    rows, left_out = zip(*tables, strict=True)
    return pyarrow.concat_tables(rows), sum(left_out)


def _table(part: Part, wanted: Wanted, drops: bool, cache: Path | None) -> tuple[pyarrow.Table, int]:
    """The wanted columns of a part as texts, from the Arrow file that keeps them, or written to it.

    The second value is how many rows were left out because something in them is empty; unless `drops`, none may be.
    """
    held = ("text",) if part.is_text else ("text", "label")
    lacking = [what for what in wanted if what not in held]
    if lacking and (part.is_text or not part.columns_named):
        name = wanted[lacking[0]] or lacking[0]
        raise UserError(
            f"{part.path} has no column {name} (data.{lacking[0]}_column): .txt files hold text only{_if_table(part)}"
        )
    if not part.columns_named:
        wanted = dict.fromkeys(wanted)
    empty = EmptyValues(drops)
    if cache is None:
        return pyarrow.Table.from_batches(_pieces(part, wanted, empty), _schema(wanted)), empty.rows
    material = [CODE_VERSION, dict(wanted), drops, part.content()]
    file = cache / "rows" / f"{hashlib.sha256(json.dumps(material).encode()).hexdigest()[:32]}.arrow"
    with ranks.first_alone():
        if not is_kept(file):
            _write(file, _pieces(part, wanted, empty), _schema(wanted), empty)
    return _mapped(file)


def _if_table(part: Part) -> str:
    """What to say where text has tabs in its first line, as a table has."""
    _, first = next(iter(part.rows()), ("", {"text": ""}))
    headless = "data.header=false data.text_column=1 data.label_column=2"
    return (
        f"; with tabs between columns, name it .tsv ({headless} if it has no header)" if "\t" in first["text"] else ""
    )


LEFT_OUT = b"left_out"
"""What the last, empty record batch of an Arrow file says: how many rows were left out of it."""


def _mapped(file: Path) -> tuple[pyarrow.Table, int]:
    """An Arrow file with its checksum after it, mapped into memory, and how many rows were left out of it."""
    content = pyarrow.memory_map(str(file)).read_buffer(file.stat().st_size - DIGEST_BYTES)
    rows = pyarrow.ipc.open_file(content)
    _, said = rows.get_batch_with_custom_metadata(rows.num_record_batches - 1)
    return rows.read_all(), int(said[LEFT_OUT])


def _schema(wanted: Wanted) -> pyarrow.Schema:
    return pyarrow.schema([(what, pyarrow.string()) for what in wanted])


def _write(file: Path, pieces: Iterator[pyarrow.RecordBatch], schema: pyarrow.Schema, empty: "EmptyValues") -> None:
    """Write an Arrow file so that a reader, or a kill, never sees half of it; a mistake leaves none."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            sealed_draft_of(file) as draft,
            pyarrow.OSFile(str(draft), "wb") as sink,
            pyarrow.ipc.new_file(sink, schema) as writer,
        ):
            for piece in pieces:
                writer.write_batch(piece)
            nothing = pyarrow.RecordBatch.from_pylist([], schema)
            writer.write_batch(nothing, custom_metadata={LEFT_OUT: str(empty.rows)})
    except OSError as error:
        raise UserError(f"{file.parent} cannot be written: {error.strerror or first_line(error)}") from error


def _pieces(part: Part, wanted: Wanted, empty: "EmptyValues") -> Iterator[pyarrow.RecordBatch]:
    """The wanted columns of a part, some rows at a time, without rows in which something is empty."""
    piece: list[dict[str, str]] = []
    characters = 0
    for place, values in _values(part, wanted):
        if empty.are_in(place, values):
            continue
        piece.append(values)
        characters += len(values["text"])
        if len(piece) == ROWS_AT_A_TIME or characters > PIECE_CHARACTERS:
            yield pyarrow.RecordBatch.from_pylist(piece, _schema(wanted))
            piece, characters = [], 0
    tell_empty(part.path, empty.places, empty.spellings)
    if piece:
        yield pyarrow.RecordBatch.from_pylist(piece, _schema(wanted))


@dataclass
class EmptyValues:
    """Rows in which a text or a label is empty.

    Attributes:
        dropped: whether they are left out and counted; else their places are noted for a message.
        rows: how many there are.
        places: by what is empty there.
        spellings: labels that are written there and count as empty.
    """

    dropped: bool
    rows: int = 0
    places: dict[str, list[str]] = field(default_factory=lambda: {"text": [], "label": []})
    spellings: dict[str, None] = field(default_factory=dict)

    def are_in(self, place: str, values: dict[str, str]) -> bool:
        """Whether something in a row is empty, which is noted; a label that says that it is missing is empty too."""
        missing = [what for what in ("text", "label") if what in values and not values[what].strip()]
        label = values.get("label", "")
        if label.lower() == "nan" or label in NO_LABELS:
            self.spellings.setdefault(label)
            missing.append("label")
        self.rows += bool(missing)
        if not self.dropped:
            for what in missing:
                self.places[what].append(place)
        return bool(missing)


def _values(part: Part, wanted: Wanted) -> Iterator[tuple[str, dict[str, str]]]:
    """The place and the wanted values, as texts, of each row; a text or label that a row leaves out is empty.

    Raises:
        UserError: no row has a column, a row lacks its rating, or holds a list or an object in it.
    """
    columns: dict[str, str] = {}
    for place, row in part.rows():
        if row.get("label") == UNLABELLED and not part.columns_named and "label" in wanted:
            continue
        if not row:
            yield place, dict.fromkeys(wanted, "")
            continue
        columns = columns or _columns(part, row, wanted)
        yield place, {what: _value(part.path, what, column, (place, row)) for what, column in columns.items()}


def _columns(part: Part, row: Row, wanted: Wanted) -> dict[str, str]:
    """The columns of what is wanted, by the names in a row; where one of JSON leaves some out, in some first rows."""
    try:
        return found_columns(part.path, list(row), wanted, part.rows)
    except UserError:
        if not is_json(part.path):
            raise
    names = list(dict.fromkeys(name for _, each in islice(part.rows(), ROWS_FOR_NAMES) for name in each))
    return found_columns(part.path, names, wanted, part.rows)


def _placed_values(parts: Sequence[Part], wanted: Wanted) -> Iterator[tuple[str, dict[str, str]]]:
    for part in parts:
        yield from _values(part, wanted if part.columns_named else dict.fromkeys(wanted))


def _value(path: str, what: str, column: str, placed: PlacedRow) -> str:
    place, row = placed
    value = row.get(column)
    if value is None and what != RATING:
        return ""
    if value is None:
        there = some(name for name, other in row.items() if other is not None)
        raise UserError(f"{path}, {place}: no {column}, only {there}; fill it in, or leave out the row")
    if value == HIDDEN and what == "label":
        raise UserError(f"{path}, {place}: the label in {column} is {HIDDEN}; name another split")
    if isinstance(value, Unusable):
        raise UserError(f"{path}, {place}: {column} {value}")
    if not isinstance(value, str | int | float):
        kind = "list" if isinstance(value, list) else "object" if isinstance(value, dict) else type(value).__name__
        json_kind = f"JSON {kind}" if is_json(path) else kind
        raise UserError(f"{path}, {place}: {column} is a {json_kind}; a text, a number or true/false is allowed")
    return str(value) if what == "text" else label_text(value)
