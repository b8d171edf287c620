"""The generated demo corpus: reproducible, balanced, varied, and not solved by counting words."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from poolwise.data.demo import DOMAINS, FILMS, PRODUCTS, Domain, Review, generate_reviews
from poolwise.data.sources import load_corpus
from poolwise.settings import DemoData

TRAIN, DEV, TEST = 6000, 1000, 2000


@pytest.fixture(scope="module")
def reviews() -> list[Review]:
    return generate_reviews(TRAIN + DEV + TEST, seed=7)


def _texts(reviews: Sequence[Review]) -> list[str]:
    return [review.text for review in reviews]


def _labels(reviews: Sequence[Review]) -> list[int]:
    return [review.label for review in reviews]


def test_same_seed_gives_same_reviews_and_another_seed_does_not() -> None:
    assert generate_reviews(50, seed=3) == generate_reviews(50, seed=3)
    assert generate_reviews(50, seed=3) != generate_reviews(50, seed=4)


@pytest.mark.parametrize("label_noise", [0.0, 0.2])
def test_longer_corpus_starts_with_the_shorter_one(label_noise: float) -> None:
    longer = generate_reviews(80, seed=3, label_noise=label_noise)
    assert longer[:30] == generate_reviews(30, seed=3, label_noise=label_noise)


def test_labels_are_balanced(reviews: list[Review]) -> None:
    assert sum(_labels(reviews)) / len(reviews) == pytest.approx(0.5, abs=0.02)


def test_noise_flips_the_asked_share_of_labels_and_nothing_else(reviews: list[Review]) -> None:
    noisy = generate_reviews(len(reviews), seed=7, label_noise=0.2)
    assert _texts(noisy) == _texts(reviews)
    assert [review.stars for review in noisy] == [review.stars for review in reviews]
    flips = [a.label != b.label for a, b in zip(noisy, reviews, strict=True)]
    assert sum(flips) / len(flips) == pytest.approx(0.2, abs=0.02)


def test_stars_agree_with_the_true_label(reviews: list[Review]) -> None:
    seen = {(review.label, review.stars) for review in reviews}
    assert seen == {(0, 1), (0, 2), (1, 4), (1, 5)}


def test_reviews_are_several_plain_sentences(reviews: list[Review]) -> None:
    for review in reviews:
        assert re.fullmatch(r"([A-Z][A-Za-z, ]*\. ){1,5}[A-Z][A-Za-z, ]*\.", review.text)
    mean_words = sum(len(review.text.split()) for review in reviews) / len(reviews)
    assert 30 <= mean_words <= 45


def test_articles_and_verbs_agree_with_their_nouns(reviews: list[Review]) -> None:
    text = " ".join(_texts(reviews))
    assert not re.search(r"\b(a [aeiou]|an [^aeiou])", text, re.IGNORECASE)
    assert not re.search(r"\bthe \w+s (is|seems|never seems)\b", text, re.IGNORECASE)
    assert not re.search(r"\bthe \w*[^s\W] (are|seem|never seem)\b", text, re.IGNORECASE)


def test_few_reviews_are_duplicates() -> None:
    assert len(set(_texts(generate_reviews(5000, seed=11)))) > 0.995 * 5000


@pytest.mark.parametrize("count", [0, -1])
def test_count_below_one_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="count must be at least 1"):
        generate_reviews(count, seed=1)


@pytest.mark.parametrize("label_noise", [-0.1, 0.5, float("nan")])
def test_label_noise_out_of_range_is_refused(label_noise: float) -> None:
    with pytest.raises(ValueError, match="label_noise must be in"):
        generate_reviews(1, seed=1, label_noise=label_noise)


def test_the_default_reviews_are_those_of_the_first_day() -> None:
    lines = [f"{review.text}\t{review.label}\t{review.stars}" for review in generate_reviews(2000, 0, 0.1)]
    found = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert found == "c9381e1081a4c59bf23d7a67e8f771802bbb37d62d6f9fc15c1e3275bc3ee6b9"


def sentences(review: Review) -> list[str]:
    return re.findall(r"[^.]+\.", review.text)


def test_extra_sentences_lie_between_those_of_the_same_review() -> None:
    short, long = (generate_reviews(200, seed=5, label_noise=0.1, extra_sentences=count) for count in (0, 30))
    at_end = 0
    for before, after in zip(short, long, strict=True):
        assert (before.label, before.stars) == (after.label, after.stars)
        own, every = [iter(sentences(review)) for review in (before, after)]
        assert all(sentence.strip() in map(str.strip, every) for sentence in own)  # in this order
        assert len(sentences(after)) == len(sentences(before)) + 30
        at_end += sentences(before)[-1].strip() == sentences(after)[-1].strip()
    assert at_end >= 120  # the verdicts at the end, three in four
    with pytest.raises(ValueError, match="extra_sentences must be at least 0"):
        generate_reviews(1, seed=1, extra_sentences=-1)


@pytest.mark.parametrize("domain", [PRODUCTS, FILMS])
def test_reviews_of_one_domain_have_its_words_alone(domain: Domain) -> None:
    (other,) = (each for each in DOMAINS if each is not domain)
    strange = set(other.kinds) - set(domain.kinds)
    text = " ".join(_texts(generate_reviews(300, seed=2, domains=(domain,))))
    assert all(re.search(rf"\b{kind}\b", text) for kind in domain.kinds)
    assert not any(re.search(rf"\b{kind}\b", text) for kind in strange)


Split = tuple[list[str], list[int]]


def bag_of_words_accuracy(train: Split, dev: Split, test: Split) -> float:
    """Test accuracy of logistic regression on word counts, its regularisation chosen on dev."""
    vectorizer = CountVectorizer().fit(train[0])
    counts = {
        name: vectorizer.transform(texts) for name, (texts, _) in (("train", train), ("dev", dev), ("test", test))
    }
    models = [LogisticRegression(C=c, max_iter=500).fit(counts["train"], train[1]) for c in (0.01, 0.1, 1.0)]
    best = max(models, key=lambda model: model.score(counts["dev"], dev[1]))
    return float(best.score(counts["test"], test[1]))


def test_counting_words_tells_only_part_of_the_label(reviews: list[Review]) -> None:
    parts = (reviews[:TRAIN], reviews[TRAIN : TRAIN + DEV], reviews[TRAIN + DEV :])
    assert 0.72 <= bag_of_words_accuracy(*((_texts(part), _labels(part)) for part in parts)) <= 0.85


@pytest.mark.slow
def test_a_fine_tuned_encoder_is_at_least_5_points_above_counting_words(program: Any, tmp_path: Path) -> None:
    """The default run of both stages, against a bag of words on the same splits."""
    assert program("stage=mlm", "logger=csv") == 0
    assert program("stage=sentiment", "repr=mean", "logger=csv") == 0
    (file,) = (tmp_path / "runs/sentiment").glob("*/record.json")
    record = json.loads(file.read_text())
    corpus = load_corpus(DemoData(**record["config"]["data"]))
    splits = {name: (list(rows["text"]), list(rows["label"])) for name, rows in corpus.labelled.items()}
    assert record["metrics"]["test/accuracy"] - bag_of_words_accuracy(*splits.values()) >= 0.05
