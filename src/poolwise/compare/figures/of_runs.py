"""The dot plot straight from run records, until the report writes its own rows."""

import pandas

from poolwise.compare.figures.dots import AccuracyPanel, AccuracyRow, dot_plot
from poolwise.compare.statistics import REPORTED_METRIC, questions, runs_of, table_of


def dot_plot_of_runs(runs: pandas.DataFrame) -> str:
    """Every run's test accuracy, one panel a question. Returns SVG.

    Args:
        runs: of `read_runs`.
    """
    return dot_plot(
        [
            AccuracyPanel(
                question,
                [
                    AccuracyRow(row["label"], 100 * runs_of(row, runs)[REPORTED_METRIC].to_numpy())
                    for _, row in rows.iterrows()
                ],
            )
            for question, rows in questions(table_of(runs)).items()
        ]
    )
