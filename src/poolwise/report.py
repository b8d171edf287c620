"""`python -m poolwise.report`: compare the finished runs, print the table and where the page lies."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from poolwise.app import leave
from poolwise.compare.report import Report, write_report
from poolwise.settings import UserError


def main() -> None:
    """Write the report, and print it."""
    parser = argparse.ArgumentParser(prog="python -m poolwise.report", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs")
    try:
        show(write_report(parser.parse_args().runs))
    except UserError as error:
        leave(error)


def show(report: Report) -> None:
    """Print verdicts, table and places."""
    console = Console()
    table = Table(caption="mean ± standard deviation over seeds, in points; ordered by macro F1 on dev")
    for number, column in enumerate(report.columns):
        table.add_column(column, justify="left" if number < 5 else "right")
    for row in report.rows:
        table.add_row(*row)
    console.print(table)
    for verdict in report.verdicts:
        console.print(verdict, markup=False)
    runs = report.page.parent.parent
    console.print(
        f"page     {report.page}",
        f"table    {report.csv}",
        f"figure   {report.figure}",
        sep="\n",
        soft_wrap=True,
    )
    console.print(f"records  {runs}/sentiment/*/record.json", f"W&B      {runs}/wandb", sep="\n", soft_wrap=True)


if __name__ == "__main__":
    main()
