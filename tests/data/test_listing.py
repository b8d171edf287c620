"""Texts to look at, and where they stand in their files."""

import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from poolwise.data.contamination import text_keys
from poolwise.data.files import load_files
from poolwise.data.listing import Doubtful, Row, beginning, doubtful, places_of
from poolwise.settings import FilesData

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})


def labelled(*rows: tuple[str, int]) -> Dataset:
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]}, FEATURES)


def files(**settings: object) -> FilesData:
    names = "text text_dev train dev test text_column label_column rating_column".split()
    shares = {"text_dev_share": 0.1, "dev_share": 0.2, "test_share": 0.2, "split_seed": 0}
    return FilesData(
        **(dict.fromkeys(names) | shares | {"source": "files", "name": "own", "max_length": 16} | settings)
    )


def test_each_kind_names_the_text_and_what_it_is_like():
    splits = {
        "train": labelled(("one", 0), ("two", 1), ("One!", 1), ("caf\ufffd", 0)),
        "test": labelled(("ONE", 0), ("six", 1)),
        "text": Dataset.from_dict({"text": ["x", "six", "x"]}),
    }
    keys = {split: text_keys(rows) for split, rows in splits.items()}
    near = {("test", "train"): {1: (3, 0.82)}}
    assert list(doubtful(splits, keys, near)) == [
        Doubtful("exact", Row("test", 0), Row("train", 0)),
        Doubtful("exact", Row("test", 1), Row("text", 1)),
        Doubtful("near", Row("test", 1), Row("train", 3), 0.82),
        Doubtful("conflicting", Row("train", 0), Row("train", 2)),
        Doubtful("conflicting", Row("train", 2), Row("train", 0)),
        Doubtful("conflicting", Row("test", 0), Row("train", 2)),
        Doubtful("repeated", Row("train", 2), Row("train", 0)),
        Doubtful("repeated", Row("text", 2), Row("text", 0)),
        Doubtful("wrongly decoded", Row("train", 3)),
    ]


def test_dev_texts_of_stage_1_are_looked_for_where_it_trains():
    splits = {
        "train": labelled(("one", 0), ("two", 1)),
        "text_dev": Dataset.from_dict({"text": ["six", "One"]}),
        "text": Dataset.from_dict({"text": ["x", "six"]}),
    }
    keys = {split: text_keys(rows) for split, rows in splits.items()}
    assert list(doubtful(splits, keys, {})) == [Doubtful("exact", Row("text_dev", 0), Row("text", 1))]
    del splits["text"]  # stage 1 reads train
    assert list(doubtful(splits, keys, {})) == [Doubtful("exact", Row("text_dev", 1), Row("train", 0))]


def test_rows_of_made_splits_are_found_in_the_file_that_they_are_of(tmp_path):
    lines = [{"review": f"film {n}", "stars": n % 2 + 1.0} for n in range(40)]
    lines += [{"review": "film 7", "stars": 1}, {"review": "film 7", "stars": 2}]
    path = tmp_path / "all.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    data = files(train=str(path))
    corpus = load_files(data)
    rows = {
        Row(split, number): (row["text"], corpus.label_names[row["label"]])
        for split, of in corpus.labelled.items()
        for number, row in enumerate(of)
    }
    found = places_of(data, rows)
    assert found.keys() == rows.keys()
    told = {place: rows[row] for row, place in found.items()}
    assert told == {f"{path}, line {n + 1}": (line["review"], str(int(line["stars"]))) for n, line in enumerate(lines)}


def test_texts_without_labels_are_found_in_folders_and_patterns_and_not_in_streams(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a", "b"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"text of {name}\n")
    rows = {Row("text", 0): ("text of b", "")}
    assert places_of(files(text=str(tmp_path / "texts" / "*.txt")), rows) == {
        Row("text", 0): f"{tmp_path / 'texts' / 'b.txt'}, line 1"
    }
    assert places_of(files(text=str(tmp_path / "texts" / "*.txt"), streaming=True), rows) == {}


def test_texts_of_tables_without_a_header_are_found_where_those_with_labels_have_one(tmp_path):
    (tmp_path / "posts.csv").write_text("1,first\n2,second\n")
    (tmp_path / "all.csv").write_text("text,label\nfirst,a\n")
    data = files(text=str(tmp_path / "posts.csv"), train=str(tmp_path / "all.csv"), stage1_header=False)
    assert places_of(data, {Row("text", 0): ("first", ""), Row("train", 0): ("first", "a")}) == {
        Row("text", 0): f"{tmp_path / 'posts.csv'}, row 1",
        Row("train", 0): f"{tmp_path / 'all.csv'}, row 1",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        (" a\n\tb  ", "a b"),
        ("abcdefghi", "abcd\u2026"),
        ("a\x1b[1m", "a\ufffd[1m"),
        ("a\ud800", "a\ufffd"),
    ],
)
def test_the_beginning_of_a_text_is_one_line_that_a_terminal_can_show(text, shown):
    assert beginning(text, 5) == shown
