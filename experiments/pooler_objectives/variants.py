"""Settings of the objectives, tuned on dev: each variant is trained with stage-1 seed 1 and probed; test is not read.

    python experiments/pooler_objectives/variants.py FOLDER [--rows variants.csv]

`FOLDER` is that of `grid.py`, and one process at a time works there; what is done already is left alone. Without
`--rows` the variants are carried out; with it those that are done are written as rows: dev accuracy (%) at 8, 32 and
128 labels a class and with all, C chosen on dev.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas
from grid import CONDITIONS, HERE, MAX_LENGTH, PREFIXES, Run, train_command

SEED = 1
LABELS = ("8", "32", "128", "all")
REPRESENTATIONS = ("cls", "pooler", "mean")


def weights(*values: float) -> list[str]:
    """Settings of the loss' weight."""
    return [f"objective.weight={value}" for value in values]


POOLER_RATE = "pretraining.pooler_learning_rate"
VARIANTS: dict[str, dict[str, list[str]]] = {
    "mr": {
        "none": [""],
        "halves_bow": ["", *(f"{POOLER_RATE}={rate}" for rate in ("null", "2e-3", "5e-3"))],
        "halves_bow_pooler_only": [f"{POOLER_RATE}={rate}" for rate in ("1e-3", "5e-3", "2e-2")],
        "views": [*weights(0.1, 1, 10), "objective.temperature=0.2", "objective.projection_size=256"],
        "decoder": weights(1, 10, 100),
        "bow": [
            "",
            "objective.idf_weighted=true",
            "objective.largest_document_share=0.1",
            "objective.weight_schedule=decay",
        ],
        "halves": ["", "objective.topic_neighbours=true"],
        "simcse": weights(1, 10),
    },
    "imdb": {"none": [""], "sop": weights(0.1, 10), "nsp": weights(0.1, 10)},
}
"""By data and condition: what is set beside it, `""` for nothing."""


def variants() -> Iterator[tuple[Run, str]]:
    """Each run with what it sets."""
    for data, by_condition in VARIANTS.items():
        for condition, settings in by_condition.items():
            yield from ((Run("neutral", data, condition, SEED), setting) for setting in settings)


def result_of(run: Run, setting: str, folder: Path) -> Path:
    """Where its probes are written."""
    return folder / "variants" / f"{run.name}-{setting or 'as_it_is'}.json"


def carry_out(run: Run, setting: str, folder: Path) -> None:
    """Train and probe on dev; the weights are not kept."""
    result, runs = result_of(run, setting, folder), folder / "runs" / run.name
    if result.exists():
        return
    result.parent.mkdir(exist_ok=True)
    shutil.rmtree(runs, ignore_errors=True)
    with result.with_suffix(".txt").open("w", encoding="utf-8") as log:
        command = [*train_command(run, folder), *([setting] if setting else [])]
        subprocess.run(command, stdout=log, stderr=log, check=True)
        (export,) = runs.glob("mlm/*/export")
        prefix = PREFIXES[run.data].format(folder=folder)
        probe = [sys.executable, HERE / "probe.py", prefix, result, export, "--max-length", str(MAX_LENGTH)]
        subprocess.run(probe, stdout=log, stderr=log, check=True)
    shutil.rmtree(runs)


def rows(folder: Path) -> Iterator[dict[str, str | float]]:
    """A row for each representation of each variant that is done."""
    for run, setting in variants():
        result = result_of(run, setting, folder)
        if result.exists():
            found = json.loads(result.read_text(encoding="utf-8"))
            for representation in REPRESENTATIONS:
                best = {
                    count: max(splits["dev"] for splits in found[representation][count].values()) for count in LABELS
                }
                yield {
                    "data": run.data,
                    "stage 1": " ".join(CONDITIONS[run.condition]),
                    "setting": setting,
                    "representation": representation,
                    **{count: round(accuracy, 1) for count, accuracy in best.items()},
                }


def main() -> None:
    """Carry out the variants, or write down what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=Path)
    arguments = parser.parse_args()
    if arguments.rows:
        pandas.DataFrame(rows(arguments.folder)).to_csv(arguments.rows, index=False)
        return
    for run, setting in variants():
        try:
            carry_out(run, setting, arguments.folder)
        except subprocess.CalledProcessError:
            print("failed:", run.name, setting, flush=True)
        else:
            print("done:", run.name, setting, flush=True)


if __name__ == "__main__":
    main()
