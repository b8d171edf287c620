"""What becomes of files in a bad state, one row a case: told in one message with its place, or read as one expects.

Cases of the settings, of encoders and of the trainer are in tests/test_mistakes.py.
"""

import gzip
import io
import itertools
import json
import os
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets.table import InMemoryTable
from hypothesis import HealthCheck, given
from hypothesis import settings as fuzz
from hypothesis import strategies as st
from openpyxl.chart import BarChart
from transformers import BertConfig, BertModel

from poolwise.checkpoints import load_tokenizer
from poolwise.data.files import load_files
from poolwise.data.reading import COMPRESSIONS, READERS, read_rows
from poolwise.jobs.start import check_length, check_words
from poolwise.settings import FilesData, UserError

SETTINGS = {
    "source": "files",
    "name": "own",
    **dict.fromkeys(("text", "text_dev", "train", "dev", "test")),
    **dict.fromkeys(("text_column", "label_column", "rating_column")),
    "text_dev_share": 0.2,
    "dev_share": 0.1,
    "test_share": 0.2,
    "split_seed": 0,
    "max_length": 32,
}
GOOD = b"text,label\na fine film,pos\ndull,neg\n"


def load(path: Path | str, cache: Path | None = None, **changes: object) -> list[tuple[str, str]]:
    """Texts and label names of train read from `path`; dev and test are a good file unless `changes` say."""
    beside = Path(path).parent
    (beside / "good.csv").write_bytes(GOOD)
    good = dict.fromkeys(("dev", "test"), str(beside / "good.csv"))
    corpus = load_files(FilesData(**{**SETTINGS, **good, "train": str(path), **changes}), cache)
    rows = corpus.labelled["train"]
    return [(text, corpus.label_names[label]) for text, label in zip(rows["text"], rows["label"], strict=True)]


def parquet(**columns: object) -> bytes:
    return parquet_of(pyarrow.table(columns))


def parquet_of(table: pyarrow.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


def classes(*ids: int | None) -> bytes:
    """A Parquet file as `datasets` writes it, with class ids."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    schema = features.arrow_schema
    return parquet_of(pyarrow.table({"text": [f"text {n}" for n in range(len(ids))], "label": ids}, schema=schema))


def sheet(*rows: list[object], beside: str | None = None) -> bytes:
    workbook, sink = openpyxl.Workbook(), io.BytesIO()
    if beside is not None:
        workbook.create_sheet(beside)
    for row in rows:
        workbook.active.append(row)
    workbook.save(sink)
    return sink.getvalue()


def charted(drawn: bool) -> bytes:
    """A workbook whose first sheet is a chart, and the second `ROWS`."""
    workbook, sink = openpyxl.Workbook(), io.BytesIO()
    for row in ROWS:
        workbook.active.append(row)
    chart = workbook.create_chartsheet("chart", 0)
    if drawn:
        chart.add_chart(BarChart())
    workbook.save(sink)
    return sink.getvalue()


def blank_formulas(count: int) -> bytes:
    """A sheet of `ROWS` below which Excel computed so many empty texts."""
    content, sink = io.BytesIO(sheet(*ROWS, *(['=""', '=""'] for _ in range(count)))), io.BytesIO()
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, re.sub(rb"<c ([^>]*)><f>", rb'<c \1 t="str"><f>', part) if "sheet1" in name else part)
    return sink.getvalue()


def zipped(**parts: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


TWO = [("a fine film", "pos"), ("dull", "neg")]
HALF_PAIR = b'{"text": "a", "label": "\\ud800"}\n'
ROWS = [["text", "label"], ["a fine film", "pos"], ["dull", "neg"]]
TOLD: dict[str, tuple[str, bytes | None, str]] = {
    # no such file, or nothing in it
    "a missing file": ("absent.csv", None, "cannot be read: No such file"),
    "a name beyond all length": (300 * "x" + ".csv", None, "cannot be read: File name too long"),
    "a pattern that fits nothing": ("absent*.csv", None, "no file has such a name"),
    "an empty file": ("empty.csv", b"", "holds no rows"),
    "an empty JSON file": ("empty.json", b"", "holds no rows"),
    "an empty list": ("empty.json", b"[]", "holds no rows"),
    "an empty Parquet file": ("empty.parquet", b"", "not a whole .parquet file"),
    "an empty Excel file": ("empty.xlsx", b"", "not a whole .xlsx file"),
    "an empty gzip file": ("empty.csv.gz", b"", "holds no rows"),
    "a header only": ("header.csv", b"text,label\n", "holds no rows"),
    "a Parquet file without rows": ("none.parquet", parquet(text=[], label=[]), "holds no rows"),
    "a sheet without rows": ("none.xlsx", sheet(["text", "label"]), "holds no rows"),
    "an unknown kind": (
        "table.xls",
        b"x",
        "files end in .txt, .csv, .tsv, .tab, .jsonl, .ndjson, .json, .parquet, .xlsx; text and",
    ),
    "a pickle": ("table.pkl", b"x", "files end in .txt, .csv"),
    "an unknown compression": ("table.csv.bz2", b"x", "files end in .txt, .csv"),
    "text where labels are needed": (
        "texts.txt",
        b"a\nb\n",
        "has no column label (data.label_column): .txt files hold",
    ),
    "a table by tabs that is called text": (
        "table.txt",
        b"a fine film\tpos\ndull\tneg\n",
        ".txt files hold text only; with tabs between columns, name it .tsv (data.header=false data.text_column=1",
    ),
    # damage
    "a truncated gzip file": ("cut.csv.gz", gzip.compress(GOOD)[:-12], "not a whole .gz file (Compressed file ended"),
    "a gzip file with a flipped bit": (
        "flipped.csv.gz",
        gzip.compress(GOOD)[:-8] + bytes(4) + gzip.compress(GOOD)[-4:],
        "not a whole .gz file (CRC check failed",
    ),
    "a gzip file that is none": ("plain.csv.gz", GOOD, "not a whole .gz file (Not a gzipped file"),
    "a zstd file that is none": ("plain.csv.zst", GOOD, "not a whole .zst file"),
    "a truncated zstd file": ("cut.csv.zst", zstd(GOOD * 100)[:-8], "not a whole .zst file"),
    "a truncated Parquet file": ("cut.parquet", parquet(text=["a"], label=["b"])[:-20], "not a whole .parquet file"),
    "a Parquet file that is none": ("plain.parquet", GOOD, "not a whole .parquet file"),
    "a compressed Parquet file": ("packed.parquet.gz", gzip.compress(b"x"), "a .parquet file is compressed inside"),
    "a truncated Excel file": ("cut.xlsx", sheet(*ROWS)[:-100], "not a whole .xlsx file"),
    "a zip that is no workbook": ("other.xlsx", zipped(**{"a.txt": b"x"}), "not a whole .xlsx file"),
    "a workbook of broken XML": ("xml.xlsx", zipped(**{"[Content_Types].xml": b"<"}), "not a whole .xlsx file"),
    "a sheet that is an empty chart": (
        "chart.xlsx",
        charted(drawn=False),
        "one of its sheets is an empty chart; delete",
    ),
    # encodings
    "Latin-1": (
        "latin.csv",
        b"text,label\n\xe9t\xe9,1\n",
        "line 2: not UTF-8 (byte 0xe9 at 11); it seems to be cp1252",
    ),
    "Latin-1 in gzip": (
        "latin.csv.gz",
        gzip.compress(b"text,label\n\xe9t\xe9,1\n"),
        "latin.csv.gz | iconv -f cp1252 -t utf-8 > utf8.csv",
    ),
    "UTF-16 without a mark": (
        "le.csv",
        "text,label\n".encode("utf-16le"),
        "seems to be utf-16le; convert it: iconv -f utf-16le -t utf-8",
    ),
    "UTF-16 of the other order without a mark": (
        "be.csv",
        "text,l\u00e9\n".encode("utf-16be"),
        "seems to be utf-16be; convert it: iconv -f utf-16be",
    ),
    "UTF-16 that is cut": (
        "cut.csv",
        "text,label\na,1\n".encode("utf-16")[:-1],
        "it begins as utf-16-le does, but is not",
    ),
    "a quote closed too soon below a line that names the separator": (
        "sep.csv",
        b'sep=;\ntext;label\n"a" b;neg\n',
        "sep.csv, line 3: not a table that can be read",
    ),
    "a stray NUL byte": (
        "stray.csv",
        b"text,label\na\0,1\n",
        "stray.csv, line 2: it holds NUL bytes; is it a text file? If so, take them out (tr -d",
    ),
    "a hundred NUL bytes": ("nul.csv", bytes(100), "nul.csv, line 1: it holds NUL bytes"),
    "half of a surrogate pair": ("half.jsonl", HALF_PAIR, "line 1: label holds \\ud800, half of a sign"),
    "half of a surrogate pair in a list": (
        "half.json",
        b"[" + HALF_PAIR + b"]",
        "half.json, object 1: label holds \\ud800, half of a sign",
    ),
    "bytes of Latin-1 as a Parquet text": (
        "latin.parquet",
        parquet_of(
            pyarrow.table(
                {"text": pyarrow.array([b"\xe9"]).view(pyarrow.string()), "label": pyarrow.array(["a"])},
            )
        ),
        "row 1: text holds bytes that are not UTF-8",
    ),
    # rows of tables
    "a row that is too short": (
        "ragged.csv",
        b"text,label\nx\n",
        "1 label empty (row 1); fill",
    ),
    "a row that is too long": (
        "more.csv",
        b"text,label\nx,1\na,b,c,1\n",
        "row 2: 4 fields, and the header has 2; quote texts that hold commas",
    ),
    "a TSV row that is too long": (
        "more.tsv",
        b"text\tlabel\na\tb\t1\n",
        "row 1: 3 fields, and the header has 2; texts cannot hold tabs",
    ),
    "a quote left open": (
        "open.csv",
        b'text,label\na,1\n"b,1\nc,1\nd,2\n',
        "line 3: not a table that can be read (unexpected end of data); is a quote in this row left open?",
    ),
    "quotes escaped by backslashes": (
        "escaped.csv",
        b'text,label\na,1\n"he said \\"hi\\" to me",1\n',
        "line 3: not a table that can be read (',' expected after '\"'); a quote within a quoted text is written twice",
    ),
    "a quote left open in the header": ("header.csv", b'"text,label\na,1\n', "line 1: not a table"),
    "a quote closed too soon": ("soon.csv", b'text,label\n"a" b,neg\n', "line 2: not a table that can be read"),
    "a quoted TSV with a quote left open": ("open.tsv", b'"text"\t"label"\n"a\t1\n', "line 2: not a table"),
    "a row of semicolons that is too long": (
        "more.csv",
        b"text;label\na;b;1\n",
        "row 1: 3 fields, and the header has 2; quote texts that hold ';'",
    ),
    "bars in some rows of a CSV": (
        "bars.csv",
        b"text|label\na|1\nb\n",
        "it seems to be separated by '|', and .csv files are by commas",
    ),
    "tabs in some rows of a packed CSV": (
        "tabs.csv.gz",
        gzip.compress(b"text\tlabel\na\t1\nb\n"),
        "it seems to be separated by tabs, and .csv files are by commas",
    ),
    "commas in a TSV": ("commas.tsv", b"text,label\na,1\n", "it seems to be separated by commas"),
    # columns
    "no column of a known name": (
        "column.csv",
        b"words,label\nx,1\n",
        "no column text; it has words, label in its first line, which holds the names (if it is data, data.header=",
    ),
    "no label of a known name": ("column.jsonl", b'{"text": "x", "labl": 1}\n', "no column label (did you mean labl?)"),
    "a column twice": ("twice.csv", b"text,label,text\na,1,b\n", "row 1: text stands twice in the header; a column"),
    "a column of a sheet twice": (
        "twice.xlsx",
        sheet(["text", "label", "text"], [1, 2, 3]),
        "row 2 of the sheet: text stands twice in the header",
    ),
    "a column of a Parquet file twice": (
        "twice.parquet",
        parquet_of(pyarrow.Table.from_arrays([["a"], ["b"], ["c"]], names=["text", "label", "text"])),
        "row 1: text stands twice in the header",
    ),
    "two columns that may be the text": (
        "which.csv",
        b"review,comment,label\na,b,1\n",
        "review, comment may each be the text; name one with data.text_column=",
    ),
    "two columns that may be the label": (
        "which.csv",
        b"text,stars,sentiment\na,b,1\n",
        "stars, sentiment may each be the label; name one with data.label_column=",
    ),
    "two columns that end in a common name": (
        "which.csv",
        b"first_review,second_review,label\na,b,1\n",
        "first_review, second_review may each be the text; name one with data.text_column=",
    ),
    # JSON
    "an object of two lists": (
        "two.json",
        b'{"a": [{"text": "a"}], "b": [{"text": "b"}]}',
        '[{"text": ..., "label": ...}, ...] (it holds several: a, b)',
    ),
    "lists of other lengths": ("odd.json", b'{"text": ["a", "b"], "label": [1]}', "a list of objects is wanted, [{"),
    "a number in place of rows": ("number.json", b"7", "a list of objects is wanted, [{"),
    "broken JSON": ("broken.jsonl", b"{\n", "line 1: not JSON that can be read"),
    "a broken list": ("broken.json", b'[{"text": "a"},', "not JSON that can be read"),
    "a list in a line": ("list.jsonl", b"[1]\n", "line 1: not a JSON object"),
    "a number in a list": ("number.json", b'[{"text": "a", "label": 1}, 2]', "object 2: not a JSON object"),
    "a number beyond all measure": (
        "digits.jsonl",
        b'\n{"text": "a", "label": ' + b"1" * 5000 + b"}\n",
        "line 2: not JSON that can be read (Exceeds the limit (4300 digits) for integer string conversion: value has",
    ),
    "brackets beyond all depth": ("deep.jsonl", b"[" * 100_000, "line 1: not JSON that can be read (maximum recursion"),
    "a text that is a list": (
        "texts.jsonl",
        b'\n{"text": ["a"], "label": 1}\n',
        "line 2: text is a JSON list; a text, a number or true/false is allowed",
    ),
    "a label that is an object": (
        "labels.jsonl",
        b'{"text": "a", "label": {"b": 1}}\n',
        "line 1: label is a JSON object",
    ),
    "a row that lacks the label": (
        "some.jsonl",
        b'{"text": "b"}\n{"text": "a", "label": 1}\n',
        "1 label empty (line 1); fill",
    ),
    "a row that lacks the label, of another suffix": (
        "some.ndjson",
        b'{"text": "b"}\n{"text": "a", "label": 1}\n',
        "1 label empty (line 1); fill",
    ),
    "an empty object before rows": (
        "first.jsonl",
        b'{}\n{"text": "a", "label": 1}\n{}\n{"text": "b", "label": 2}\n',
        "2 texts empty (lines 1, 3); fill them in",
    ),
    "empty objects alone": ("objects.json", b'{"data": [{}, {}]}', "2 texts empty (objects 1, 2); fill them in"),
    "Parquet with a damaged note of datasets": (
        "note.parquet",
        parquet_of(
            pyarrow.table(
                {"text": ["a"], "label": [1]},
                schema=pyarrow.schema(
                    {"text": pyarrow.string(), "label": pyarrow.int64()},
                    metadata={"huggingface": '{"info": {"features": {"label": {"names": ["bad"]}}}}'},
                ),
            )
        ),
        "not a whole .parquet file (what datasets noted of its columns cannot be read",
    ),
    "Parquet texts that are lists": ("lists.parquet", parquet(text=[["a"]], label=[1]), "row 1: text is a list"),
    "Parquet texts that are bytes": ("bytes.parquet", parquet(text=[b"a"], label=[1]), "row 1: text is a bytes"),
    # labels
    "labels that differ in case": (
        "case.csv",
        b"text,label\nx,Good\ny,good\nz,bad\n",
        "labels 'Good' (row 1), 'good' (row 2) differ in upper and lower case only; write those of a class alike",
    ),
    "one class": ("one.csv", b"text,label\nx,1\ny,1\n", "all 2 labels are '1', the first in row 1; a classifier"),
    "empty texts and labels": (
        "blank.csv",
        b"text,label\nx,neg\n ,pos\ny,\n,neg\n",
        "2 texts empty (rows 2, 4); fill them in",
    ),
    "NaN as a label": ("nan.csv", b"text,label\na,1\nb,nan\nc,0\n", "1 label empty (row 2)"),
    "what programs write in place of a label": (
        "missing.csv",
        b"text,label\na,N/A\nb,n/a\nc,NA\nd,NULL\ne,None\nf,none\ng,0\n",
        "data.empty=drop leave the rows out (N/A, n/a, NA, NULL, None as a label counts as empty; a class needs",
    ),
    "NaN as a JSON label": ("nan.jsonl", b'{"text": "a", "label": NaN}\n', "1 label empty (line 1)"),
    "null as a JSON label": ("null.jsonl", b'{"text": "a", "label": null}\n', "1 label empty (line 1)"),
    "NaN as a Parquet label": (
        "nan.parquet",
        parquet(text=["a", "b"], label=[1.0, float("nan")]),
        "1 label empty (row 2)",
    ),
    "null as a Parquet text": ("null.parquet", parquet(text=["a", None], label=[1, 2]), "1 text empty (row 2)"),
    "a scale in place of classes": (
        "scale.csv",
        b"text,label\n" + b"".join(b"a,0.%d\n" % n for n in range(100, 140)),
        "40 different labels in 40 rows (0.100, 0.101, 0.102, 0.103, 0.104 and 35 more), but many texts share a class",
    ),
    "a scale of many texts in place of classes": (
        "scores.csv",
        b"text,label\n" + b"".join(b"text %d,%.1f\n" % (n, n % 21 / 10) for n in range(100)),
        "the labels are 21 different numbers (0, 0.1, 0.2, 0.3, 0.4 and 16 more), a scale and not classes; round",
    ),
    "labels that are hidden": ("hidden.parquet", classes(0, 1, -1), "row 3: the label in label is hidden (-1)"),
    "a class id without a name": (
        "beyond.parquet",
        classes(0, 1, 7),
        "row 3: label is class 7, and the file names the 2",
    ),
    # sheets
    "a formula without a saved value": (
        "formula.xlsx",
        sheet(*ROWS, ['=A1&"x"', "pos"]),
        "row 4 of the sheet: text is a formula without a saved value; open the file in Excel or LibreOffice",
    ),
    "formulas alone without saved values": (
        "formulas.xlsx",
        sheet(ROWS[0], ["=A1", "=B1"]),
        "row 2 of the sheet: text is a formula without a saved value",
    ),
    "empty cells": (
        "blank.xlsx",
        sheet([], *ROWS, [None, "pos"], [None, "neg"]),
        "2 texts empty (rows 5, 6 of the sheet)",
    ),
    "data on the second sheet": (
        "second.xlsx",
        sheet(["about", "this"], ["a", "b"], beside="reviews"),
        "only the first sheet, Sheet, is read, and there are also reviews",
    ),
    "an empty first sheet": (
        "second.xlsx",
        sheet(beside="reviews"),
        "holds no rows; only the first sheet, Sheet, is read, and there are also reviews",
    ),
    "an error in a cell": (
        "error.xlsx",
        sheet(*ROWS, ["#N/A", "pos"]),
        "row 4 of the sheet: text holds the error #N/A; mend it",
    ),
}
READ: dict[str, tuple[str, bytes, list[tuple[str, str]]]] = {
    "a byte order mark": ("bom.csv", b"\xef\xbb\xbf" + GOOD, TWO),
    "UTF-16 with a mark": ("utf16.csv", GOOD.decode().encode("utf-16"), TWO),
    "UTF-16 of the other order with a mark": ("be.csv", b"\xfe\xff" + GOOD.decode().encode("utf-16be"), TWO),
    "UTF-32 with a mark": ("utf32.csv", GOOD.decode().encode("utf-32"), TWO),
    "line ends of Windows": ("windows.csv", GOOD.replace(b"\n", b"\r\n"), TWO),
    "line ends of old Macs": ("mac.csv", GOOD.replace(b"\n", b"\r"), TWO),
    "mixed line ends": ("mixed.csv", b"text,label\r\na fine film,pos\rdull,neg\n", TWO),
    "no line end at the end": ("end.csv", GOOD.rstrip(), TWO),
    "empty lines": ("lines.csv", b"\n\ntext,label\n\na fine film,pos\n\ndull,neg\n\n", TWO),
    "a suffix in capitals": ("GOOD.CSV.GZ", gzip.compress(GOOD), TWO),
    "two gzip files in one": ("two.csv.gz", gzip.compress(GOOD[:20]) + gzip.compress(GOOD[20:]), TWO),
    "zstd": ("good.csv.zst", zstd(GOOD), TWO),
    "JSONL in gzip": ("good.jsonl.gz", gzip.compress(b'{"text": "a", "label": 1}\n{"text": "b", "label": 2}'), None),
    "a list of objects": (
        "good.json",
        json.dumps([dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]).encode(),
        TWO,
    ),
    "JSONL that is called JSON": ("lines.json", b'{"text": "a", "label": 1}\n{"text": "b", "label": 2}', None),
    "an object that holds the list": (
        "data.json",
        json.dumps({"count": 2, "data": [{"text": "a", "label": 1}, {"text": "b", "label": 2}]}, indent=2).encode(),
        None,
    ),
    "lists by column": ("lists.json", b'{"text": ["a", "b"], "label": [1, 2]}', None),
    "objects by column, as pandas writes them": (
        "pandas.json",
        json.dumps({"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 2}}, indent=1).encode(),
        None,
    ),
    "semicolons": ("european.csv", b'text;label\n"a;, b";1\nb;2\n', [("a;, b", "1"), ("b", "2")]),
    "bars": ("bars.csv", GOOD.replace(b",", b"|"), TWO),
    "tabs": ("tabs.csv", GOOD.replace(b",", b"\t"), TWO),
    "half of a sign in a column that nobody reads": (
        "tweets.jsonl",
        b'{"user": "\\ud83d", "text": "a", "label": 1}\n{"user": "b", "text": "b", "label": 2}\n',
        None,
    ),
    "line ends of Windows in a cell": (
        "lines.xlsx",
        sheet(["text", "label"], ["a_x000D_\nb_x000D_c", "x"], ["d", "y"]),
        [("a\nb\nc", "x"), ("d", "y")],
    ),
    "tabs by their own suffix": ("good.tab", GOOD.replace(b",", b"\t"), TWO),
    "columns that end in common names": ("tweets.csv", b"airline_sentiment,review_content\n1,a\n2,b\n", None),
    "columns of common names in the plural": ("plural.csv", b"Comments,Ratings\na,1\nb,2\n", None),
    "a label beside a constant": ("constant.csv", b"feedback,class,stars\na,x,1\nb,x,2\n", None),
    "Parquet": ("good.parquet", parquet(text=["a fine film", "dull"], label=["pos", "neg"]), TWO),
    "a column that cannot be read beside others": (
        "dates.parquet",
        parquet(
            text=["a", "b"],
            label=[1, 2],
            when=pyarrow.array([2**62, 0], pyarrow.timestamp("us", "UTC")),
            latin=pyarrow.array([b"\xe9", b""]).view(pyarrow.string()),
            vector=[[0.5], []],
        ),
        None,
    ),
    "other columns of one name": ("twice.csv", b"text,notes,label,notes\na,,1,\nb,x,2,y\n", None),
    "other columns of one name in Parquet": (
        "twice.parquet",
        parquet_of(pyarrow.Table.from_arrays([["a", "b"], [1, 2], [1, 2], [3, 4]], names=["text", "label", "n", "n"])),
        None,
    ),
    "an error in another column of a sheet": (
        "price.xlsx",
        sheet(["text", "label", "price", "price"], ["a", 1, "#N/A"], ["b", 2, 3.5]),
        None,
    ),
    "decimals in Parquet": (
        "decimals.parquet",
        parquet(text=["a", "b"], label=[Decimal("1.00"), Decimal("2.50")]),
        [("a", "1"), ("b", "2.5")],
    ),
    "names of classes in Parquet": ("names.parquet", classes(1, 0), [("text 0", "good"), ("text 1", "bad")]),
    "formulas whose saved value is empty": ("blank.xlsx", blank_formulas(3), TWO),
    "a sheet": ("good.xlsx", sheet([], *ROWS), TWO),
    "a chart before the sheet": ("chart.xlsx", charted(drawn=True), TWO),
    "a sheet with a title": ("titled.xlsx", sheet(["Reviews of May"], [], [None, "by us"], *ROWS), TWO),
    "numbers in a sheet": ("numbers.xlsx", sheet(ROWS[0], [7, 1], [8.5, 2.0]), [("7", "1"), ("8.5", "2")]),
    "a quoted TSV": ("quoted.tsv", b'text\tlabel\n"a ""b""\tc\nd"\tpos\ndull\tneg\n', [('a "b"\tc\nd', "pos"), TWO[1]]),
    "a TSV with quotes in texts": ("plain.tsv", b'text\tlabel\n"a" b\tpos\ndull\tneg\n', [('"a" b', "pos"), TWO[1]]),
    "a TSV whose quotes take two rows together": (
        "two.tsv",
        b'text\tlabel\n"open at the start\tpos\nend of it"\tneg\n',
        [('"open at the start', "pos"), ('end of it"', "neg")],
    ),
    "a line that names the separator": (
        "sep.csv",
        b"sep=;\ntext;label\ngood, fun;pos\ndull;neg\n",
        [("good, fun", "pos"), TWO[1]],
    ),
    "a text that holds such a line": (
        "inner.csv",
        b'text,label\n"a\nsep=;\nb",pos\ndull,neg\n',
        [("a\nsep=;\nb", "pos"), TWO[1]],
    ),
    "a semicolon file with a comma in its header": (
        "semicolons.csv",
        b'"text";"label";"a, b"\ngood;pos;1\ndull;neg;2\n',
        [("good", "pos"), TWO[1]],
    ),
    "blanks before quotes": (
        "blanks.csv",
        b'text, label\n"good, fun", "pos"\n"dull", "neg"\n',
        [("good, fun", "pos"), TWO[1]],
    ),
    "truth in capitals": ("truth.csv", b"text,label\na,TRUE\nb,False\n", [("a", "true"), ("b", "false")]),
    "Chinese names of columns": ("zh.csv", "评论,标签\na,好\nb,坏\n".encode(), [("a", "好"), ("b", "坏")]),
    "newline-delimited JSON": (
        "rows.ndjson",
        b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n',
        [("a", "x"), ("b", "y")],
    ),
    "empty fields after the last column": (
        "trailing.csv",
        b"text,label\na fine film,pos,,\ndull,neg,\n",
        TWO,
    ),
    "empty fields after the last column of all rows": ("trailing.csv", b"text,label,,\na,1,,\nb,2,,\n", None),
    "line breaks in quotes": ("breaks.csv", b'text,label\n"a\nb",pos\ndull,neg\n', [("a\nb", "pos"), TWO[1]]),
    "floats that are whole numbers": ("floats.csv", b"text,label\na,1.0\nb,2.0\n", [("a", "1"), ("b", "2")]),
    "half stars": ("halves.csv", b"text,label\na,0.5\nb,1.5\n", [("a", "0.5"), ("b", "1.5")]),
    "a common name in capitals": ("names.csv", b"Review,Stars\na,1\nb,2\n", [("a", "1"), ("b", "2")]),
    "the plain name beside common ones": ("names.csv", b"text,review,stars,label\na,x,9,1\nb,y,9,2\n", None),
    "emoji and right-to-left text": (
        "signs.csv",
        "text,label\n\U0001f600\u200d\U0001f525,pos\n\u05e9\u05dc\u05d5\u05dd \u200fabc,neg\n".encode(),
        [("\U0001f600\u200d\U0001f525", "pos"), ("\u05e9\u05dc\u05d5\u05dd \u200fabc", "neg")],
    ),
    "a whole surrogate pair": (
        "pair.jsonl",
        b'{"text": "\\ud83d\\ude00", "label": 1}\n{"text": "b", "label": 2}\n',
        [("\U0001f600", "1"), ("b", "2")],
    ),
    "a line of 10 MB": (
        "long.csv",
        b"text,label\n" + 10_000_000 * b"x" + b",1\nb,2\n",
        [(10_000_000 * "x", "1"), ("b", "2")],
    ),
}
A_AND_B = [("a", "1"), ("b", "2")]


@pytest.mark.parametrize("case", TOLD)
def test_what_cannot_be_read_is_told_and_leaves_nothing(tmp_path, case):
    name, content, message = TOLD[case]
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as error:
        load(file, tmp_path / "cache", dev=None, test=None)
    assert any(str(file) in told and message in told for told in error.value.messages), str(error.value)
    assert "".join(error.value.messages).isprintable()
    assert len(list((tmp_path / "cache").rglob("*.draft"))) == 0
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == (
        case
        in (
            "one class",
            "a scale in place of classes",
            "a scale of many texts in place of classes",
            "labels that differ in case",
        )
    )


@pytest.mark.parametrize("case", READ)
def test_what_a_person_expects_to_be_read_is(tmp_path, case):
    name, content, expected = READ[case]
    file = tmp_path / name
    file.write_bytes(content)
    found = [*load_own(file, tmp_path / "cache")]
    assert found == (expected or A_AND_B)
    assert load_own(file, tmp_path / "cache") == found  # from the cache
    assert len(list((tmp_path / "cache/rows").iterdir())) == 1


def load_own(file: Path, cache: Path) -> list[tuple[str, str]]:
    """As `load`, with the file itself as dev and test."""
    return load(file, cache, dev=str(file), test=str(file))


Broken = Callable[[Path], object]
PLACES: dict[str, tuple[Broken, str]] = {
    "a pipe": (lambda place: os.mkfifo(place / "x.csv"), "cannot be read: it is a pipe or device"),
    "an empty folder": (lambda place: (place / "x.csv").mkdir(), "is a folder without files that can be read"),
    "a link to itself": (lambda place: (place / "x.csv").symlink_to("x.csv"), "cannot be read: Too many levels"),
    "a file that fails when it is read": (
        lambda place: (place / "x.csv").symlink_to("/proc/self/mem"),
        "cannot be read: Input/output error",
    ),
    "a broken saved data set": (
        lambda place: save(place / "x.csv").joinpath("state.json").write_text("{"),
        "not a whole data set of save_to_disk",
    ),
    "a saved data set without its table": (
        lambda place: [file.unlink() for file in save(place / "x.csv").glob("*.arrow")],
        "not a whole data set of save_to_disk",
    ),
    "a saved data set with a text that lies beyond its end": (
        lambda place: far_text(save(place / "x.csv")),
        "its rows cannot be read",
    ),
    "a saved data set without the columns": (
        lambda place: Dataset.from_dict({"foo": ["a"], "bar": [0]}).save_to_disk(str(place / "x.csv")),
        "it has foo, bar in its first line",
    ),
    "several splits without train": (
        lambda place: DatasetDict({"test": Dataset.from_dict({"text": ["a"]})}).save_to_disk(str(place / "x.csv")),
        "no split train; it has test",
    ),
}


def save(folder: Path) -> Path:
    Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).save_to_disk(str(folder))
    return folder


def far_text(folder: Path) -> None:
    """Have the first text end where nothing is."""
    (table,) = folder.glob("*.arrow")
    offsets = struct.pack("<3i", 0, 1, 2)  # of "a" and "b"
    assert table.read_bytes().count(offsets) == 1
    table.write_bytes(table.read_bytes().replace(offsets, struct.pack("<3i", 0, 2**30, 2)))


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_is_no_file_is_told(tmp_path, case):
    make, message = PLACES[case]
    make(tmp_path)
    with pytest.raises(UserError) as error:
        load(tmp_path / "x.csv", tmp_path / "cache")
    assert str(tmp_path / "x.csv") in str(error.value)
    assert message in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.draft"))


def test_a_column_that_nobody_reads_of_a_saved_data_set_may_be_anything(tmp_path):
    when = pyarrow.array([2**62, 0], pyarrow.timestamp("us"))
    columns = {"text": ["a", "b"], "label": [1, 2], "when": when, "vector": [[0.5], []]}
    Dataset(InMemoryTable(pyarrow.table(columns))).save_to_disk(str(tmp_path / "saved"))
    assert load_own(tmp_path / "saved", tmp_path / "cache") == A_AND_B


def test_a_file_that_one_may_not_read_is_told(tmp_path):
    """Root may read everything, so it becomes nobody for the moment of reading."""
    file = tmp_path / "secret.csv"
    file.write_bytes(GOOD)
    file.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            with pytest.raises(UserError, match="cannot be read: Permission denied"):
                list(read_rows(str(file)))
        finally:
            os.seteuid(0)
    else:
        with pytest.raises(UserError, match="cannot be read: Permission denied"):
            list(read_rows(str(file)))


def test_labels_of_other_splits_that_train_lacks_are_told(tmp_path):
    (tmp_path / "train.csv").write_bytes(GOOD)
    (tmp_path / "other.csv").write_bytes(b"text,label\nx,mixed\ny,pos\n")
    with pytest.raises(UserError) as error:
        load(tmp_path / "train.csv", test=str(tmp_path / "other.csv"), dev=str(tmp_path / "other.csv"))
    expected = (
        f"{tmp_path}/other.csv: label 'mixed' (first in row 1) not in {tmp_path}/train.csv; the classifier knows "
        "'neg', 'pos'; add texts of it to data.train, or leave these rows out"
    )
    assert error.value.messages == (expected, expected)


def test_what_unpacks_beyond_all_measure_is_told_early(tmp_path, monkeypatch):
    """A small file may unpack to more than memory holds."""
    monkeypatch.setattr("poolwise.data.reading.LONGEST_LINE", 1000)
    monkeypatch.setattr("poolwise.data.reading.LARGEST_WHOLE", 1000)
    bombs = {
        "line.txt.gz": (gzip.compress(b"short\n" + 10_000 * b"x"), "line 2: longer than 1,000 characters"),
        "list.json.gz": (gzip.compress(b"[" + 300 * b"\n123,\n" + b"1]"), "is larger than 1 MB; make it .jsonl"),
        "sheet.xlsx": (sheet(*ROWS), "is larger than 1 MB unpacked; save it as .csv"),
        "open.csv": (b'text,label\n"a' + 500 * b"\nb", "line 2: not a table that can be read (field larger than"),
    }
    for name, (content, message) in bombs.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            list(read_rows(str(tmp_path / name)))
        assert f"{tmp_path / name}" in str(error.value)
        assert message in str(error.value)


@pytest.fixture
def letters(tmp_path) -> Path:
    """A small encoder whose vocabulary is the letters a to z."""
    folder = tmp_path / "letters"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    return folder


def test_a_tokenizer_of_another_model_is_told(letters):
    assert len(load_tokenizer(str(letters))) == 31
    with (letters / "vocab.txt").open("a") as vocabulary:
        vocabulary.write("\nfilm\ngood")
    with pytest.raises(UserError, match="has word pieces up to number 32, and the model embeddings of 31; put the"):
        load_tokenizer(str(letters))


def test_texts_of_which_nothing_is_known_are_told(letters):
    tokenizer = load_tokenizer(str(letters))
    known, unknown = ["a", "b"], ["\u597d", "\u574f", "\u4e0d"]
    check_words(Dataset.from_dict({"text": known + unknown[:2]}), tokenizer, 32, "own")
    with pytest.raises(
        UserError, match="data=own: of 3 of the first 5 training texts the tokenizer knows no word piece"
    ):
        check_words(Dataset.from_dict({"text": known + unknown}), tokenizer, 32, "own")


def test_texts_longer_than_the_position_table_are_told():
    check_length(64, 64)
    with pytest.raises(UserError, match=r"data\.max_length=65: this encoder has 64 positions, so at most 64"):
        check_length(65, 64)


PIECES = st.sampled_from(
    ['"', ",", "\t", "\n", "\r", "\0", "{", "}", "[", "]", ":", "text", "label", "\ufeff", "é", "1"]
)
TEXT = st.lists(PIECES | st.text(max_size=3), max_size=20).map(lambda pieces: "".join(pieces))
BYTES = st.one_of(
    st.binary(max_size=60),
    TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.tuples(TEXT, st.sampled_from(["utf-16", "utf-32", "cp1252", "utf-16le"])).map(
        lambda pair: pair[0].encode(pair[1], "ignore")
    ),
    TEXT.map(lambda text: b"text,label\n" + text.encode("utf-8", "ignore")),
    TEXT.map(lambda text: b"text\tlabel\n" + text.encode("utf-8", "ignore")),
)
PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}
WHOLE = {
    ".txt": b"a fine film\n\xc3\xa9 dull\n",
    ".csv": GOOD + b'"a, ""quoted"" one",pos\n',
    ".tsv": b'text\tlabel\n"a fine film"\tpos\n"dull"\tneg\n',
    ".tab": b'text\tlabel\na "film\tpos\ndull\tneg\n',
    ".jsonl": b'{"text": "a fine film", "label": 1}\n{"text": "dull", "label": null}\n',
    ".ndjson": b'{"text": "a fine film", "label": true}\n',
    ".json": b'{"rows": [{"text": "a \\u00e9 film", "label": 1}, {"text": "dull", "label": [0]}]}',
}
DAMAGED = st.sampled_from(
    [
        (".parquet", parquet(text=["a", "b"], label=[1, 2])),
        (".parquet", classes(0, 1, -1)),
        (".xlsx", sheet(*ROWS)),
        *((kind + packed, pack(content)) for kind, content in WHOLE.items() for packed, pack in PACKERS.items()),
    ]
)


def fuzzed(examples: int) -> fuzz:
    return fuzz(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 1000,  # the same in each of CI's runs; others every time the slow tests run
        print_blob=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def any_text(tmp_path, content, kind):
    reads_or_tells(tmp_path / f"fuzz{kind}", content)


def any_damage(tmp_path, whole, data):
    """Bytes changed, and the end cut off."""
    suffix, content = whole
    reads_or_tells(tmp_path / f"fuzz{suffix}", damaged(content, data))


def damaged(content: bytes, data: st.DataObject) -> bytes:
    broken = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        broken[place] = data.draw(st.integers(0, 255))
    return bytes(broken[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])


def any_sheet(tmp_path, title, header, rows):
    """Cells of all kinds, as openpyxl writes them."""
    loads_whole(tmp_path / "fuzz.xlsx", sheet(*title, header, *rows))


def any_table(tmp_path, table):
    """Columns of all types, as Arrow writes them."""
    loads_whole(tmp_path / "fuzz.parquet", parquet_of(table))


def loads_whole(file: Path, content: bytes) -> None:
    """As `loads_or_tells`; none of what is told may be that the file is damaged."""
    file.write_bytes(content)
    assert not [told for told in loads_or_tells(file) if "not a whole" in told]


def any_broken_folder(tmp_path, data):
    """What `save_to_disk` wrote, one of its files damaged or a value in it another one."""
    files = saved_files()
    name = data.draw(st.sampled_from(sorted(files)))
    broken = damaged(files[name], data)
    if name.endswith(".json") and data.draw(st.booleans()):
        values = json.loads(files[name])
        broken = json.dumps(values | {data.draw(st.sampled_from(sorted(values))): data.draw(VALUES)}).encode()
    folder = Path(tempfile.mkdtemp(dir=tmp_path))  # what is mapped into memory is not written to
    for each, content in files.items():
        (folder / each).write_bytes(broken if each == name else content)
    loads_or_tells(folder, tmp_path / "cache")


@cache
def saved_files() -> dict[str, bytes]:
    """The files of a saved data set, by name."""
    columns = {"text": ["a", "bcd", "e"], "label": [0, 1, 0], "when": [datetime(2026, 1, 2)] * 3, "parts": [["f"]] * 3}
    kinds = {"text": Value("string"), "label": ClassLabel(names=["bad", "good"]), "when": Value("timestamp[us]")}
    rows = Dataset.from_dict(columns, Features({**kinds, "parts": List(Value("string"))}))
    with tempfile.TemporaryDirectory() as folder:
        rows.save_to_disk(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def any_rows(tmp_path, rows, form):
    """JSON objects of any keys and values, as rows are written."""
    kind, written = form
    (tmp_path / f"fuzz{kind}").write_text(written(rows))
    loads_or_tells(tmp_path / f"fuzz{kind}")


def reads_or_tells(file: Path, content: bytes) -> None:
    """The file is read to its end, or a UserError names it; nothing else is raised."""
    file.write_bytes(content)
    try:
        for _, row in read_rows(str(file)):
            assert all(isinstance(name, str) for name in row)
    except UserError as error:
        assert str(file) in str(error)  # noqa: PT017


def any_text_loaded(tmp_path, content, kind):
    any_text(tmp_path, content, kind)
    loads_or_tells(tmp_path / f"fuzz{kind}")


def any_damage_loaded(tmp_path, whole, data):
    any_damage(tmp_path, whole, data)
    loads_or_tells(tmp_path / f"fuzz{whole[0]}")


HEADLESS = {"header": False, "text_column": "1", "label_column": "2", "text_per": "file", "near_copies": True}
STREAMED = {"streaming": True, "shuffle_buffer": 2}


def loads_or_tells(file: Path, cache: Path | None = None) -> list[str]:
    """A corpus is made of the file, of texts and of labelled rows, or a UserError raised; what these say."""
    told: list[str] = []
    for wanted, changes in (*itertools.product(("text", "train"), ({}, HEADLESS)), ("text", STREAMED)):
        try:
            load_files(FilesData(**{**SETTINGS, **changes, wanted: str(file)}), cache)
        except UserError as error:
            told += error.messages
    return told


ANY_TEXT = st.text(st.characters(), max_size=4)
KEYS = st.sampled_from(["text", "label", "review", "stars"]) | ANY_TEXT
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(ANY_TEXT, inner, max_size=2),
    max_leaves=3,
)
JSON_ROWS = st.lists(
    st.dictionaries(KEYS, VALUES, max_size=3) | st.fixed_dictionaries({"text": ANY_TEXT, "label": st.integers(0, 2)}),
    max_size=8,
)
JSON_FORMS: list[tuple[str, Callable[[object], str]]] = [
    (".jsonl", lambda rows: "".join(f"{json.dumps(row)}\n" for row in rows)),
    (".json", json.dumps),
    (".json", lambda rows: json.dumps({"data": rows})),
    (".json", lambda rows: json.dumps({name: [row.get(name) for row in rows] for row in rows for name in row})),
]
PRINTED = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), max_size=4)
"""What a sheet may hold."""
NAMES = st.sampled_from(["text", "label", "review", "stars"]) | PRINTED
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SPECIAL = st.sampled_from(["=A1", '="a"&B1', "=1/0", "#N/A", "#DIV/0!", "a_x000D_\nb", "good", "bad"])
CELLS = (
    st.none() | st.booleans() | NUMBERS | st.dates() | st.datetimes() | st.times() | st.timedeltas() | PRINTED | SPECIAL
)
HEADERS = st.sampled_from([["text", "label"], ["label", None, "text"], ["text", "label", "text"]])
SHEETS = {
    "title": st.lists(st.lists(CELLS, max_size=1), max_size=2),
    "header": HEADERS | st.lists(NAMES, max_size=3),
    "rows": st.lists(st.lists(CELLS, max_size=4), max_size=6),
}
LONG = st.integers(-(2**63), 2**63 - 1)
TEXTS = [
    (pyarrow.string(), PRINTED | SPECIAL),
    (pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), PRINTED | SPECIAL),
]
COLUMNS = [
    *TEXTS,
    (pyarrow.decimal128(5, 2), st.decimals(-9, 9, places=2)),
    (pyarrow.int64(), LONG),
    (pyarrow.float64(), st.floats()),
    (pyarrow.float16(), st.floats(width=16)),
    (pyarrow.bool_(), st.booleans()),
    (pyarrow.time64("ns"), LONG),
    (pyarrow.date32(), st.integers(-(2**31), 2**31 - 1)),
    (pyarrow.timestamp("us"), LONG),
    (pyarrow.timestamp("ns", "UTC"), LONG),
    (pyarrow.duration("us"), LONG),
    (pyarrow.binary(), st.binary(max_size=3)),
    (pyarrow.list_(pyarrow.string()), st.lists(PRINTED, max_size=2)),
    (pyarrow.struct({"a": pyarrow.int8()}), st.fixed_dictionaries({"a": st.none()})),
    (pyarrow.map_(pyarrow.string(), pyarrow.int8()), st.lists(st.tuples(PRINTED, st.none()), max_size=2)),
    (pyarrow.null(), st.none()),
]


def columns(kinds: list[tuple[pyarrow.DataType, st.SearchStrategy]], rows: int) -> st.SearchStrategy:
    """Arrow columns of some types."""

    def of_kind(kind: tuple[pyarrow.DataType, st.SearchStrategy]) -> st.SearchStrategy:
        values = st.lists(st.none() | kind[1], min_size=rows, max_size=rows)
        return values.map(lambda found: pyarrow.array(found, kind[0]))

    return st.sampled_from(kinds).flatmap(of_kind)


@st.composite
def tables(draw):
    """Arrow tables: often a text, a label, and more."""
    rows = draw(st.integers(0, 4))
    named = [("text", draw(columns(TEXTS, rows) | columns(COLUMNS, rows))), ("label", draw(columns(COLUMNS, rows)))]
    named += draw(st.lists(st.tuples(NAMES, columns(COLUMNS, rows)), max_size=2))
    return pyarrow.Table.from_arrays([column for _, column in named], names=[name for name, _ in named])


ANY_KIND = [".parquet", ".xlsx", *(kind + packed for kind in WHOLE for packed in PACKERS)]
text_given = given(content=BYTES, kind=st.sampled_from(ANY_KIND))


def test_every_kind_of_file_is_fuzzed():
    assert {*WHOLE, ".parquet", ".xlsx"} == {*READERS}
    assert {*PACKERS} == {"", *COMPRESSIONS}


damage_given = given(whole=DAMAGED, data=st.data())
test_no_content_of_a_text_file_makes_a_reader_break = fuzzed(40)(text_given(any_text))
test_no_damage_makes_a_reader_break = fuzzed(60)(damage_given(any_damage))
rows_given = given(rows=JSON_ROWS, form=st.sampled_from(JSON_FORMS))
test_no_rows_of_json_make_a_reader_break = fuzzed(20)(rows_given(any_rows))
test_no_content_at_length = pytest.mark.slow(fuzzed(5000)(text_given(any_text_loaded)))
test_no_damage_at_length = pytest.mark.slow(fuzzed(5000)(damage_given(any_damage_loaded)))
test_no_rows_of_json_at_length = pytest.mark.slow(fuzzed(5000)(rows_given(any_rows)))
test_no_cells_of_a_sheet_make_a_reader_break = fuzzed(6)(given(**SHEETS)(any_sheet))
test_no_columns_of_parquet_make_a_reader_break = fuzzed(20)(given(table=tables())(any_table))
test_no_damage_to_a_saved_data_set_makes_a_reader_break = fuzzed(12)(given(data=st.data())(any_broken_folder))
test_no_cells_of_a_sheet_at_length = pytest.mark.slow(fuzzed(2000)(given(**SHEETS)(any_sheet)))
test_no_columns_of_parquet_at_length = pytest.mark.slow(fuzzed(2000)(given(table=tables())(any_table)))
test_no_damage_to_a_saved_data_set_at_length = pytest.mark.slow(fuzzed(2000)(given(data=st.data())(any_broken_folder)))
