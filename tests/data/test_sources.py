from dataclasses import replace

import pytest

from poolwise.data.demo import DOMAINS
from poolwise.data.sources import load_corpus
from poolwise.settings import DemoData

DEMO = DemoData(
    source="demo",
    name="demo",
    text=60,
    text_dev=20,
    train=50,
    dev=20,
    test=30,
    seed=0,
    label_noise=0.0,
    max_length=96,
)


def test_demo_splits_are_disjoint_and_of_the_asked_sizes():
    corpus = load_corpus(DEMO)
    splits = [*corpus.text.values(), *corpus.labelled.values()]
    assert [len(split) for split in splits] == [60, 20, 50, 20, 30]
    assert len({text for split in splits for text in split["text"]}) == 180
    assert corpus.label_names == ("negative", "positive")


def test_label_noise_changes_labels_only():
    plain, noisy = load_corpus(DEMO), load_corpus(replace(DEMO, label_noise=0.4))
    assert list(plain.labelled["train"]["text"]) == list(noisy.labelled["train"]["text"])
    assert list(plain.labelled["train"]["label"]) != list(noisy.labelled["train"]["label"])


def reviews_films(texts):
    """Whether these texts review films, or products, or both."""
    kinds = [any(f" {kind}" in text for text in texts for kind in domain.kinds) for domain in DOMAINS]
    return {(True, False): "products", (False, True): "films", (True, True): "both"}[tuple(kinds)]


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ("none", ["both"] * 5),
        ("stage2", ["products"] * 2 + ["films"] * 3),
        ("test", ["products"] * 4 + ["films"]),
    ],
)
def test_domain_shift_says_what_each_split_reviews(shift, expected):
    corpus = load_corpus(replace(DEMO, domain_shift=shift))
    splits = [*corpus.text.values(), *corpus.labelled.values()]
    assert [reviews_films(split["text"]) for split in splits] == expected
    assert [len(split) for split in splits] == [60, 20, 50, 20, 30]
    assert len({text for split in splits for text in split["text"]}) == 180


def test_extra_sentences_make_long_texts_of_the_same_reviews():
    plain, long = load_corpus(DEMO), load_corpus(replace(DEMO, extra_sentences=40))
    assert list(plain.labelled["test"]["label"]) == list(long.labelled["test"]["label"])
    assert min(len(text.split()) for text in long.labelled["test"]["text"]) > 250


def test_jobs_of_a_process_share_a_corpus():
    assert load_corpus(DEMO) is load_corpus(replace(DEMO))
