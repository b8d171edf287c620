"""What a set of finished runs says about representations, with its spread.

Shapes: S seeds, N test examples.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from jaxtyping import Bool
from numpy import ndarray
from scipy import stats

from poolwise.compare.inference import Estimate, holm, in_words, paired_difference
from poolwise.runs import PREDICTIONS_FILE, hash_of, read_record, without_seeds
from poolwise.settings import SELECTION_METRIC, STAGE_2_SEEDS

NAME_COLUMNS = ["data", "model", "encoder", "objective", "stage1_seed", "protocol"]
SETTING_COLUMNS = ["question", *NAME_COLUMNS, "repr"]
"""What a row of the comparison shares; runs in it differ in the seeds of stage 2 only."""

METRICS = [
    f"{split}/{name}"
    for split in ("dev", "test")
    for name in ("accuracy", "macro_f1", "matthews", "loss", "calibration_error")
]
REPORTED_METRIC = "test/accuracy"
CONFIDENCE = 0.95
DISTRUSTED_POOLERS = ("random", "stale", "never trained", "collapsed")


def read_runs(runs: Path, stage: str) -> pandas.DataFrame:
    """One row per finished run of a stage, with its settings, metrics and folder; empty where there is none."""
    rows: list[dict[str, Any]] = []
    for folder in sorted((runs / stage).glob("*")):
        record = read_record(folder)
        if record is not None and record["status"] == "finished":
            question = question_key(record)
            own = {"question": question, "seeds": seeds_of(record), "folder": str(folder)}
            rows.append({**record, **record["metrics"], **own})
    return pandas.DataFrame(rows)


def seeds_of(record: dict[str, Any]) -> tuple[int, ...]:
    """The seeds of a run, by which runs are counted and paired: `seed`, and for each source of variance its own.

    A seed that changes nothing there, or that the record of an older run lacks, counts as `seed`.
    """
    own = (record.get(name) for name in STAGE_2_SEEDS)
    return (record["seed"], *(record["seed"] if seed is None else seed for seed in own))


def question_key(record: dict[str, Any]) -> str:
    """What runs must share to be compared by representation: names, and all that changes numbers but that and the seed.

    Records of the first days lack the numerics version; they are of version 1.
    """
    material = {key: value for key, value in record["material"].items() if key != "representation"}
    names = [record.get(name) for name in NAME_COLUMNS]  # stage 1 has no encoder or protocol
    return hash_of([record.get("numerics_version", 1), names, without_seeds(material)])[:8]


def table_of(runs: pandas.DataFrame) -> pandas.DataFrame:
    """One row per condition: number of runs, and mean, sd (n - 1), lowest and highest of each metric.

    A pooler that is random, stale or was never trained is called that beside its name.
    """
    runs = runs.assign(label=[label_of(run) for _, run in runs.iterrows()])
    groups = runs.groupby([*SETTING_COLUMNS, "label"], dropna=False, sort=False)
    columns = {"runs": ("seeds", "nunique")}
    for metric in METRICS:
        for statistic in ("mean", "std", "min", "max"):
            columns[f"{metric} {statistic}"] = (metric, statistic)
    table = groups.agg(**columns).reset_index()
    return table.sort_values([*NAME_COLUMNS, "question", f"{SELECTION_METRIC} mean"], ascending=False)


def label_of(run: pandas.Series) -> str:
    """The representation's name, with the pooler's state where it should not be trusted."""
    status = run["pooler_status"]
    doubtful = run["repr"].split("@")[0] == "pooler" and status in DISTRUSTED_POOLERS
    return f"{run['repr']} ({status})" if doubtful else str(run["repr"])


def difference(first: pandas.DataFrame, second: pandas.DataFrame) -> Estimate | None:
    """First less second in test accuracy, paired by seed and by test example; None without a seed in common.

    Args:
        first: the runs of one condition, as from `read_runs`.
        second: the runs of another on the same encoder and the same test set.
    """
    folders = [dict(zip(runs["seeds"], runs["folder"], strict=True)) for runs in (first, second)]
    seeds = sorted(folders[0].keys() & folders[1].keys())
    if not seeds:
        return None
    answers = [np.stack([[_correct(by_seeds[seed]) for seed in seeds]]) for by_seeds in folders]
    return paired_difference(answers[0], answers[1])


POWER = 0.8
DISAGREEMENT = 0.10
"""Share of test texts on which two fine-tuned classifiers of like accuracy are taken to differ in being right."""
SEED_DEVIATION = 0.5
"""Points; the standard deviation over seeds that a fine-tuned encoder is taken to have."""


def smallest_difference(examples: int, seeds: int) -> float:
    """The difference in accuracy, in points, that two conditions must have to be told apart with probability 0.8.

    The larger of two: what N test examples can show, (z_0.975 + z_0.8) sqrt(d / N) for paired answers with a share d
    of disagreement (Connor 1987; Card et al. 2020 for NLP), and what S seeds can show, (t_0.975 + t_0.8)
    sqrt(2 s^2 / S) with S - 1 degrees of freedom. d = 10 % and s = 0.5 points are assumed, as nothing has been run
    yet. For one seed, which has no spread, what the examples alone can show.
    """
    by_examples = (stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER)) * math.sqrt(DISAGREEMENT / examples)
    if seeds < 2:
        return float(100 * by_examples)
    quantiles = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) + stats.t.ppf(POWER, seeds - 1)
    by_seeds = quantiles * SEED_DEVIATION * math.sqrt(2 / seeds)
    return float(max(100 * by_examples, by_seeds))


def power_in_words(examples: int, seeds: int) -> str:
    """What a sweep can show, before it is run."""
    if seeds < 2:
        return (
            f"nothing for sure, as one seed has no spread (give several: seed=1,2,3); its {examples:,} test texts "
            f"alone could show differences of about {smallest_difference(examples, seeds):.1f} points in accuracy"
        )
    return (
        f"differences of about {smallest_difference(examples, seeds):.1f} points in accuracy, by {examples:,} test "
        f"texts and {seeds} seeds (two runs taken to disagree on {DISAGREEMENT:.0%} of texts, seeds to spread by "
        f"{SEED_DEVIATION} points, as large encoders do; small ones spread more)"
    )


NO_BETTER = 1.0
"""Points; a classifier this close to a constant answer has learnt nothing that is worth comparing."""


def majority_share(folder: str) -> float:
    """The share of a run's test examples that have the most frequent label."""
    rows = pandas.read_parquet(Path(folder) / PREDICTIONS_FILE)
    return float(rows.loc[rows["split"] == "test", "label"].value_counts(normalize=True).iloc[0])


def _correct(folder: str) -> Bool[ndarray, " N"]:
    rows = pandas.read_parquet(Path(folder) / PREDICTIONS_FILE)
    test = rows[rows["split"] == "test"].sort_values("example")
    correct: ndarray = np.stack(list(test["logits"])).argmax(axis=1) == test["label"].to_numpy()
    return correct


def questions(table: pandas.DataFrame) -> dict[str, pandas.DataFrame]:
    """The rows of `table_of` that answer one question each, by the question's words.

    Words such as `demo, tiny after stage 1 with bow (seed 1), finetune`; where runs with other settings have the
    same words, the key of the question follows.
    """
    groups = {str(key): rows for key, rows in table.groupby("question", sort=False)}
    words = {key: _question_in_words(rows.iloc[0]) for key, rows in groups.items()}
    shared = {text for text in words.values() if list(words.values()).count(text) > 1}
    return {f"{words[key]} [{key}]" if words[key] in shared else words[key]: rows for key, rows in groups.items()}


def _question_in_words(row: pandas.Series) -> str:
    if pandas.notna(row["objective"]):
        encoder = f"{row['model']} after stage 1 with {row['objective']} (seed {row['stage1_seed']:g})"
    elif row["encoder"] == "base":
        encoder = f"{row['model']}, not adapted"
    else:
        encoder = f"encoder {row['encoder']}"
    return f"{row['data']}, {encoder}, {row['protocol']}"


def verdict(rows: pandas.DataFrame, runs: pandas.DataFrame) -> str:
    """The answer to one question in words: the best on dev, its test figure, and how sure that is.

    Args:
        rows: of `questions`.
        runs: of `read_runs`.
    """
    best = rows.iloc[0]
    mean, spread = 100 * best[f"{REPORTED_METRIC} mean"], 100 * best[f"{REPORTED_METRIC} std"]
    over = "one seed" if best["runs"] == 1 else f"sd {spread:.1f} over {best['runs']} seeds"
    words = f"Use {best['label']}, the best on dev; test accuracy {mean:.1f} % ({over})."
    constant = 100 * majority_share(runs_of(best, runs)["folder"].iloc[0])
    if mean <= constant + NO_BETTER:
        words = (
            f"Use none of these yet: the best on dev, {best['label']}, is right on {mean:.1f} % of test texts "
            f"({over}), always answering the most frequent class on {constant:.1f} %. Train longer, or on more text."
        )
    if len(rows) == 1:
        return words + " There is nothing to compare it with yet."
    compared = {
        other["label"]: difference(runs_of(best, runs), runs_of(other, runs)) for _, other in rows.iloc[1:].iterrows()
    }
    return " ".join([words, _comparison_in_words(best["label"], compared), *_hypotheses_in_words(rows, runs)])


def runs_of(row: pandas.Series, runs: pandas.DataFrame) -> pandas.DataFrame:
    """The runs that a row of `table_of` is about."""
    return runs[(runs["question"] == row["question"]) & (runs["repr"] == row["repr"])]


def _comparison_in_words(best: str, compared: dict[str, Estimate | None]) -> str:
    """A sentence for each of the others, with p-values that allow for their number (Holm)."""
    told = {other: gap for other, gap in compared.items() if gap is not None}
    adjusted = holm(np.array([gap.p for gap in told.values()]))
    sentences = [
        _sentence(best, other, gap, float(p), len(told)) for (other, gap), p in zip(told.items(), adjusted, strict=True)
    ]
    return " ".join(sentences + [f"{best} and {other} have no seed in common." for other in compared.keys() - told])


HYPOTHESES = {"H1": ("pooler", "cls"), "H2": ("cls_linear", "cls")}
"""Claims that people repeat without figures: the first beats the second."""


def _hypotheses_in_words(rows: pandas.DataFrame, runs: pandas.DataFrame) -> list[str]:
    found = []
    for name, pair in HYPOTHESES.items():
        conditions = [rows[rows["repr"] == representation] for representation in pair]
        if all(len(condition) == 1 for condition in conditions):
            first, second = (condition.iloc[0] for condition in conditions)
            gap = difference(runs_of(first, runs), runs_of(second, runs))
            if gap is not None:
                sentence = _sentence(first["label"], second["label"], gap, gap.p, 1)
                found.append(f"{name}, {pair[0]} beats {pair[1]}: {sentence}")
    return found


def _sentence(first: str, second: str, gap: Estimate, adjusted_p: float, pairs: int) -> str:
    words = in_words(first, second, gap, adjusted_p, pairs=pairs)
    words = words.replace("cannot", "Cannot") if words.startswith("cannot") else words
    return words + (" (one run each: said of these alone)." if gap.stage2_runs == 1 else ".")
