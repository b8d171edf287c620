"""`python -m poolwise.report [KEY=VALUE ...]`: compare the finished runs, print the answers and where the page lies."""

import argparse
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from poolwise.app import leave
from poolwise.compare.report import COLUMNS, Report, Section, write_report
from poolwise.settings import UserError

SHOWN = ("representation", "runs", "test accuracy", "95 % interval", "dev F1")
"""Columns on the terminal, so that they fit 80 characters; page, Markdown and CSV hold all."""


def main() -> None:
    """Write the report, and print it."""
    parser = argparse.ArgumentParser(prog="python -m poolwise.report", description=__doc__)
    parser.add_argument(
        "selection", nargs="*", metavar="KEY=VALUE", help="only runs with this, such as data=demo repr=cls,mean"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs")
    given = parser.parse_args()
    try:
        show(write_report(given.runs, given.selection))
    except UserError as error:
        leave(error)


def show(report: Report) -> None:
    """Print a table and the answer for each setting, and where the files lie."""
    console = Console()
    for section in report.sections:
        console.print(_table(section), Text(section.answer), *(Text(f"\n{note}") for note in section.notes), "")
    if report.overview:
        console.print(Text(" ".join(report.overview)), "")
    console.print("mean ± standard deviation over runs, in points; in the order of macro F1 on dev\n")
    runs = report.page.parent.parent
    places = {
        "page": report.page,
        "Markdown": report.markdown,
        "table": report.csv,
        "figures": report.figures,
        "records": runs / "sentiment/*/record.json",
        "W&B runs": runs / "wandb",
    }
    for name, place in places.items():
        console.print(f"{name:<9}{place}", markup=False, soft_wrap=True)


def _table(section: Section) -> Table:
    table = Table(*SHOWN, title=section.question, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    groups = section.table.group
    for place, row in enumerate(section.table.rows):
        if groups and (place == 0 or groups[place] != groups[place - 1]):
            table.add_row(Text(groups[place], style="bold"))
        table.add_row(*(row[COLUMNS.index(column)] for column in SHOWN))
    return table


if __name__ == "__main__":
    main()
