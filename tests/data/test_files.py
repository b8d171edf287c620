import json
import os

import pytest

from poolwise.data.files import load_files
from poolwise.settings import FilesData, UserError

SETTINGS = {
    "source": "files",
    "name": "own",
    "text": None,
    "text_dev": None,
    "train": None,
    "dev": None,
    "test": None,
    "text_column": "text",
    "label_column": "label",
    "rating_column": None,
    "text_dev_share": 0.2,
    "max_length": 32,
}
ROWS = [("a fine film", "pos"), ("dull", "neg"), ('said "go", loudly', "pos")]


def settings(**changes) -> FilesData:
    return FilesData(**{**SETTINGS, **changes})


@pytest.fixture
def labelled(tmp_path):
    csv, tsv, jsonl = tmp_path / "train.csv", tmp_path / "dev.tsv", tmp_path / "test.jsonl"
    csv.write_text('text,label\na fine film,pos\ndull,neg\n"said ""go"", loudly",pos\n')
    tsv.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS))
    jsonl.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    return {"train": str(csv), "dev": str(tsv), "test": str(jsonl)}


def test_csv_tsv_and_jsonl_hold_the_same(labelled):
    corpus = load_files(settings(**labelled))
    assert corpus.label_names == ("neg", "pos")
    for split in ("train", "dev", "test"):
        assert list(corpus.labelled[split]["text"]) == [text for text, _ in ROWS]
        assert list(corpus.labelled[split]["label"]) == [1, 0, 1]
    assert list(corpus.text["train"]["text"]) == [text for text, _ in ROWS]
    assert list(corpus.text["dev"]["text"]) == [text for text, _ in ROWS]


def test_train_alone_is_read_by_both_stages(labelled):
    corpus = load_files(settings(train=labelled["train"]))
    assert list(corpus.labelled) == ["train"]
    found = [*corpus.text["train"]["text"], *corpus.text["dev"]["text"]]
    assert sorted(found) == sorted(text for text, _ in ROWS)
    with pytest.raises(UserError, match=r"needs three labelled files; not given: data\.test"):
        load_files(settings(train=labelled["train"], dev=labelled["dev"]))


def test_own_text_a_text_a_line(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffone\r\n\r\ntwo\nthree\nfour\nfive\n".encode())
    corpus = load_files(settings(text=str(file)))
    assert corpus.labelled == {}
    assert len(corpus.text["dev"]) == 2
    found = [*corpus.text["train"]["text"], *corpus.text["dev"]["text"]]
    assert sorted(found) == ["five", "four", "one", "three", "two"]


def test_dev_text_of_its_own(tmp_path, labelled):
    file = tmp_path / "dev.txt"
    file.write_text("held out\n")
    corpus = load_files(settings(**labelled, text=labelled["train"], text_dev=str(file)))
    assert list(corpus.text["dev"]["text"]) == ["held out"]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "absent.csv", "cannot be read: No such file"),
        (None, 300 * "x" + ".csv", "cannot be read: File name too long"),
        (b"", "empty.csv", "holds no rows"),
        (b"text,label\n", "header.csv", "holds no rows"),
        (b"body,label\nx,1\n", "column.csv", "no column text; it has body, label"),
        (b"text,label\nx\n", "ragged.csv", "row 1: no label; it has text, label"),
        (b"text,label\n\xe9t\xe9,1\n", "latin.csv", "line 2: not UTF-8 .byte 0xe9 at 11.; it seems to be cp1252"),
        (b"text,label\nx,1\ny,1\n", "one.csv", "all labels are '1'"),
        (b"{\n", "broken.jsonl", "line 1: not JSON"),
        (b"[1]\n", "list.jsonl", "line 1: not a JSON object"),
        (b'{"text": "a", "label": "\\ud800"}\n', "half.jsonl", "line 1: not JSON .*surrogates not allowed"),
        (b'\n{"text": "a", "label": ' + b"1" * 5000 + b"}\n", "digits.jsonl", r"line 2: not JSON .*5000 digits\)$"),
        (b"[" * 100_000, "deep.jsonl", "line 1: not JSON .*recursion"),
        (b'\n{"text": ["a"], "label": 1}\n', "texts.jsonl", "line 2: text is a JSON list; a text, a number"),
        (b'{"text": "a", "label": {"b": 1}}\n', "labels.jsonl", "line 1: label is a JSON object; a text"),
        (b"text,label\nx,1\na,b,c,1\n", "more.csv", "row 2: 4 fields, and the header has 2; quote texts that hold"),
        (b"text\tlabel\na\tb\t1\n", "more.tsv", "row 1: 3 fields, and the header has 2; texts cannot hold tabs"),
        (b"text,label,text\na,1,b\n", "twice.csv", "the header has text twice"),
        (
            b"text;label\na;1\n",
            "semicolon.csv",
            "no column text; it seems to be separated by ';', and .csv files are by",
        ),
        (b"text\tlabel\na\t1\n", "tabs.csv", "no column text; it seems to be separated by tabs"),
        (b"text,label\na,1\n", "commas.tsv", "no column text; it seems to be separated by commas"),
        ("text,label\n".encode("utf-16le"), "le.csv", "seems to be utf-16le; convert it: iconv -f utf-16le -t utf-8"),
        ("text,l\u00e9\n".encode("utf-16be"), "be.csv", "seems to be utf-16be; convert it: iconv -f utf-16be"),
        (b"text,label\na\0,1\n", "stray.csv", "holds NUL bytes: it is not a text file"),
        (bytes(100), "nul.csv", "holds NUL bytes: it is not a text file"),
        (b'text,label\na,1\n"b,1\nc,1\nd,2\n', "open.csv", "line 3: not a table .*is a quote in this row left open"),
        (b'"text,label\na,1\n', "header.csv", "line 1: not a table .*is a quote in this row left open"),
        (b"x", "table.xls", r"files end in \.csv, \.tsv or \.jsonl"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, labelled, content, name, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_files(settings(**{**labelled, "train": str(file)}))
    assert str(file) in str(error.value)
    assert "".join(error.value.messages).isprintable()


def test_a_folder_or_pipe_is_told_at_once(tmp_path, labelled):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError) as error:
        load_files(settings(**{**labelled, "dev": str(tmp_path), "train": str(tmp_path / "pipe.csv")}))
    assert error.value.messages == (
        f"{tmp_path}/pipe.csv cannot be read: it is a pipe or device",
        f"{tmp_path} cannot be read: it is a folder",
    )


def test_a_suffix_in_capitals_and_an_empty_setting(tmp_path):
    capitals = tmp_path / "TRAIN.CSV"
    capitals.write_text("\n\ntext,label\nx,1\n\ny,2\n")
    corpus = load_files(settings(train=str(capitals), dev=str(capitals), test=str(capitals), text="", text_dev="."))
    assert list(corpus.text["dev"]["text"]) == list(corpus.labelled["train"]["text"]) == ["x", "y"]
    with pytest.raises(UserError, match=r"not given: data\.dev"):
        load_files(settings(train=str(capitals), dev="", test=str(capitals)))


def test_labels_that_mean_the_same_are_one_class_in_all_files(tmp_path):
    jsonl, csv = tmp_path / "labels.jsonl", tmp_path / "labels.csv"
    jsonl.write_text("".join(f'{{"text": "a", "label": {label}}}\n' for label in ("1", "1.0", '"1 "', "true")))
    csv.write_text("text,label\nx, 1\ny,1.0\nz,true \n")
    corpus = load_files(settings(train=str(jsonl), dev=str(csv), test=str(csv)))
    assert corpus.label_names == ("1", "true")
    assert list(corpus.labelled["train"]["label"]) == [0, 0, 0, 1]
    assert list(corpus.labelled["dev"]["label"]) == [0, 0, 1]


def test_one_text_is_told_with_its_file(tmp_path):
    (tmp_path / "one.txt").write_text("a line\n")
    with pytest.raises(UserError, match=r"data\.text=.*one\.txt: 1 text; at least 2"):
        load_files(settings(text=str(tmp_path / "one.txt")))


def test_labels_that_train_lacks_are_told(tmp_path, labelled):
    file = tmp_path / "more.csv"
    file.write_text("text,label\nx,mixed\n")
    with pytest.raises(UserError, match=r"label 'mixed' not in .*; the classifier knows 'neg', 'pos'"):
        load_files(settings(**{**labelled, "test": str(file)}))


def test_what_is_wrong_with_several_files_is_told_together(tmp_path, labelled):
    (tmp_path / "blank.csv").write_text("text,label\nx,neg\n ,pos\ny,\n,neg\n")
    with pytest.raises(UserError) as error:
        load_files(settings(train=labelled["train"], dev=str(tmp_path / "blank.csv"), test="absent.csv", text="no.txt"))
    assert [message.removeprefix(f"{tmp_path}/") for message in error.value.messages] == [
        "blank.csv: 2 texts empty (rows 2, 4); fill them in or leave the rows out",
        "blank.csv: 1 label empty (row 3); fill them in or leave the rows out",
        "absent.csv cannot be read: No such file or directory",
        "no.txt cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "une très belle histoire, à voir"),
        ("gb18030", "这个酒店非常好。房间很大。服务态度也不错。"),
        ("cp1251", "это очень хороший фильм, мне понравилось"),
        ("utf-16", "a good film"),
    ],
)
def test_the_encoding_of_a_file_is_guessed_and_its_place_told(tmp_path, encoding, text):
    file = tmp_path / "texts.txt"
    file.write_bytes(
        ("a plain line\n" * 500).encode() + text.encode(encoding) if encoding != "utf-16" else text.encode(encoding)
    )
    with pytest.raises(UserError) as error:
        load_files(settings(text=str(file)))
    line = 1 if encoding == "utf-16" else 501
    assert f"{file}, line {line}: not UTF-8" in str(error.value)
    assert f"iconv -f {encoding} -t utf-8" in str(error.value)


def test_a_long_field_and_a_broken_quote(tmp_path, labelled):
    file = tmp_path / "long.csv"
    file.write_text("text,label\n" + 200_000 * "x" + ",neg\ny,pos\n")
    corpus = load_files(settings(**{**labelled, "train": str(file)}))
    assert len(corpus.labelled["train"][0]["text"]) == 200_000
    file.write_text('text,label\n"a" b,neg\n')
    with pytest.raises(UserError, match="line 2: not a table that can be read"):
        load_files(settings(**{**labelled, "train": str(file)}))


def test_splits_that_are_not_given_are_told(labelled):
    with pytest.raises(UserError, match=r"not given: data\.test"):
        load_files(settings(**{**labelled, "test": None}))
    with pytest.raises(UserError, match=r"needs data\.text"):
        load_files(settings())


def test_a_text_file_without_text_is_told(tmp_path):
    file = tmp_path / "blank.txt"
    file.write_text("\n  \n")
    with pytest.raises(UserError, match="holds no text"):
        load_files(settings(text=str(file)))
