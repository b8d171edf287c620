"""What every source gives: texts for stage 1, labelled texts for stage 2."""

from dataclasses import dataclass

from datasets import Dataset

from poolwise.settings import UserError

RATING = "rating"
"""Column of stage-1 texts with a weak label, such as stars; only the objective `rating` reads it."""

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Corpus:
    """Texts and labels from one source.

    Attributes:
        text: splits `train` and `dev` of stage 1, column `text`, and `rating` (text) where the source has one.
        labelled: splits `train`, `dev` and `test` of stage 2, columns `text` and `label` (0 to C - 1);
            empty where the source has no labels.
        label_names: C names, in the order of the class ids.
    """

    text: dict[str, Dataset]
    labelled: dict[str, Dataset]
    label_names: tuple[str, ...]


def text_columns(rows: Dataset) -> Dataset:
    """The columns of rows that stage 1 may read: the text, and the rating if there is one."""
    return rows.select_columns([name for name in ("text", RATING) if name in rows.column_names])


def held_out(texts: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Split off a seeded random share, at least one row; returns what stays and what is held out.

    Raises:
        UserError: fewer than two rows.
    """
    if len(texts) < 2:
        raise UserError(f"{len(texts)} texts are too few to hold some out for the dev split")
    count = min(max(round(share * len(texts)), 1), len(texts) - 1)
    parts = texts.train_test_split(test_size=count, seed=0)
    return parts["train"].flatten_indices(), parts["test"].flatten_indices()
