import numpy as np
import pytest
from datasets import Dataset

from poolwise.data.contamination import text_keys
from poolwise.data.draws import (
    balanced_draw,
    folds_of_texts,
    held_out,
    share_of_texts,
    stratified_folds,
    stratified_share,
)
from poolwise.settings import UserError

LABELS = np.array([0, 1, 1, 2, 0, 2, 1, 0, 2, 2, 1, 0])
NAMES = ("bad", "fair", "good")


def test_a_draw_has_so_many_of_each_class_once_and_in_order():
    for seed in range(20):
        drawn = balanced_draw(LABELS, NAMES, 3, seed)
        assert np.bincount(LABELS[drawn]).tolist() == [3, 3, 3]
        assert (np.diff(drawn) > 0).all()
    assert len({tuple(balanced_draw(LABELS, NAMES, 1, seed)) for seed in range(20)}) > 5


def test_a_smaller_draw_lies_in_the_larger_one_of_its_seed():
    small, large = (set(balanced_draw(LABELS, NAMES, count, 7).tolist()) for count in (1, 3))
    assert small < large
    assert set(balanced_draw(LABELS, NAMES, 4, 7).tolist()) == set(range(12))


def test_too_few_of_a_class_are_told():
    with pytest.raises(
        UserError, match="labels_per_class=5: the training texts hold 4 of class 'bad'; at most so many"
    ):
        balanced_draw(LABELS, NAMES, 5, 1)
    with pytest.raises(UserError, match="hold 0 of class 'good'"):
        balanced_draw(LABELS[LABELS < 2], NAMES, 1, 1)


@pytest.mark.parametrize("count", [3, 4])
def test_folds_share_out_every_class_alike(count):
    labels = np.random.default_rng(0).integers(0, 3, 50)
    folds = stratified_folds(labels, NAMES, count, seed=1)
    for part in (folds, *(folds[labels == label] for label in range(3))):
        sizes = np.bincount(part, minlength=count)
        assert sizes.max() - sizes.min() <= 1
    assert (stratified_folds(labels, NAMES, count, seed=1) == folds).all()
    assert (stratified_folds(labels, NAMES, count, seed=2) != folds).any()


def test_more_folds_than_a_class_has_examples_are_told():
    with pytest.raises(
        UserError, match=r"protocol\.folds=5: the training texts hold 4 of class 'bad'; at most so many"
    ):
        stratified_folds(LABELS, NAMES, 5, 1)


@pytest.mark.parametrize(
    ("sizes", "share", "expected"), [([60, 30], 0.1, [6, 3]), ([1, 2, 9], 0.2, [0, 1, 2]), ([3, 3], 0.9, [2, 2])]
)
def test_a_share_of_every_class_is_held_out_and_some_of_it_left(sizes, share, expected):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    out = stratified_share(labels, share, seed=1)
    assert np.bincount(labels[out], minlength=len(sizes)).tolist() == expected
    assert (stratified_share(labels, share, seed=1) == out).all()


def test_the_seed_draws_what_is_held_out():
    labels = np.repeat([0, 1], 50)
    assert len({stratified_share(labels, 0.2, seed).tobytes() for seed in range(20)}) == 20


def test_a_class_of_copies_alone_stays_in_what_is_not_held_out():
    """Their first copies have other labels, by which they are drawn."""
    labels = np.array([0, 1] * 20 + [2, 2])
    keys = np.array([*range(40), 0, 2], dtype=np.uint64)
    for seed in range(40):
        out = share_of_texts(labels, keys, 0.2, seed)
        assert set(labels[~out]) == {0, 1, 2}
        assert not set(keys[out]) & set(keys[~out])


def test_copies_of_a_text_are_held_out_together():
    labels, keys = np.arange(200) % 2, np.arange(200, dtype=np.uint64)[::-1].copy()
    for seed in range(5):
        alone = share_of_texts(labels, keys, 0.2, seed)
        assert (alone == stratified_share(labels, 0.2, seed)).all()
        copies = np.concatenate([keys, keys[:60], keys[:1]])
        out = share_of_texts(np.concatenate([labels, labels[:60], 1 - labels[:1]]), copies, 0.2, seed)
        assert (out == np.concatenate([alone, alone[:60], alone[:1]])).all()


def test_copies_of_a_text_are_in_one_fold():
    labels, keys = np.arange(60) % 3, np.arange(60, dtype=np.uint64)[::-1].copy()
    for seed in range(5):
        alone = stratified_folds(labels, NAMES, 4, seed)
        assert (folds_of_texts(labels, keys, NAMES, 4, seed) == alone).all()
        with_copies = np.concatenate([labels, labels[:20]]), np.concatenate([keys, keys[:20]])
        assert (folds_of_texts(*with_copies, NAMES, 4, seed) == np.concatenate([alone, alone[:20]])).all()
    with pytest.raises(UserError, match=r"protocol\.folds=5: the training texts hold 4 of class 'bad'"):
        folds_of_texts(LABELS.repeat(2), np.arange(12, dtype=np.uint64).repeat(2), NAMES, 5, 1)


def numbered(count: int) -> Dataset:
    return Dataset.from_dict({"text": [str(number) for number in range(count)]})


def apart(texts: Dataset, share: float, source: str = "data.text=x") -> tuple[Dataset, Dataset]:
    return held_out(texts, text_keys(texts), share, source)


def test_held_out_is_a_seeded_share():
    texts = numbered(400)
    stays, out = apart(texts, 0.1)
    assert (len(stays), len(out)) == (360, 40)
    assert sorted([*stays["text"], *out["text"]], key=int) == list(texts["text"])
    assert list(apart(texts, 0.1)[1]["text"]) == list(out["text"])


@pytest.mark.parametrize(("count", "share", "expected"), [(100, 0.05, 10), (12, 0.05, 6), (2, 0.05, 1), (10, 0.99, 9)])
def test_at_least_ten_are_held_out_or_half(count, share, expected):
    stays, out = apart(numbered(count), share)
    assert (len(stays), len(out)) == (count - expected, expected)


def test_one_text_is_too_few_to_hold_some_out():
    with pytest.raises(UserError) as error:
        apart(numbered(1), 0.1, "data.text=one.txt")
    assert str(error.value) == "data.text=one.txt: 1 text; at least 2 different ones are needed, some for dev"


def test_copies_are_held_out_together_and_without_them_nothing_changes():
    texts = numbered(100)
    stays, out = apart(texts, 0.3)
    parts = texts.train_test_split(test_size=30, seed=0)
    assert (list(stays["text"]), list(out["text"])) == (list(parts["train"]["text"]), list(parts["test"]["text"]))
    doubled = Dataset.from_dict({"text": [*texts["text"], *(f" {text}!" for text in texts["text"][:50])]})
    sides = [{text.strip(" !") for text in side["text"]} for side in apart(doubled, 0.3)]
    assert sides == [set(stays["text"]), set(out["text"])]
    with pytest.raises(UserError, match="1 text; at least 2 different ones"):
        apart(Dataset.from_dict({"text": ["Same.", "same"]}), 0.3)
