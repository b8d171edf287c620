"""One place that turns data settings into a corpus."""

from functools import lru_cache
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value

from poolwise.data.corpus import RATING, Corpus, text_columns
from poolwise.data.demo import Review, generate_reviews
from poolwise.data.files import load_files
from poolwise.data.hub import load_hub
from poolwise.settings import DataSettings, DemoData, FilesData

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
    """Generated reviews; the five splits are disjoint stretches of one stream. Labels carry noise, texts do not."""
    sizes = {"text": data.text, "text_dev": data.text_dev}
    sizes |= {"train": data.train, "dev": data.dev, "test": data.test}
    reviews = generate_reviews(sum(sizes.values()), data.seed, data.label_noise)
    splits: dict[str, list[Review]] = {}
    for name, size in sizes.items():
        splits[name], reviews = reviews[:size], reviews[size:]
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
