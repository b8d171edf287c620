"""`python -m poolwise.report [KEY=VALUE ...]`: compare the finished runs, print the answers and where the page lies."""

import argparse
from collections.abc import Sequence
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
    """Write the report, and print it; as a report of W&B too, if asked."""
    parser = argparse.ArgumentParser(prog="python -m poolwise.report", description=__doc__)
    parser.add_argument(
        "selection", nargs="*", metavar="KEY=VALUE", help="only runs with this, such as data=demo repr=cls,mean"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs")
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="make a report in W&B too: saved to the account of whoever is logged in, or over the one that was saved "
        "before; else written as JSON",
    )
    parser.add_argument(
        "--from-wandb",
        metavar="ENTITY/PROJECT",
        help="compare the finished runs of a project of W&B in place of local ones; they are kept in RUNS/from_wandb",
    )
    arguments = parser.parse_args()
    try:
        make(arguments.runs, arguments.selection, arguments.from_wandb, arguments.wandb)
    except UserError as error:
        leave(error)


def make(runs: Path, selection: Sequence[str], from_wandb: str | None, to_wandb: bool) -> None:
    """Write and show the report of local runs, or those of a project of W&B; in the end the one of W&B, if asked.

    Raises:
        UserError: there is nothing to compare, something cannot be written, or W&B refuses something.
    """
    if from_wandb:
        from poolwise.compare.wandb_runs import fetch_runs  # W&B takes seconds to import

        fetched = fetch_runs(from_wandb, runs)
        print(fetched.in_words())
        runs = fetched.folder
    report = write_report(runs, selection)
    show(report)
    if to_wandb:
        show_place("in W&B", _in_wandb(report, from_wandb))


def _in_wandb(report: Report, from_wandb: str | None) -> str:
    """Publish the report in the project that its runs were read from, or logged to. Returns where it lies."""
    from poolwise.compare.wandb_report import WandbProject, WandbSection, project_of, publish

    sections = [
        WandbSection(each.question, [each.answer, *each.notes], [each.table.flat], each.where)
        for each in report.sections
    ]
    named = WandbProject(*from_wandb.split("/")) if from_wandb else project_of(report.runs.to_dict("records"))
    return publish(sections, named, report.page.parent, report.overview)


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
    }
    if (runs / "wandb").is_dir():
        places["W&B runs"] = runs / "wandb"
    for name, place in places.items():
        show_place(name, place)


def show_place(name: str, place: Path | str) -> None:
    """Print where something lies, on one line that can be copied."""
    Console().print(f"{name:<9}{place}", markup=False, soft_wrap=True)


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
