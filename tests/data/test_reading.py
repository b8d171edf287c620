import os

import pytest

from poolwise.data import reading
from poolwise.data.reading import kind_of, read_lines, read_rows
from poolwise.settings import UserError


def test_rows_of_each_kind_are_the_same(tmp_path):
    contents = {
        "a.csv": 'text,label\n"one, two",1\n',
        "a.TSV": "text\tlabel\none, two\t1\n",
        "a.jsonl": '\n{"text": "one, two", "label": "1"}\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        assert [row for _, row in read_rows(str(tmp_path / name))] == [{"text": "one, two", "label": "1"}]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert list(read_lines(str(tmp_path / "a.txt"))) == ["one\r\n", "two"]


QUOTED = ['"a ""b""\tc"\tpos\n', '"two\nlines"\tneg\n']


@pytest.mark.parametrize("rows", [QUOTED, ["plain\tpos\n"], ['"open\tneg\n', 'end"\tpos\n']])
def test_a_stream_of_tabs_begins_before_all_of_it_is_read(tmp_path, monkeypatch, rows):
    """The start, which ends within a row, tells the same of quotes as the whole does."""
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(rows * 1_000))
    whole = list(read_rows(str(tmp_path / "a.tsv")))
    read = 0

    def counted(path):
        nonlocal read
        for line in read_lines(path):
            read += 1
            yield line

    monkeypatch.setattr(reading, "read_lines", counted)
    for looked_at in (100, 101, 105, 110, 117):
        monkeypatch.setattr(reading, "LOOKED_AT_OF_STREAM", looked_at)
        read = 0
        rows = read_rows(str(tmp_path / "a.tsv"), streaming=True)
        first = next(rows)
        assert read < 500
        assert [first, *rows] == whole


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name, words in {"pipe.csv": "pipe or device", "folder.csv": "folder"}.items():
        with pytest.raises(UserError, match=f"it is a {words}"):
            kind_of(str(tmp_path / name))
    assert kind_of(str(tmp_path / "absent.CSV")) == ".csv"
