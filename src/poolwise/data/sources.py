"""One place that turns data settings into a corpus."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value

from poolwise.data.corpus import RATING, Corpus, text_columns
from poolwise.data.demo import DOMAINS, FILMS, PRODUCTS, Domain, Review, generate_reviews
from poolwise.data.files import load_files
from poolwise.data.hub import load_hub
from poolwise.settings import DataSettings, DemoData, FilesData

FILM_SPLITS = {"none": (), "stage2": ("train", "dev", "test"), "test": ("test",)}
"""Splits that review films alone, by `domain_shift`."""
FILM_SEED = 2**32
"""Added to the seed of reviews of films alone: above all seeds, so that products and films share no draws."""
DEMO_LABELS = ("negative", "positive")


@lru_cache(maxsize=4)
def load_corpus(data: DataSettings, cache: Path | None = None) -> Corpus:
    """The corpus that the settings name; the jobs of one sweep share it.

    Args:
        data: the settings.
        cache: where rows of files are kept; None holds them in memory.

    Raises:
        UserError: it cannot be read (see the sources).
    """
    if isinstance(data, DemoData):
        return load_demo(data)
    if isinstance(data, FilesData):
        return load_files(data, cache)
    return load_hub(data)


def load_demo(data: DemoData) -> Corpus:
    """Generated reviews; the five splits are disjoint stretches of one stream. Labels carry noise, texts do not.

    With a domain shift there are two streams: products, and films.
    """
    names = ("text", "text_dev", "train", "dev", "test")
    films = FILM_SPLITS[data.domain_shift]
    others = [name for name in names if name not in films]
    splits = _stretches(data, others, (PRODUCTS,) if films else DOMAINS, data.seed)
    splits |= _stretches(data, films, (FILMS,), data.seed + FILM_SEED)
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=list(DEMO_LABELS)), RATING: Value("string")}
    )

    def rows(name: str) -> Dataset:
        columns = {
            "text": [review.text for review in splits[name]],
            "label": [review.label for review in splits[name]],
            RATING: [str(review.stars) for review in splits[name]],
        }
        return Dataset.from_dict(columns, features=features)

    text = {name: text_columns(rows(split)) for name, split in (("train", "text"), ("dev", "text_dev"))}
    return Corpus(text, {name: rows(name).remove_columns(RATING) for name in ("train", "dev", "test")}, DEMO_LABELS)


def _stretches(data: DemoData, names: Sequence[str], domains: Sequence[Domain], seed: int) -> dict[str, list[Review]]:
    if not names:
        return {}
    places = list(pairwise(accumulate((getattr(data, name) for name in names), initial=0)))
    reviews = generate_reviews(places[-1][1], seed, data.label_noise, domains, data.extra_sentences)
    return {name: reviews[begin:end] for name, (begin, end) in zip(names, places, strict=True)}
