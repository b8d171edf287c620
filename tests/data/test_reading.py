import os

import pytest

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


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name, words in {"pipe.csv": "pipe or device", "folder.csv": "folder"}.items():
        with pytest.raises(UserError, match=f"it is a {words}"):
            kind_of(str(tmp_path / name))
    assert kind_of(str(tmp_path / "absent.CSV")) == ".csv"
