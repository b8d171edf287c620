"""`python -m poolwise.predict RUN [TEXT ...]`: classify texts, or else the lines of standard input."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from poolwise import machine
from poolwise.settings import UserError, leave

if TYPE_CHECKING:
    from poolwise.trained import Prediction, TrainedClassifier

AT_A_TIME = 1024
"""Texts that are read before the first of them is told."""
TEXT_CHARACTERS = 24
"""What the columns of a table leave for the text at least, or else the label's probability is the only one."""


def main() -> None:
    """Classify, and write a table or JSON lines."""
    parser = argparse.ArgumentParser(prog="python -m poolwise.predict", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished stage-2 run")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="what to classify")
    parser.add_argument("--file", help="classify the texts of a file or folder: .txt, .csv, .jsonl, .parquet, ...")
    parser.add_argument("--column", help="the column that holds the texts (one of a common name, as text or review)")
    parser.add_argument("--jsonl", action="store_true", help="write a JSON object a line in place of a table")
    arguments = parser.parse_args()
    machine.prepare()
    try:
        texts = texts_to_classify(arguments.texts, arguments.file, arguments.column)
        write(classified(arguments.run, texts), arguments.jsonl)
    except UserError as error:
        leave(error)
    except BrokenPipeError:
        sys.stderr.close()  # `| head` has seen enough


def texts_to_classify(given: list[str], file: str | None, column: str | None) -> Iterable[str]:
    """The texts of the command line, of a file, or the lines of standard input.

    Raises:
        UserError: texts are given in two ways.
    """
    if given and file:
        raise UserError(f"texts are given and --file={file} too; give one of them")
    if column and not file:
        raise UserError(f"--column={column} is of a file; give --file")
    if file:
        from poolwise.data.files import texts_in

        return texts_in(file, column)
    return given or lines_of_standard_input()


def lines_of_standard_input() -> Iterator[str]:
    """Its lines, as they come.

    Raises:
        UserError: one is not UTF-8.
    """
    if sys.stdin.isatty():
        print("a text a line, and Ctrl-D to end:", file=sys.stderr)
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"standard input, line {number}: not UTF-8 (byte 0x{line[error.start]:02x})") from error


def classified(run: Path, texts: Iterable[str]) -> Iterator["Prediction"]:
    """The predictions of texts, some at a time.

    Raises:
        UserError: there is no trained classifier in `run`.
    """
    from poolwise.app import quieten

    quieten()
    from poolwise.trained import load

    machine.keep_to_quota()
    classifier: TrainedClassifier = load(run)
    waiting = iter(texts)
    while some := list(islice(waiting, AT_A_TIME)):
        yield from classifier.predict(some)


def write(predictions: Iterable["Prediction"], as_json: bool) -> None:
    """Write predictions to standard output; a table has a line for each, and as much of its text as fits."""
    if as_json:
        for each in predictions:
            row = {"text": each.text, "label": each.label, "probabilities": each.probabilities}
            print(json.dumps(row, ensure_ascii=False), flush=True)
        return
    console = Console()
    table = Table(Column("text", no_wrap=True, overflow="ellipsis", ratio=1), "label", box=SIMPLE_HEAD, expand=True)
    of_each_class = False
    for number, each in enumerate(predictions):
        if number == 0:
            of_each_class = have_room(list(each.probabilities), console.width)
            for name in each.probabilities if of_each_class else ["probability"]:
                table.add_column(Text(name), justify="right", overflow="fold")
        told = each.probabilities.values() if of_each_class else [each.probabilities[each.label]]
        table.add_row(Text(" ".join(each.text.split())), Text(each.label), *(f"{value:.3f}" for value in told))
    if table.rows:
        console.print(table)


def have_room(classes: list[str], width: int) -> bool:
    """Whether a table so wide has a column for each class, and `TEXT_CHARACTERS` for the text beside them."""
    names = [max(map(cell_len, ["label", *classes])), *(max(cell_len(name), len("0.000")) for name in classes)]
    around = 3  # blanks between two columns; one more at the edge
    return sum(names) + around * (len(names) + 1) + 1 + TEXT_CHARACTERS <= width


if __name__ == "__main__":
    main()
