"""`python -m poolwise.report`: compare the finished runs, print the table and where the page lies."""

import argparse
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from poolwise.app import leave
from poolwise.compare.report import COLUMNS, Report, write_report
from poolwise.settings import UserError

SHOWN = 6
"""Columns on the terminal, so that they fit 80 characters; page and CSV hold all."""


def main() -> None:
    """Write the report, and print it."""
    parser = argparse.ArgumentParser(prog="python -m poolwise.report", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs")
    try:
        show(write_report(parser.parse_args().runs))
    except UserError as error:
        leave(error)


def show(report: Report) -> None:
    """Print a table and the answer for each question, and where the files lie."""
    console = Console()
    for section in report.sections:
        table = Table(
            *COLUMNS[:SHOWN], title=section.question, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        table.columns[0].no_wrap = True
        for column in table.columns[1:]:
            column.justify = "right"
        for row in section.rows:
            table.add_row(*row[:SHOWN])
        console.print(table, Text(section.answer), "")
    console.print("mean ± standard deviation over seeds, in points; in the order of macro F1 on dev\n")
    runs = report.page.parent.parent
    places = {
        "page": report.page,
        "table": report.csv,
        "figure": report.figure,
        "records": runs / "sentiment/*/record.json",
        "W&B runs": runs / "wandb",
    }
    for name, place in places.items():
        console.print(f"{name:<9}{place}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
