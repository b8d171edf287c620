import pytest
from datasets import Dataset

from poolwise.data.corpus import content_hash, label_text, text_columns


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1.0", "1"),
        ("-2.", "-2"),
        (0.5, "0.5"),
        (True, "true"),
        (" pos ", "pos"),
        ("v1.0", "v1.0"),
    ],
)
def test_labels_that_mean_the_same_are_one_class(label, expected):
    assert label_text(label) == expected


def test_stage_1_reads_text_and_rating_only():
    rows = Dataset.from_dict({"label": [0], "rating": ["5"], "text": ["a"]})
    assert text_columns(rows).column_names == ["text", "rating"]
    assert text_columns(rows.remove_columns("rating")).column_names == ["text"]


def test_content_hash_tells_texts_apart_where_joining_would_not():
    def hashed(**columns):
        return content_hash(Dataset.from_dict(columns))

    assert hashed(text=["ab", "c"]) != hashed(text=["a", "bc"])
    assert hashed(text=["ab"]) != hashed(text=["ab"], label=[0])
