"""Write the texts of this experiment: lines for the neutral encoder, a slice of imdb with dev and test, demo reviews.

python experiments/pooler_objectives/prepare.py ../shared/data/imdb runs/pooler_objectives/data
"""

import re
import sys
from pathlib import Path

import pandas

from poolwise.data.demo import generate_reviews

WORDS = 60
"""Fewest words of a line of the neutral encoder's text: a review is cut after the sentence that reaches them."""
TRAIN, DEV, TEST = 4000, 2000, 5000


def lines_of(review: str) -> list[str]:
    """A review as lines of whole sentences."""
    lines, line = [], []
    for sentence in re.split(r"(?<=[.!?])\s+", review):
        line += sentence.split()
        if len(line) >= WORDS:
            lines.append(" ".join(line))
            line = []
    return lines + ([" ".join(line)] if line else [])


def rows(file: Path) -> pandas.DataFrame:
    """A split, in a fixed random order."""
    return pandas.read_csv(file, sep="\t", quoting=3).sample(frac=1.0, random_state=1)


def main() -> None:
    """Read imdb, write all files."""
    source, target = map(Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    reviews = (source / "unlabelled.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for review in reviews for line in lines_of(review)]
    (target / "neutral.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    train, test = rows(source / "train.tsv"), rows(source / "test.tsv")
    slices = {"train": train[:TRAIN], "dev": train[TRAIN : TRAIN + DEV], "test": test[:TEST]}
    for name, part in slices.items():
        part.to_csv(target / f"imdb_{name}.tsv", sep="\t", quoting=3, index=False)
    for seed, (name, part) in enumerate(slices.items()):
        made = pandas.DataFrame(map(vars, generate_reviews(len(part), seed)))
        made.to_csv(target / f"demo_{name}.tsv", sep="\t", quoting=3, index=False)


if __name__ == "__main__":
    main()
