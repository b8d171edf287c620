"""A person's own files: plain text for stage 1, labelled CSV, TSV or JSONL for stage 2."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Value

from poolwise.data.corpus import RATING, SPLITS, Corpus, held_out, text_columns
from poolwise.settings import FilesData, UserError

Row = dict[str, Any]


def load_files(data: FilesData) -> Corpus:
    """Read the files that `data` names; stage-1 text is `text`, or the training texts where it is not given.

    Raises:
        UserError: a file is missing, empty, of an unknown kind, lacks a column, or splits are missing.
    """
    labelled, label_names = _read_labelled(data)
    if data.text is not None:
        text = _read_texts(data.text, data)
    elif labelled:
        text = text_columns(labelled["train"])
    else:
        raise UserError("data=files needs data.text (stage 1), or data.train, data.dev and data.test")
    if data.text_dev is not None:
        dev = _read_texts(data.text_dev, data)
    elif labelled:
        dev = text_columns(labelled["dev"])
    else:
        text, dev = held_out(text, data.text_dev_share)
    unrated = {split: rows.select_columns(["text", "label"]) for split, rows in labelled.items()}
    return Corpus({"train": text, "dev": dev}, unrated, label_names)


def _read_labelled(data: FilesData) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    paths = {split: getattr(data, split) for split in SPLITS}
    missing = [f"data.{split}" for split, path in paths.items() if path is None]
    if len(missing) == len(SPLITS):
        return {}, ()
    if missing:
        raise UserError(f"stage 2 needs three labelled files; not given: {', '.join(missing)}")
    columns = (data.text_column, data.label_column, *_rating_columns(data))
    rows = {split: list(read_rows(path, columns)) for split, path in paths.items()}
    names = tuple(sorted({str(row[data.label_column]) for row in rows["train"]}))
    if len(names) < 2:
        raise UserError(f"{data.train}: all labels are {names[0]!r}; a classifier needs at least two")
    rated = dict.fromkeys([RATING] if data.rating_column else [], Value("string"))
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names)), **rated})
    return {
        split: Dataset.from_dict(
            {
                "text": [str(row[data.text_column]) for row in rows[split]],
                "label": _class_ids(rows[split], data.label_column, names, paths[split]),
                **_ratings(rows[split], data),
            },
            features=features,
        )
        for split in SPLITS
    }, names


def _class_ids(rows: list[Row], label_column: str, names: tuple[str, ...], path: str) -> list[int]:
    found = [str(row[label_column]) for row in rows]
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise UserError(
            f"{path}: labels {', '.join(map(repr, unknown))} do not occur in the training file; "
            f"known: {', '.join(map(repr, names))}"
        )
    return [names.index(name) for name in found]


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
        rows = csv.DictReader(_lines(path))
    elif kind == ".tsv":
        rows = csv.DictReader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        raise UserError(f"{path}: files end in .csv, .tsv or .jsonl (and .txt for stage 1)")
    number = 0
    for number, row in enumerate(rows, start=1):
        lacking = [column for column in columns if row.get(column) is None]
        if lacking:
            raise UserError(
                f"{path}, row {number}: no column {', '.join(lacking)}; it has {', '.join(map(str, row))} "
                "(data.text_column and data.label_column name the columns)"
            )
        yield row
    if number == 0:
        raise UserError(f"{path} holds no rows")


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
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
