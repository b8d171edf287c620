"""Rows and lines of a person's own files, each mistake told with its place."""

import csv
import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charset_normalizer import from_bytes

from poolwise.settings import UserError
from poolwise.words import counted, nearest, some

Row = dict[str, Any]
PlacedRow = tuple[str, Row]
"""A row, and where it stands: `row 41` of a table, `line 41` of JSONL."""

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SEPARATOR_NAMES = {",": "commas", "\t": "tabs", ";": "';'", "|": "'|'"}
LONGEST_FIELD = 2**31 - 1
"""Characters; the csv module's own limit of 131,072 is less than some texts have."""


def kind_of(path: str) -> str:
    """The suffix in small letters.

    Raises:
        UserError: the path cannot be looked at, or is no regular file; a pipe would be waited for without end.
    """
    try:
        irregular = Path(path).exists() and not Path(path).is_file()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if irregular:
        raise UserError(f"{path} cannot be read: it is a {'folder' if Path(path).is_dir() else 'pipe or device'}")
    return Path(path).suffix.lower()


def read_rows(path: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a CSV (quoted), TSV (no quoting) or JSONL file: a text, number or true/false for each column.

    Raises:
        UserError: the file is missing, not UTF-8, empty, of another kind, or a row lacks a column, has more fields
            than the header, or holds a list or an object.
    """
    kind = kind_of(path)
    if kind == ".jsonl":
        rows: Iterator[PlacedRow] = _json_rows(path)
    elif kind in SEPARATORS:
        rows = _table_rows(path, columns, SEPARATORS[kind])
    else:
        raise UserError(f"{path}: files end in .csv, .tsv or .jsonl (and .txt for stage 1)")
    place = None
    for place, row in rows:
        for column in columns:
            value = row.get(column)
            if value is None:
                raise UserError(f"{path}, {place}: no {column}; it has {some(row)}")
            if not isinstance(value, str | int | float):
                found = "list" if isinstance(value, list) else "object"
                raise UserError(
                    f"{path}, {place}: {column} is a JSON {found}; a text, a number or true/false is allowed"
                )
        yield row
    if place is None:
        raise UserError(f"{path} holds no rows")


def _table_rows(path: str, columns: tuple[str, ...], separator: str) -> Iterator[PlacedRow]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(
        read_lines(path),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE,
        strict=True,
    )
    begin, number = 1, 0
    header: list[str] = []
    try:
        for fields in reader:
            if fields and not header:
                header = fields
                _check_header(path, header, columns, separator)
            elif fields:
                number += 1
                if len(fields) > len(header):
                    raise UserError(
                        f"{path}, row {number}: {counted(len(fields), 'field')}, and the header has {len(header)}; "
                        + ("quote texts that hold commas" if separator == "," else "texts cannot hold tabs")
                    )
                yield f"row {number}", {**dict.fromkeys(header), **dict(zip(header, fields, strict=False))}
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {begin}: not a table that can be read ({error}); is a quote in this row left open?"
        ) from error


def _check_header(path: str, header: list[str], columns: tuple[str, ...], separator: str) -> None:
    """Raise a UserError if a column is missing or there twice."""
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise UserError(f"{path}: the header has {some(twice)} twice; each column needs a name of its own")
    for column in columns:
        if column not in header:
            others = [name for mark, name in SEPARATOR_NAMES.items() if mark != separator and mark in header[0]]
            advice = (
                f"; it seems to be separated by {others[0]}, and {Path(path).suffix} files are by "
                f"{SEPARATOR_NAMES[separator]}"
                if others and len(header) == 1
                else f"{nearest(column, header)}; it has {some(header)} (name yours with data.text_column=, "
                "data.label_column= and data.rating_column=)"
            )
            raise UserError(f"{path}: no column {column}{advice}")


def _json_rows(path: str) -> Iterator[PlacedRow]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                if "\\ud" in line.lower():
                    json.dumps(row, ensure_ascii=False).encode()  # raises where half of a surrogate pair stands alone
            except (ValueError, RecursionError) as error:
                reason = str(error).split(";")[0]  # what follows tells programmers which limit to raise
                raise UserError(f"{path}, line {number}: not JSON that can be read ({reason})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object")
            yield f"line {number}", row


def read_lines(path: str) -> Iterator[str]:
    """The lines of a UTF-8 file, with their ends.

    Raises:
        UserError: the file cannot be read, is not UTF-8 or holds NUL bytes.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            for line in stream:
                if "\0" in line:
                    raise UserError(_holds_nul(path))
                yield line
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
    elif b"\0" in content:
        return _holds_nul(path)
    guess = from_bytes(sample, cp_isolation=LIKELY_ENCODINGS).best()
    advice = "save it as UTF-8" if guess is None else _conversion(path, guess.encoding.replace("_", "-"))
    return f"{path}, line {line}: not UTF-8 (byte 0x{content[start]:02x} at {start:,}); {advice}"


def _holds_nul(path: str) -> str:
    """The message for a file with NUL bytes: UTF-16 has many, at every other place, of what is ASCII."""
    with Path(path).open("rb") as stream:
        content = stream.read(10_000)
    first, second = content[::2].count(0), content[1::2].count(0)
    if 10 * max(first, second) > max(len(content), 100 * min(first, second)):
        return f"{path}: not UTF-8; {_conversion(path, 'utf-16le' if second > first else 'utf-16be')}"
    return f"{path} holds NUL bytes: it is not a text file"


def _conversion(path: str, encoding: str) -> str:
    return f"it seems to be {encoding}; convert it: iconv -f {encoding} -t utf-8 {path} > utf8{Path(path).suffix}"
