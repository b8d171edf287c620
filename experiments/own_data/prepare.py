"""Write what a new user may have: a spreadsheet of labelled reviews, and a folder with a text file a review.

    python experiments/own_data/prepare.py ../shared/data/imdb runs/own_data

Reviews are shuffled first, as the files are sorted by label.
"""

import random
import sys
from pathlib import Path

import openpyxl

LABELLED, UNLABELLED, NEW = 2400, 3000, 6


def main() -> None:
    """Write `reviews.xlsx` with the columns review and sentiment, `texts/0000.txt` and so on, `more_reviews.xlsx`."""
    source, target = map(Path, sys.argv[1:])
    generator = random.Random(0)
    rows = (source / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["review", "sentiment"])
    for row in generator.sample(rows, LABELLED):
        text, label = row.rsplit("\t", 1)
        sheet.append([text, {"0": "negative", "1": "positive"}[label]])
    (target / "texts").mkdir(parents=True, exist_ok=True)
    book.save(target / "reviews.xlsx")
    texts = (source / "unlabelled.txt").read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(generator.sample(texts, UNLABELLED)):
        (target / "texts" / f"{number:04}.txt").write_text(text, encoding="utf-8")
    more = openpyxl.Workbook()
    more.active.append(["review"])
    for text in generator.sample(texts, NEW):
        more.active.append([text])
    more.save(target / "more_reviews.xlsx")


if __name__ == "__main__":
    main()
