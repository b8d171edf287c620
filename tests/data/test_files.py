import json

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


def test_own_text_a_text_a_line(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffone\r\n\r\ntwo\nthree\nfour\nfive\n".encode())
    corpus = load_files(settings(text=str(file)))
    assert corpus.labelled == {}
    assert len(corpus.text["dev"]) == 1
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
        (b"", "empty.csv", "holds no rows"),
        (b"text,label\n", "header.csv", "holds no rows"),
        (b"body,label\nx,1\n", "column.csv", "row 1: no column text; it has body, label"),
        (b"text,label\nx\n", "ragged.csv", "row 1: no column label"),
        (b"text,label\n\xe9t\xe9,1\n", "latin.csv", "is not UTF-8"),
        (b"text,label\nx,1\ny,1\n", "one.csv", "all labels are '1'"),
        (b"{\n", "broken.jsonl", "line 1: not JSON"),
        (b"[1]\n", "list.jsonl", "line 1: not a JSON object"),
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


def test_labels_that_train_lacks_are_told(tmp_path, labelled):
    file = tmp_path / "more.csv"
    file.write_text("text,label\nx,mixed\n")
    with pytest.raises(UserError, match="'mixed' do not occur in the training file; known: 'neg', 'pos'"):
        load_files(settings(**{**labelled, "test": str(file)}))


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
