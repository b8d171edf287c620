"""A person's own files: plain text for stage 1, labelled CSV, TSV or JSONL for stage 2."""

import csv
import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from charset_normalizer import from_bytes
from datasets import ClassLabel, Dataset, Features, Value

from poolwise.data.corpus import RATING, SPLITS, Corpus, held_out, text_columns
from poolwise.settings import FilesData, UserError, take_all
from poolwise.words import counted, nearest, some

Row = dict[str, Any]


def load_files(data: FilesData) -> Corpus:
    """Read the files that `data` names; stage-1 text is `text`, or the training texts where it is not given.

    Raises:
        UserError: a file is missing, empty, not UTF-8, of an unknown kind, lacks a column, a text or a label, or
            splits are missing; what is wrong with all of the files is told together.
    """
    labelled: dict[str, list[Row]] = {}
    texts: dict[str, Dataset] = {}
    take_all(
        [
            lambda: labelled.update(_read_labelled(data)),
            *(partial(_read_texts_into, texts, name, data) for name in ("text", "text_dev")),
        ]
    )
    label_names = _label_names(data, labelled)
    splits = {split: _as_dataset(rows, data, label_names) for split, rows in labelled.items()}
    unrated = {split: rows.select_columns(["text", "label"]) for split, rows in splits.items()}
    return Corpus(_stage1_text(data, texts, splits), unrated, label_names)


def _stage1_text(data: FilesData, texts: dict[str, Dataset], labelled: dict[str, Dataset]) -> dict[str, Dataset]:
    if "text" in texts:
        text = texts["text"]
    elif labelled:
        text = text_columns(labelled["train"])
    else:
        raise UserError("data=files needs data.text (stage 1), or data.train, data.dev and data.test")
    if "text_dev" in texts:
        dev = texts["text_dev"]
    elif labelled:
        dev = text_columns(labelled["dev"])
    else:
        text, dev = held_out(text, data.text_dev_share)
    return {"train": text, "dev": dev}


def _read_labelled(data: FilesData) -> dict[str, list[Row]]:
    """The rows of the three labelled files; none where no file is named."""
    paths = {split: getattr(data, split) for split in SPLITS}
    missing = [f"data.{split}" for split, path in paths.items() if path is None]
    if len(missing) == len(SPLITS):
        return {}
    rows: dict[str, list[Row]] = {}

    def read(split: str, path: str) -> None:
        rows[split] = list(read_rows(path, (data.text_column, data.label_column, *_rating_columns(data))))
        _check_filled(rows[split], path, data)

    def check_given() -> None:
        if missing:
            raise UserError(f"stage 2 needs three labelled files; not given: {', '.join(missing)}")

    take_all([check_given, *(partial(read, split, path) for split, path in paths.items() if path is not None)])
    return rows


def _check_filled(rows: list[Row], path: str, data: FilesData) -> None:
    """Raise a UserError if a row has an empty text or label."""
    messages = []
    for what, column in (("text", data.text_column), ("label", data.label_column)):
        empty = [number for number, row in enumerate(rows, start=1) if not str(row[column]).strip()]
        if empty:
            places = f"row{'s' if len(empty) > 1 else ''} {some(empty)}"
            messages.append(f"{path}: {counted(len(empty), what)} empty ({places}); fill them in or leave the rows out")
    if messages:
        raise UserError(*messages)


def _label_names(data: FilesData, labelled: dict[str, list[Row]]) -> tuple[str, ...]:
    """The classes, sorted by name: those of train, which must be at least two and hold those of dev and test."""
    if not labelled:
        return ()
    found = {split: sorted({str(row[data.label_column]) for row in rows}) for split, rows in labelled.items()}
    names = tuple(found["train"])
    messages = [
        f"{getattr(data, split)}: {'labels' if len(unknown) > 1 else 'label'} {some(map(repr, unknown))} not in "
        f"{data.train}; the classifier knows {some(map(repr, names))}"
        for split, labels in found.items()
        if (unknown := [label for label in labels if label not in names])
    ]
    if len(names) < 2:
        messages.insert(0, f"{data.train}: all labels are {names[0]!r}; a classifier needs at least two classes")
    if messages:
        raise UserError(*messages)
    return names


def _as_dataset(rows: list[Row], data: FilesData, names: tuple[str, ...]) -> Dataset:
    """Columns `text` and `label` (class ids), and `rating` where `data` names its column."""
    features = {"text": Value("string"), "label": ClassLabel(names=list(names))}
    columns = {
        "text": [str(row[data.text_column]) for row in rows],
        "label": [names.index(str(row[data.label_column])) for row in rows],
        **_ratings(rows, data),
    }
    rated = {RATING: Value("string")} if data.rating_column is not None else {}
    return Dataset.from_dict(columns, Features(features | rated))


def _read_texts_into(texts: dict[str, Dataset], name: str, data: FilesData) -> None:
    path = getattr(data, name)
    if path is not None:
        texts[name] = _read_texts(path, data)


def _read_texts(path: str, data: FilesData) -> Dataset:
    """A text a line in `.txt`, else the text column; blank texts are left out; with ratings if asked for."""
    if Path(path).suffix == ".txt":
        if data.rating_column is not None:
            raise UserError(
                f"{path} has no column {data.rating_column} (data.rating_column): .txt files hold text only"
            )
        texts: Iterable[str] = (line.rstrip("\r\n") for line in _lines(path))
        rows: list[Row] = []
    else:
        rows = list(read_rows(path, (data.text_column, *_rating_columns(data))))
        texts = (str(row[data.text_column]) for row in rows)
    columns = {"text": list(texts), **_ratings(rows, data)}
    kept = [number for number, text in enumerate(columns["text"]) if text.strip()]
    if not kept:
        raise UserError(f"{path} holds no text")
    return Dataset.from_dict({name: [column[number] for number in kept] for name, column in columns.items()})


def _ratings(rows: list[Row], data: FilesData) -> dict[str, list[str]]:
    return {} if data.rating_column is None else {RATING: [str(row[data.rating_column]) for row in rows]}


def _rating_columns(data: FilesData) -> tuple[str, ...]:
    return () if data.rating_column is None else (data.rating_column,)


def read_rows(path: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a CSV (quoted), TSV (no quoting) or JSONL file that has these columns.

    Raises:
        UserError: the file is missing, not UTF-8, empty, of another kind, or a row lacks a column.
    """
    kind = Path(path).suffix
    if kind == ".jsonl":
        rows: Iterator[Row] = _json_rows(path)
    elif kind == ".csv":
        rows = _table_rows(path, columns, csv.DictReader(_lines(path), strict=True))
    elif kind == ".tsv":
        rows = _table_rows(path, columns, csv.DictReader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE))
    else:
        raise UserError(f"{path}: files end in .csv, .tsv or .jsonl (and .txt for stage 1)")
    number = 0
    for number, row in enumerate(rows, start=1):
        for column in columns:
            if row.get(column) is None:
                raise UserError(f"{path}, row {number}: no {column}; it has {some(map(str, row))}")
        yield row
    if number == 0:
        raise UserError(f"{path} holds no rows")


def _table_rows(path: str, columns: tuple[str, ...], reader: "csv.DictReader[str]") -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    header = reader.fieldnames or ()
    for column in columns:
        if header and column not in header:
            raise UserError(
                f"{path}: no column {column}{nearest(column, header)}; it has {some(header)} "
                "(name yours with data.text_column=, data.label_column= and data.rating_column=)"
            )
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.reader.line_num}: not a table that can be read ({error})") from error


LONGEST_FIELD = 2**31 - 1
"""Characters; the csv module's own limit of 131,072 is less than some texts have."""


def _json_rows(path: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object")
            yield row


def _lines(path: str) -> Iterator[str]:
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            yield from stream
    except UnicodeDecodeError as error:
        raise UserError(_not_utf8(path)) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


LIKELY_ENCODINGS = "cp1252 utf_16 gb18030 big5 shift_jis euc_kr cp1251 koi8_r iso8859_2".split()
"""What files that are not UTF-8 mostly are; among all encodings there are, short texts fit too many."""


def _not_utf8(path: str) -> str:
    """The message for a file that is not UTF-8: the first place where it is not, and what it seems to be."""
    content = Path(path).read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        start = error.start
    line = content.count(b"\n", 0, start) + 1
    start_of_line = content.rfind(b"\n", 0, start) + 1
    foreign = [line for line in content[start_of_line:].splitlines() if not line.isascii()]
    sample = content[max(start_of_line - 100, 0) : start_of_line] + b"\n".join(foreign)[:10_000]
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        sample = content
    guess = from_bytes(sample, cp_isolation=LIKELY_ENCODINGS).best()
    advice = "save it as UTF-8"
    if guess is not None:
        name = guess.encoding.replace("_", "-")
        advice = f"it seems to be {name}; convert it: iconv -f {name} -t utf-8 {path} > utf8{Path(path).suffix}"
    return f"{path}, line {line}: not UTF-8 (byte 0x{content[start]:02x} at {start:,}); {advice}"
