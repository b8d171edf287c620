"""The comparison as files: CSV, figure and one self-contained HTML page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
from jinja2 import Environment
from markupsafe import Markup

from poolwise.compare.figures import dot_plot
from poolwise.compare.statistics import questions, read_runs, table_of, verdict
from poolwise.compare.wandb_report import common_settings
from poolwise.runs import write_atomically
from poolwise.settings import UserError

PERCENT_METRICS = {
    "dev F1": "dev/macro_f1",
    "test accuracy": "test/accuracy",
    "test F1": "test/macro_f1",
    "Matthews": "test/matthews",
    "calibration": "test/calibration_error",
}
COLUMNS = ["representation", "runs", *PERCENT_METRICS, "loss"]


@dataclass(frozen=True)
class Section:
    """One question.

    Attributes:
        question: its words.
        answer: in words.
        rows: text cells (as `COLUMNS`) for each representation.
        where: what tells its runs from others in W&B.
    """

    question: str
    answer: str
    rows: list[list[str]]
    where: dict[str, list[str]]


@dataclass(frozen=True)
class Report:
    """What a report says of which stage-2 runs, and where its files lie."""

    runs: pandas.DataFrame
    sections: list[Section]
    page: Path
    csv: Path
    figure: Path


def write_report(runs_folder: Path) -> Report:
    """Read all finished stage-2 runs and write the comparison into `report/` beside them.

    Raises:
        UserError: there is no finished stage-2 run, or the folder cannot be written.
    """
    runs = read_runs(runs_folder, "sentiment")
    if runs.empty:
        raise UserError(
            f"no finished stage-2 run in {runs_folder}; make some:\n"
            "  python train.py stage=sentiment repr=cls,pooler,mean,cls_linear -m"
        )
    table = table_of(runs)
    sections = [
        Section(question, verdict(rows, runs), [_cells(row) for _, row in rows.iterrows()], _where(rows, runs))
        for question, rows in questions(table).items()
    ]
    figure = dot_plot(runs)
    page = (
        Environment(autoescape=True)
        .from_string(_template())
        .render(
            sections=sections,
            columns=COLUMNS,
            figure=Markup(figure[figure.index("<svg") :]),  # our own drawing; matplotlib escapes its labels
            formulas={run["repr"]: run["representation"]["formula"] for _, run in runs.iterrows()},
            stage1=_stage1_rows(read_runs(runs_folder, "mlm")),
            run_count=len(runs),
            folder=runs_folder,
        )
    )
    folder = runs_folder / "report"
    report = Report(runs, sections, folder / "index.html", folder / "comparison.csv", folder / "comparison.svg")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(report.csv, table.to_csv(index=False))
        write_atomically(report.figure, figure)
        write_atomically(report.page, page)
    except OSError as error:
        raise UserError(f"the report could not be written to {folder}: {error}") from error
    return report


def _template() -> str:
    return (Path(__file__).parent / "report.html").read_text(encoding="utf-8")


def _where(rows: pandas.DataFrame, runs: pandas.DataFrame) -> dict[str, list[str]]:
    shown = runs[runs["question"] == rows["question"].iloc[0]]
    return common_settings(shown.to_dict("records"))


def _cells(row: pandas.Series) -> list[str]:
    return [
        row["label"],
        str(row["runs"]),
        *(mean_and_spread(row, metric, 100.0, 1) for metric in PERCENT_METRICS.values()),
        mean_and_spread(row, "test/loss", 1.0, 3),
    ]


def mean_and_spread(row: pandas.Series, metric: str, scale: float, digits: int) -> str:
    """`mean ± sd`; the mean alone where one run gives no spread."""
    mean, spread = scale * row[f"{metric} mean"], scale * row[f"{metric} std"]
    return f"{mean:.{digits}f}" if pandas.isna(spread) else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _figure(value: float | None, digits: int) -> str:
    return "none" if pandas.isna(value) else f"{value:.{digits}f}"


def _stage1_rows(runs: pandas.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for _, run in runs.iterrows():
        pooler = run["provenance"]["parts"]["pooler"]
        geometry = run["provenance"].get("pooler_geometry", {})  # records of the first days have none
        rows.append(
            {
                "name": run["name"],
                "status": run["provenance"]["pooler_status"],
                "gradient": f"{pooler['mean_gradient_norm']:.3g}",
                "moved": f"{pooler['distance_moved']:.3g}",
                "rank": _figure(geometry.get("effective_rank"), 1),
                "cosine": _figure(geometry.get("mean_cosine"), 2),
                "perplexity": _figure(run.get("dev/perplexity"), 1),  # none where the pooler alone was trained
            }
        )
    return rows
