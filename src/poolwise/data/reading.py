"""Rows of a person's own files, one at a time, each mistake told with its place."""

import csv
import gzip
import io
import json
import math
import re
import warnings
import zipfile
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from charset_normalizer import from_bytes
from datasets import ClassLabel, Features

from poolwise.data.corpus import ROWS_AT_A_TIME
from poolwise.settings import UserError
from poolwise.words import counted, first_line, size, some

Row = dict[str, Any]
PlacedRow = tuple[str, Row]
"""A row, and where it stands: `row 41` of a table, `line 41` of JSONL. None stands where a row ends early."""

SheetRow = tuple[int, list[Any]]
"""The number of a row of a sheet, and its cells; None stands for an empty one."""

LONGEST_LINE = 2**27
"""Characters of a line, or of a field in quotes; a longer one comes of a file that is no text, or of an open quote."""
LARGEST_WHOLE = 2**28
"""Bytes of a file that can only be read as a whole (`.json`, `.xlsx`), unpacked."""
HIDDEN = "hidden (-1)"
"""Stands in place of the class of texts whose class is not told, as in the test splits of GLUE."""


class Unusable(str):
    """Stands in place of a value that cannot be used, and says why: `text` and these words are the message.

    A person is told where the column is read; in others it does no harm.
    """

    __slots__ = ()


UNSAVED = Unusable("is a formula without a saved value; open the file in Excel or LibreOffice and save it there")
"""The program that wrote the sheet did not compute it."""
TWICE = Unusable("stands twice in the header; a column that is read needs a name of its own")

SEPARATOR_NAMES = {",": "commas", "\t": "tabs", ";": "';'", "|": "'|'"}
SEPARATOR_LINE = re.compile("sep=.", re.IGNORECASE)
"""What Excel writes above a table to name the separator."""
LOOKED_AT = 50
"""Lines by which the separator is found."""
LOOKED_AT_OF_STREAM = 1_000_000
"""Characters by which it is found whether a table by tabs that is streamed is quoted."""
LINE_END_IN_CELL = re.compile(r"_x000D_\n?")
"""How a workbook writes the line ends of Windows in a cell."""
SHEET_ERRORS = frozenset("#NULL! #DIV/0! #VALUE! #REF! #NAME? #NUM! #N/A".split())

MARKS = {
    BOM_UTF8: "utf-8-sig",
    BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is the start of this one
    BOM_UTF32_BE: "utf-32",
    BOM_UTF16_LE: "utf-16",
    BOM_UTF16_BE: "utf-16",
}
"""Encodings by the mark that a file of theirs begins with."""


def kind_of(path: str) -> str:
    """The suffix in small letters, without that of a compression.

    Raises:
        UserError: the path cannot be looked at, or is no regular file; a pipe would be waited for without end.
    """
    try:
        irregular = Path(path).exists() and not Path(path).is_file()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if irregular:
        raise UserError(f"{path} cannot be read: it is a {'folder' if Path(path).is_dir() else 'pipe or device'}")
    return suffixes(path)[0]


def suffixes(path: str) -> tuple[str, str]:
    """What kind of file a name says, and how it is compressed: `.csv` and `.gz`, or `.csv` and nothing."""
    name = Path(path.lower())
    return (Path(name.stem).suffix, name.suffix) if name.suffix in COMPRESSIONS else (name.suffix, "")


def is_json(path: str) -> bool:
    """Whether a file is of JSON, by its name."""
    return suffixes(path)[0] in (".json", ".jsonl", ".ndjson")


def read_rows(path: str, header: bool = True, streaming: bool = False) -> Iterator[PlacedRow]:
    """The rows of a file, by the reader of its kind.

    Args:
        path: of the file.
        header: whether the first row of a table names its columns; else their names are 1, 2, 3, ...
        streaming: whether the first row must come before all of the file is read.

    Raises:
        UserError: the file is missing, empty, of another kind, damaged, no text, or a row cannot be read.
    """
    kind, compression = kind_of(path), suffixes(path)[1]
    if kind not in READERS:
        raise UserError(f"{path}: files end in {', '.join(READERS)}; text and JSON also in {' or '.join(COMPRESSIONS)}")
    if compression and kind in PACKED:
        raise UserError(f"{path}: a {kind} file is compressed inside; unpack it and name the {kind} file")
    reader = (READERS if header else READERS | HEADLESS)[kind]
    if streaming and kind in (".tsv", ".tab"):
        reader = partial(tab_rows, header=header, looked_at=LOOKED_AT_OF_STREAM)
    place = None
    with damage_told(path, (Exception,) if kind in PACKED else BROKEN):
        for place, row in reader(path):
            yield place, row
    if place is None:
        raise UserError(
            f"{path} holds no {'text' if kind == '.txt' else 'rows'}{other_sheets(path)}; is it the right file?"
        )


PACKED = (".parquet", ".xlsx")
"""Kinds of files whose libraries raise errors of many types where one is damaged."""
BROKEN = (EOFError, zlib.error, pyarrow.ArrowException)


@contextmanager
def damage_told(path: str, broken: tuple[type[Exception], ...] = BROKEN) -> Iterator[None]:
    """Raise a UserError where a file cannot be read, or what it is packed in is `broken`."""
    try:
        yield
    except (UserError, ImportError, AttributeError):  # the latter two of a library that is not the one known here
        raise
    except OSError as error:
        reason = error.strerror
        raise UserError(f"{path} cannot be read: {reason}" if reason else _damaged(path, error)) from error
    except broken as error:
        raise UserError(_damaged(path, error)) from error


def _damaged(path: str, error: Exception) -> str:
    kind = Path(path).suffix.lower()
    return f"{path}: not a whole {kind} file ({first_line(error)[:200]}); copy, download or save it again"


def text_lines(path: str) -> Iterator[PlacedRow]:
    """A row with the column `text` for each line."""
    for number, line in enumerate(read_lines(path), start=1):
        yield f"line {number}", {"text": line.rstrip("\r\n")}


def comma_rows(path: str, header: bool = True) -> Iterator[PlacedRow]:
    """The rows of a CSV file, quoted where texts hold commas.

    Of semicolons where these and no commas part its rows, of tabs or bars where nothing else does.
    """
    lines = _first_lines(path)
    alone = ";" in lines[0] and "," not in lines[0]
    by_semicolons = alone or (_parts_alike(lines, ";") and not _parts_alike(lines, ","))
    separator = ";" if by_semicolons else ","
    if not {",", ";"} & set(lines[0]):
        separator = next((mark for mark in "\t|" if _parts_alike(lines, mark)), separator)
    return _table_rows(path, separator, csv.QUOTE_MINIMAL, header)


def _table_lines(path: str) -> Iterator[str]:
    """The lines of a table; a first one by which Excel names the separator is blank, so that others keep theirs."""
    for number, line in enumerate(read_lines(path)):
        yield "\n" if number == 0 and SEPARATOR_LINE.fullmatch(line.strip()) else line


def _first_lines(path: str) -> list[str]:
    """Some lines that are not blank, one at least."""
    return list(islice((line for line in _table_lines(path) if line.strip()), LOOKED_AT)) or [""]


def _parts_alike(lines: list[str], separator: str) -> bool:
    """Whether each line has as many fields, and several."""
    widths = {len(fields) for fields in csv.reader(lines, delimiter=separator)}
    return len(widths) == 1 and widths.pop() > 1


def tab_rows(path: str, header: bool = True, looked_at: int | None = None) -> Iterator[PlacedRow]:
    """The rows of a TSV file: quoted if all of it can be read so, else with quotes as part of texts.

    With `looked_at`, about so many characters at the start stand for all of it.
    """
    return _table_rows(path, "\t", csv.QUOTE_MINIMAL if _is_quoted(path, looked_at) else csv.QUOTE_NONE, header)


def _is_quoted(path: str, looked_at: int | None = None) -> bool:
    """Whether fields are in quotes: the first one is, or some are, every row then has as many fields, and no line less.

    Where the lines have as many fields each, quotes that take several of these together are parts of texts, unless
    some are written twice as within quotes. Of `looked_at` characters, the row in which they end is read to its end,
    for as many again at most.
    """
    if _first_lines(path)[0].startswith('"'):
        return True
    by_line: Counter[int] = Counter()
    by_row: Counter[int] = Counter()
    quoted = doubled = False
    seen, limit = 0, math.inf if looked_at is None else looked_at

    def lines() -> Iterator[str]:
        nonlocal quoted, doubled, seen
        for line in _table_lines(path):
            if seen > 2 * limit:
                return
            fields = line.split("\t")
            by_line[len(fields)] += bool(line.strip())
            quoted = quoted or any(field.startswith('"') for field in fields)
            doubled = doubled or '""' in line
            seen += len(line)
            yield line

    try:
        for fields in _csv_reader(lines(), "\t", csv.QUOTE_MINIMAL):
            by_row[len(fields)] += bool(fields)
            if seen > limit:
                break
    except csv.Error:
        return False
    rows = +by_row
    return quoted and len(rows) == 1 and (doubled or len(+by_line) > 1 or rows == +by_line)


def _csv_reader(lines: Iterable[str], separator: str, quoting: Any, skips_blanks: bool = False) -> Any:
    csv.field_size_limit(LONGEST_LINE)  # the csv module's own limit of 131,072 is less than some texts have
    return csv.reader(lines, delimiter=separator, quoting=quoting, strict=True, skipinitialspace=skips_blanks)


def _table_rows(path: str, separator: str, quoting: Any, header: bool) -> Iterator[PlacedRow]:
    skips_blanks = any(re.search(rf'"{re.escape(separator)} +"', line) for line in _first_lines(path))
    reader = _csv_reader(_table_lines(path), separator, quoting, skips_blanks)
    separated = SEPARATOR_NAMES[separator]
    begin, number = 1, 0
    names: list[str] = []
    twice: Row = {}
    try:
        for fields in reader:
            is_first = bool(fields) and not names
            if is_first:
                names = named_columns(fields, header)
                twice = named_twice(names)
            if fields and not (is_first and header):
                number += 1
                if any(fields[len(names) :]):  # empty fields at the end are a spreadsheet's empty columns
                    raise UserError(
                        f"{path}, row {number}: {counted(len(fields), 'field')}, and the "
                        f"{'header' if header else 'first row'} has {len(names)}; "
                        + ("texts cannot hold tabs" if separator == "\t" else f"quote texts that hold {separated}")
                    )
                yield f"row {number}", {**dict.fromkeys(names), **dict(zip(names, fields, strict=False)), **twice}
            begin = reader.line_num + 1
    except csv.Error as error:
        row = islice(_table_lines(path), begin - 1, reader.line_num)
        advice = (
            'a quote within a quoted text is written twice (""), not as \\"'
            if any('\\"' in line for line in row)
            else "is a quote in this row left open?"
        )
        raise UserError(f"{path}, line {begin}: not a table that can be read ({error}); {advice}") from error


def named_columns(first: list[str], header: bool) -> list[str]:
    """The names of a table's columns: what its first row holds, or numbers from 1 where that is no header."""
    return first if header else [str(number) for number in range(1, len(first) + 1)]


def named_twice(names: Iterable[str]) -> Row:
    """What stands in each row under the names that several columns have; those without a name are none."""
    return {name: TWICE for name, count in Counter(names).items() if name and count > 1}


def json_lines(path: str) -> Iterator[PlacedRow]:
    """The rows of JSONL: an object a line."""
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            yield f"line {number}", _json_row(f"{path}, line {number}", _json(f"{path}, line {number}", line))


def json_rows(path: str) -> Iterator[PlacedRow]:
    """The rows of a list of JSON objects, or of an object that holds one, or lists by column; else those of JSONL.

    What is not JSONL is read as a whole.
    """
    if _is_jsonl(path):
        yield from json_lines(path)
        return
    lines, length = [], 0
    for line in read_lines(path):
        lines.append(line)
        length += len(line)
        if length > LARGEST_WHOLE:
            raise UserError(f"{path} is larger than {size(LARGEST_WHOLE)}; make it .jsonl, an object a line")
    found = _json(path, "".join(lines)) if "".join(lines).strip() else []
    for number, row in enumerate(found if isinstance(found, list) else _rows_within(path, found), start=1):
        yield f"object {number}", _json_row(f"{path}, object {number}", row)


def _is_jsonl(path: str) -> bool:
    """Whether the first line is a whole JSON object, and not all there is."""
    lines = [line.strip() for line in islice((line for line in read_lines(path) if line.strip()), 2)]
    try:
        return len(lines) == 2 and isinstance(json.loads(lines[0]), dict)
    except (ValueError, RecursionError):
        return False


def _rows_within(path: str, found: Any) -> list[Any]:
    """The rows of what is no list: the only list of objects in it, its columns as pandas writes them, or itself.

    Raises:
        UserError: it is none of these.
    """
    values = found if isinstance(found, dict) else {}
    lists = [name for name, value in values.items() if _is_rows(value)]
    if len(lists) == 1:
        rows: list[Any] = values[lists[0]]
        return rows
    if values and not any(isinstance(value, list | dict) for value in values.values()):
        return [values]
    indices = [_index_of(value) for value in values.values()]
    if not lists and indices and indices[0] is not None and all(index == indices[0] for index in indices):
        columns = [value.values() if isinstance(value, dict) else value for value in values.values()]
        return [dict(zip(values, row, strict=True)) for row in zip(*columns, strict=True)]
    several = f" (it holds several: {some(lists)})" if lists else ""
    raise UserError(f'{path}: a list of objects is wanted, [{{"text": ..., "label": ...}}, ...]{several}')


def _index_of(column: Any) -> list[str] | None:
    """The names of a column's rows, which of a list are their numbers; of what is no column None."""
    if isinstance(column, list):
        return [str(number) for number in range(len(column))]
    return list(column) if isinstance(column, dict) else None


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _json(place: str, text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).split(";")[0]  # what follows tells programmers which limit to raise
        raise UserError(
            f"{place}: not JSON that can be read ({reason}); is a quote, bracket or comma missing?"
        ) from error
    return found


def _json_row(place: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise UserError(f'{place}: not a JSON object; write {{"text": ..., "label": ...}}')
    for name in row:
        if (half := _half_of_a_sign(name)) is not None:
            raise UserError(f"{place}: a name {half}")
    return {name: value if (half := _half_of_a_sign(value)) is None else half for name, value in filled(row).items()}


def _half_of_a_sign(value: Any) -> Unusable | None:
    """What to say of a text with a surrogate that stands alone, which no file of texts can hold; else None."""
    if not isinstance(value, str) or value.isascii():
        return None
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])[1:-1]
        return Unusable(f"holds {half}, half of a sign (a surrogate pair without its other half); take it out")
    return None


def filled(row: Row) -> Row:
    """The row with an empty text in place of nulls and NaN."""
    return {name: "" if value is None or _is_nan(value) else value for name, value in row.items()}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def parquet_rows(path: str) -> Iterator[PlacedRow]:
    """The rows of a Parquet file; class ids that `datasets` wrote become the names of their classes."""
    with pyarrow.parquet.ParquetFile(path) as file:
        yield from arrow_rows(file.iter_batches(ROWS_AT_A_TIME), class_names(file.schema_arrow))


def class_names(schema: Any) -> dict[str, list[str]]:
    """The names of classes that `datasets` noted in an Arrow schema, by column.

    Raises:
        ValueError: the note is damaged.
    """
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    try:
        features = Features.from_arrow_schema(schema)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"what datasets noted of its columns cannot be read: {error}") from error
    return {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}


def arrow_rows(batches: Iterable[Any], names: dict[str, list[str]]) -> Iterator[PlacedRow]:
    """The rows of Arrow record batches, or tables.

    Args:
        batches: of rows.
        names: of the classes that a column holds the ids of, by column.
    """
    number = 0
    for batch in batches:
        twice = named_twice(batch.column_names)
        columns = {name: plain(column) for name, column in zip(batch.column_names, batch.columns, strict=True)}
        for values in zip(*columns.values(), strict=True):
            number += 1
            row = dict(zip(columns, values, strict=True)) | twice
            for column, known in names.items():
                row[column] = _class_name(row[column], known)
            yield f"row {number}", filled(row)


def plain(column: Any) -> list[Any]:
    """The values of an Arrow column; of lists and structs, which no text or label is, nothing is read."""
    if pyarrow.types.is_nested(column.type):
        kind = "an object" if pyarrow.types.is_struct(column.type) else "a list"
        return [Unusable(f"is {kind}; a text, a number or true/false is allowed")] * len(column)
    if pyarrow.types.is_decimal(column.type):
        column = column.cast(pyarrow.float64())
    try:
        values: list[Any] = column.to_pylist()
    except Exception:  # dates, time zones and texts each have errors of their own
        values = [_plain_value(value) for value in column]
    return values


def _plain_value(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return Unusable("holds bytes that are not UTF-8; write it as a string")
    except Exception as error:  # as in `plain`
        return Unusable(f"cannot be read ({first_line(error)[:200]})")


def _class_name(label: Any, names: list[str]) -> Any:
    if not isinstance(label, int):  # none, or nothing that can be used
        return label
    if label == -1:
        return HIDDEN
    if not 0 <= label < len(names):
        return Unusable(f"is class {label}, and the file names the {len(names)} classes {some(names)}")
    return names[label]


def sheet_rows(path: str, header: bool = True) -> Iterator[PlacedRow]:
    """The rows of the first sheet of an Excel file, below its header; of formulas, the values that were saved.

    Raises:
        UserError: the file is no workbook or too large.
    """
    with zipfile.ZipFile(path) as packed:
        if sum(part.file_size for part in packed.infolist()) > LARGEST_WHOLE:
            raise UserError(f"{path} is larger than {size(LARGEST_WHOLE)} unpacked; save it as .csv")
        parts = set(packed.namelist())
    sheets = [Path(part) for part in parts if re.fullmatch(r"xl/chartsheets/[^/]+\.xml", part)]
    if any(f"{sheet.parent}/_rels/{sheet.name}.rels" not in parts for sheet in sheets):  # openpyxl breaks at these
        raise UserError(f"{path}: one of its sheets is an empty chart; delete that sheet, or save the rows as .csv")
    unsaved = cache(partial(_unsaved_formulas, path))
    with _workbook(path) as workbook:
        rows = _filled_rows(_cells(workbook), unsaved)
        yield from _sheet_rows(_from_header_on(rows) if header else rows, header)


@contextmanager
def _workbook(path: str) -> Iterator[Any]:
    import openpyxl

    # Opened here, as openpyxl leaves a file open that it cannot read; warnings are of styles and the like.
    with Path(path).open("rb") as stream, warnings.catch_warnings(action="ignore"):
        workbook = openpyxl.load_workbook(stream, read_only=True, data_only=True)
        try:
            yield workbook
        finally:
            workbook.close()


def _cells(workbook: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of the first sheet."""
    first = workbook.worksheets[0]
    first.reset_dimensions()  # what a file says of its size is wrong at times
    yield from first.iter_rows(values_only=True)


def _unsaved_formulas(path: str) -> set[tuple[int, int]]:
    """The row and the column, counted from 1, of each formula of the first sheet that has no saved value.

    openpyxl gives None for these and for a saved value that is an empty text (`t="str"`), so the XML is looked at.
    """
    from openpyxl.utils.cell import coordinate_to_tuple
    from openpyxl.worksheet._reader import CELL_TAG, FORMULA_TAG, ROW_TAG, VALUE_TAG
    from openpyxl.xml.functions import iterparse

    found = set()
    with _workbook(path) as workbook, workbook.worksheets[0]._get_source() as sheet:
        for _, element in iterparse(sheet):
            is_formula = element.tag == CELL_TAG and element.find(FORMULA_TAG) is not None
            if is_formula and not element.findtext(VALUE_TAG) and element.get("t") != "str" and element.get("r"):
                found.add(coordinate_to_tuple(element.get("r")))
            if element.tag == ROW_TAG:
                element.clear()
    return found


def other_sheets(path: str) -> str:
    """What to say where something is missing in the sheet that is read, and there are others; else nothing."""
    if suffixes(path)[0] != ".xlsx":
        return ""
    with damage_told(path, (Exception,)), _workbook(path) as workbook:
        first, *others = (sheet.title for sheet in workbook.worksheets)
    return f"; only the first sheet, {first}, is read, and there are also {some(others)}" if others else ""


def _filled_rows(rows: Iterator[tuple[Any, ...]], unsaved: Callable[[], set[tuple[int, int]]]) -> Iterator[SheetRow]:
    for number, saved in enumerate(rows, start=1):
        cells = [
            UNSAVED if cell is None and (number, column) in unsaved() else _usable(cell)
            for column, cell in enumerate(saved, start=1)
        ]
        if any(cell is not None for cell in cells):
            yield number, cells


def _usable(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    if cell in SHEET_ERRORS:
        return Unusable(f"holds the error {cell}; mend it in the sheet")
    return LINE_END_IN_CELL.sub("\n", cell)


MOST_TITLE_ROWS = 5


def _from_header_on(rows: Iterator[SheetRow]) -> Iterator[SheetRow]:
    """The rows of a sheet without its title: some first rows of one cell each, if a row of several texts is below."""
    before: list[SheetRow] = []
    for row in rows:
        cells = [cell for cell in row[1] if cell is not None]
        if len(cells) == 1 and len(before) < MOST_TITLE_ROWS:
            before.append(row)
            continue
        if len(cells) == 1 or not all(isinstance(cell, str) for cell in cells):
            yield from before  # one column, with notes beside it at most
        yield from chain([row], rows)
        return
    yield from before


def _sheet_rows(rows: Iterator[SheetRow], header: bool) -> Iterator[PlacedRow]:
    names: list[str] = []
    for number, cells in rows:
        if not names:
            names = named_columns(["" if cell is None else str(cell) for cell in cells], header)
            twice = named_twice(names)
            if header:
                continue
        row = dict.fromkeys(names) | dict(zip(names, cells, strict=False)) | twice
        yield f"row {number} of the sheet", filled(row)


Reader = Callable[[str], Iterator[PlacedRow]]
READERS: dict[str, Reader] = {
    ".txt": text_lines,
    ".csv": comma_rows,
    ".tsv": tab_rows,
    ".tab": tab_rows,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_rows,
    ".parquet": parquet_rows,
    ".xlsx": sheet_rows,
}
"""What reads each kind of file."""
HEADLESS: dict[str, Reader] = {
    kind: partial(reader, header=False)
    for kind, reader in ((".csv", comma_rows), (".tsv", tab_rows), (".tab", tab_rows), (".xlsx", sheet_rows))
}
"""What reads the kinds of tables whose columns have names in the first row, where they have none."""


def _open_gzip(path: str) -> io.BufferedReader:
    return io.BufferedReader(gzip.GzipFile(path))


def _open_zstd(path: str) -> io.BufferedReader:
    return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))  # pyarrow is there for `datasets`


COMPRESSIONS: dict[str, Callable[[str], io.BufferedReader]] = {".gz": _open_gzip, ".zst": _open_zstd}
"""What opens a file that is compressed so; it is unpacked piece by piece."""


def open_unpacked(path: str) -> io.BufferedReader:
    """The bytes of a file, unpacked as they are read."""
    opener = COMPRESSIONS.get(suffixes(path)[1])
    return opener(path) if opener else Path(path).open("rb")


def encoding_of(stream: io.BufferedReader) -> str:
    """The encoding that the mark at the start of a stream tells, or UTF-8; nothing is read away."""
    start = stream.peek(4)[:4]
    return next((encoding for mark, encoding in MARKS.items() if start.startswith(mark)), "utf-8")


def read_lines(path: str) -> Iterator[str]:
    """The lines of a UTF-8 file, or of one in UTF-16 or UTF-32 that begins with a byte order mark, with their ends.

    Raises:
        UserError: the file cannot be read, is of another encoding, holds NUL bytes or a line beyond all measure.
    """
    number = 0
    try:
        with damage_told(path), open_unpacked(path) as stream:
            text = io.TextIOWrapper(stream, encoding_of(stream), newline="")
            while line := text.readline(LONGEST_LINE + 1):
                number += 1
                if "\0" in line:
                    raise UserError(_holds_nul(path, number))
                if len(line) > LONGEST_LINE:
                    raise UserError(
                        f"{path}, line {number}: longer than {LONGEST_LINE:,} characters; is it a text file?"
                    )
                yield line
    except UnicodeDecodeError as error:
        with damage_told(path):
            raise UserError(_not_decoded(path, error.encoding)) from error


LIKELY_ENCODINGS = "cp1252 utf_16 gb18030 big5 shift_jis euc_kr cp1251 koi8_r iso8859_2".split()
"""What files that are not UTF-8 mostly are; among all encodings there are, short texts fit too many."""
SAMPLE_BYTES = 1_000_000
GUESSED_BYTES = 10_000
"""Of whole lines, by which an encoding is guessed."""


def _not_decoded(path: str, encoding: str) -> str:
    """The message for a file that is not in the encoding that it is read in."""
    if not encoding.startswith("utf-8"):
        return f"{path}: it begins as {encoding} does, but is not {encoding} throughout; save it as UTF-8"
    before, number, offset = b"", 0, 0
    with open_unpacked(path) as stream:
        while line := stream.readline(LONGEST_LINE):
            number += 1
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                rest = line + stream.read(SAMPLE_BYTES)
                return _not_utf8(path, f"line {number}", offset + error.start, line[error.start], before, rest)
            before, offset = line if len(line) < GUESSED_BYTES else b"", offset + len(line)
    return f"{path}: not UTF-8"


def _not_utf8(path: str, place: str, offset: int, byte: int, before: bytes, rest: bytes) -> str:
    """The message for a file that is not UTF-8: the first place where it is not, and what it seems to be."""
    if b"\0" in before + rest:
        return _holds_nul(path, int(place.split()[-1]))
    foreign = [line for line in rest.splitlines() if not line.isascii()]
    sizes = accumulate(len(line) + 1 for line in foreign)
    whole = [line for line, size in zip(foreign, sizes, strict=True) if size <= GUESSED_BYTES] or foreign[:1]
    guess = from_bytes(before + b"\n".join(whole), cp_isolation=LIKELY_ENCODINGS).best()
    advice = "save it as UTF-8" if guess is None else _conversion(path, guess.encoding.replace("_", "-"))
    return f"{path}, {place}: not UTF-8 (byte 0x{byte:02x} at {offset:,}); {advice}"


def _holds_nul(path: str, number: int) -> str:
    """The message for a file with NUL bytes: UTF-16 has many, at every other place, of what is ASCII."""
    with open_unpacked(path) as stream:
        content = stream.read(10_000)
    first, second = content[::2].count(0), content[1::2].count(0)
    if 10 * max(first, second) > max(len(content), 100 * min(first, second)):
        return f"{path}: not UTF-8; {_conversion(path, 'utf-16le' if second > first else 'utf-16be')}"
    return f"{path}, line {number}: it holds NUL bytes; is it a text file? If so, take them out (tr -d '\\0')"


def _conversion(path: str, encoding: str) -> str:
    kind, compression = suffixes(path)
    unpacked = {"": f"iconv -f {encoding} -t utf-8 {path}", ".gz": f"zcat {path} | iconv -f {encoding} -t utf-8"}
    command = unpacked.get(compression, f"zstdcat {path} | iconv -f {encoding} -t utf-8")
    return f"it seems to be {encoding}; convert it: {command} > utf8{kind}"
