"""`python -m poolwise.report [KEY=VALUE ...]`: compare the finished runs, print the answers and where the page lies."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from pandas import DataFrame
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from poolwise.command_line import program
from poolwise.compare.report import Report, write_report
from poolwise.compare.tables import Table
from poolwise.settings import UserError, leave

SHOWN = ("representation", "runs", "test accuracy", "95 % interval", "dev F1")
"""Columns on the terminal, so that they fit 80 characters; page, Markdown and CSV hold all."""
MEASURED = ("runs", "test accuracy", "95 % interval", "dev F1")
SHOWN_AT_A_GLANCE = ("setting", "use", "test accuracy", "encoder")
MOST_SECTIONS = 3
"""Up to so many settings are printed whole; of more, what they say together."""


def main() -> None:
    """Write the report, and print it; as a report of W&B too, if asked."""
    parser = argparse.ArgumentParser(prog="python -m poolwise.report", description=__doc__)
    parser.add_argument(
        "selection",
        nargs="*",
        metavar="KEY=VALUE",
        help=f"only runs with this, written as {program()[-1]} takes it: data=demo repr=cls,mean "
        "labels_per_class=8,all objective=bow; study=NAME compares the trials of a study of poolwise.tune, which are "
        "left out else",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs (runs)")
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
    parser.add_argument(
        "--no-texts",
        action="store_true",
        help="leave out the texts on which representations disagree, to show the page",
    )
    arguments = parser.parse_args()
    try:
        make(arguments.runs, arguments.selection, arguments.from_wandb, arguments.wandb, not arguments.no_texts)
    except UserError as error:
        leave(error)


def make(runs: Path, selection: Sequence[str], from_wandb: str | None, to_wandb: bool, texts: bool = True) -> None:
    """Write and show the report of local runs, or those of a project of W&B; in the end the one of W&B, if asked.

    Raises:
        UserError: there is nothing to compare, something cannot be written, or W&B refuses something.
    """
    if from_wandb:
        from poolwise.compare.wandb_runs import fetch_runs  # W&B takes seconds to import

        fetched = fetch_runs(from_wandb, runs)
        print(fetched.in_words())
        runs = fetched.folder
    report = write_report(runs, selection, texts)
    show(report)
    if to_wandb:
        if not from_wandb and (missing := perhaps_not_in_wandb(report.runs, runs)):
            show_place("runs", missing)
        show_place("in W&B", _in_wandb(report, selection, from_wandb))


def perhaps_not_in_wandb(compared: DataFrame, runs: Path) -> str | None:
    """How many of the runs that are compared were not sent to W&B as they ran, and what sends those that it kept."""
    logged = [record.get("wandb") for record in compared.to_dict("records")]
    modes = [each.get("mode") if isinstance(each, dict) else None for each in logged]
    absent = len(modes) - modes.count("online")
    if not absent:
        return None
    how = f"; wandb sync {runs}/wandb/offline-run-* sends them" if "offline" in modes else ""
    return f"{absent:,} of {len(modes):,} were not sent to W&B as they ran, and panels show what is there{how}"


def _in_wandb(report: Report, selection: Sequence[str], from_wandb: str | None) -> str:
    """Publish the report in the project that its runs were read from, or logged to. Returns where it lies."""
    from poolwise.compare.wandb_report import WandbPages, WandbProject, WandbSection, project_of, publish

    sections = [
        WandbSection(
            each.question,
            [each.answer, *each.notes],
            [table.flat for table in (each.table, each.variance, each.comparisons) if table is not None],
            each.where,
        )
        for each in report.sections
    ]
    how = [["how it was run", ""], *([name, fact] for name, fact in report.facts.items())]
    formulas = [["representation", "formula"], *([name, formula] for name, formula in report.formulas.items())]
    poolers = [report.provenance.flat] if report.provenance is not None else []
    pages = WandbPages(
        title=" ".join(selection),
        opening=report.overview,
        summary=report.summary.flat if report.summary is not None else None,
        sections=sections,
        closing=[how, formulas, *poolers, [["limits"], *([limit] for limit in report.limits)]],
    )
    named = WandbProject(*from_wandb.split("/")) if from_wandb else project_of(report.runs.to_dict("records"))
    return publish(pages, named, report.page.parent)


def show(report: Report) -> None:
    """Print the answers with a table of each setting, or of all at a glance if they are many; and where files lie."""
    console = Console()
    if len(report.sections) <= MOST_SECTIONS:
        for section in report.sections:
            table = _table(section.table, SHOWN, section.question)
            console.print(table, Text(section.answer), *(Text(f"\n{note}") for note in section.notes), "")
        console.print("mean ± standard deviation over runs, in points; in the order of macro F1 on dev\n")
    elif report.summary is not None:
        title = f"the best on dev of {len(report.sections)} settings; each one's own answer is on the page"
        console.print(_table(report.summary, SHOWN_AT_A_GLANCE, title))
    for words in report.overview:
        console.print(Text(words), "")
    runs = report.page.parent.parent
    places = {
        "page": report.page,
        "Markdown": report.markdown,
        "table": report.csv,
        "tests": report.differences,
        "figures": report.figures,
        "records": runs / "sentiment/*/record.json",
    }
    if (runs / "wandb").is_dir():
        places["W&B runs"] = runs / "wandb"
    for name, place in places.items():
        show_place(name, place)
    if report.kept is not None:
        folder = shlex.quote(str(report.kept))
        show_place("try it", f'python -m poolwise.predict {folder} "text"')
        show_place("give it", f"python -m poolwise.export {folder} --to transformers")


def show_place(name: str, place: Path | str) -> None:
    """Print where something lies, on one line that can be copied."""
    Console().print(f"{name:<9}{place}", markup=False, soft_wrap=True)


def _table(content: Table, shown: Sequence[str], title: str) -> RichTable:
    table = RichTable(*shown, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    places = [content.columns.index(column) for column in shown]
    for column in table.columns:
        column.justify = "right" if column.header in MEASURED else "left"
    for place, row in enumerate(content.rows):
        if content.group and (place == 0 or content.group[place] != content.group[place - 1]):
            table.add_row(Text(content.group[place], style="bold"))
        table.add_row(*(Text(row[place]) for place in places))
    return table


if __name__ == "__main__":
    main()
