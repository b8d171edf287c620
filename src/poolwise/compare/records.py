"""Finished runs as a table: what each is, whom it can be held against, and what it answered.

Shapes: S stage-1 runs, R stage-2 runs on each, N test examples, C classes.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from pyarrow import parquet

from poolwise.command_line import SHORT_FORMS, in_stage_2
from poolwise.compare.inference import Answers, Axes, Estimate, mean_accuracy
from poolwise.runs import (
    METRICS_FILE,
    PREDICTIONS_FILE,
    STUDY,
    damaged_file,
    hash_of,
    read_record,
    without_seeds,
)
from poolwise.settings import ALL_LABELS, NO_OBJECTIVE, SELECTION_METRIC, UserError
from poolwise.words import first_line, nearest, some

log = logging.getLogger(__name__)

METRICS = [
    f"{split}/{name}"
    for split in ("dev", "test")
    for name in ("accuracy", "macro_f1", "matthews", "loss", "calibration_error")
]
REPORTED_METRIC = "test/accuracy"
DISTRUSTED_POOLERS = ("random", "stale", "never trained", "collapsed")
UNADAPTED = "not adapted"
"""How tables call an encoder that no stage 1 of poolwise trained."""
AFTER_PLAIN = "after plain MLM"
"""How they call one that MLM alone trained, for as long as the others (a budget of its own follows)."""

DRAWN_BY = ("head_seed", "order_seed", "pooler_seed")
"""Seeds of stage 2, beside `seed` and `label_seed`; null in a record where they change nothing."""
SEEDS = ("seed", "label_seed", *DRAWN_BY)
OF_THE_ENCODER = ("weights", "tokenizer")
"""Entries of a stage-2 run's material that another stage-1 run changes."""
OF_THE_REPRESENTATION = ("representation", "representation_rate")
"""Those that another representation changes; some have a learning rate of their own."""


def read_runs(runs: Path, stage: str) -> pandas.DataFrame:
    """A row for each finished run of a stage: its record, metrics and folder; empty where there is none.

    Stage-2 runs also have `setting` (a key of all that changes their numbers, less encoder, representation, seeds and
    learning rate: what is compared shares it), `family` (the same less the number of labels), `setting_label`,
    `adaptation` (what the encoder is, in words), `encoder_key` (the same as a key), `label` (the representation,
    marked where its pooler should not be trusted), `learning_rate`, `labels` (a class; NaN for all), `draws_labels`
    (whether `label_seed` drew these, or folds) and `study` (of `poolwise.tune`; None for a run that is no trial).
    """
    rows: list[dict[str, Any]] = []
    for folder in sorted((runs / stage).glob("*")):
        record = read_record(folder)
        try:
            if record is None or record["status"] != "finished":
                continue
            compared = _compared(record) if stage == "sentiment" else {}
            if stage == "sentiment":
                _check_complete(record, folder)
            rows.append({**record, **record["metrics"], **compared, "folder": str(folder)})
        except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            log.warning("%s is broken and left out (%s)", folder, first_line(error))
    found = pandas.DataFrame(rows)
    if found.empty or stage != "sentiment":
        return found
    return pandas.concat([_told_apart(part) for _, part in found.groupby(found[STUDY].notna())]).sort_index()


NEEDED = ("material", "config", "representation", "pooler_status", "label_names", "started", "versions")

NUMERICS = "numerics_version"
TEXT, SEED = (str,), (int, type(None))
TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("condition", "data", "model", "encoder", "repr", "protocol", "started", "pooler_status"), TEXT),
    **dict.fromkeys(("stage1_seed", "seed", "label_seed", "head_seed", "order_seed", "pooler_seed"), SEED),
    **dict.fromkeys(("material", "config", "representation", "versions", "metrics"), (dict,)),
    "objective": (str, type(None)),
    NUMERICS: (int, type(None)),
    "label_names": (list,),
    "wall_seconds": (int, float, type(None)),
}
"""What these entries of a record are; of a record from elsewhere nothing is taken for granted."""


def _check_complete(record: Mapping[str, Any], folder: Path) -> None:
    """Raise a ValueError or an OSError unless all is there that a comparison reads."""
    lacking = [name for name in NEEDED if name not in record]
    lacking += [f"{name} as it should be" for name, kind in TYPES.items() if not isinstance(record.get(name), kind)]
    lacking += [name for name in (SELECTION_METRIC, REPORTED_METRIC) if record["metrics"].get(name) is None]
    if lacking:
        raise ValueError(f"its record lacks {', '.join(lacking)}")
    parquet.read_schema(folder / PREDICTIONS_FILE)
    damaged = damaged_file(folder, record)
    if damaged is not None:
        raise ValueError(f"{damaged.name} does not fit its checksum; the run's command makes it anew")


def _compared(record: Mapping[str, Any]) -> dict[str, Any]:
    material = dict(record["material"])
    protocol = dict(material["protocol"])
    optimisation = dict(protocol.get("optimisation", {}))
    learning_rate = optimisation.pop("learning_rate", None)
    labels = dict(material.pop("labels", {}))
    shared = {key: value for key, value in material.items() if key not in (*OF_THE_REPRESENTATION, *OF_THE_ENCODER)}
    shared |= {"protocol": {**protocol, "optimisation": optimisation}}
    names = [record.get(NUMERICS, 1), record["data"], record["model"]]  # the first days' are of version 1
    family = hash_of([names, without_seeds(shared)])[:8]
    count = labels.get("per_class")
    return {
        "family": family,
        "setting": hash_of([family, count, labels.get("passes_an_epoch", 1)])[:8],
        "setting_label": f"{record['data']}, {record['model']}, {record['protocol']}",
        "adaptation": _adaptation(record),
        "encoder_key": str(record.get("encoder_condition", material.get("weights"))),
        "label": label_of(record),
        "learning_rate": learning_rate,
        "labels": float("nan") if count is None else float(count),
        "draws_labels": count is not None or protocol.get("folds") is not None,
        STUDY: record.get(STUDY),
    }


def _adaptation(record: Mapping[str, Any]) -> str:
    objective = record["objective"]
    if objective is not None:
        name, dash, budget = str(objective).partition("-")
        return f"{AFTER_PLAIN}{dash}{budget}" if name == NO_OBJECTIVE else f"after stage 1 with {objective}"
    return UNADAPTED if record["encoder"] == "base" else f"encoder {record['encoder']}"


def label_of(record: Mapping[str, Any]) -> str:
    """The representation's name, with the pooler's state where it should not be trusted."""
    status = record["pooler_status"]
    doubtful = record["repr"].split("@")[0] == "pooler" and status in DISTRUSTED_POOLERS
    return f"{record['repr']} ({status})" if doubtful else str(record["repr"])


def _told_apart(runs: pandas.DataFrame) -> pandas.DataFrame:
    """With what differs, after words that several settings, or several encoders of a setting, share."""
    for words, key, within in (("setting_label", "setting", []), ("adaptation", "encoder_key", ["setting"])):
        told = runs[words].copy()
        for _, rows in runs.groupby([*within, words]):
            firsts = rows.drop_duplicates(key)
            if len(firsts) > 1:
                marks = dict(zip(firsts[key], _differences(firsts, key, stage1=bool(within)), strict=True))
                told[rows.index] = rows[words] + " (" + rows[key].map(marks) + ")"
        runs = runs.assign(**{words: told})
    return runs


LEFT_OUT = (
    *("seed", "repr", "encoder", "logger", "runs_dir", "cache_dir", "workers", "learning_rate", "path", "name"),
    *("retry_failed", "stop_on_failure", "keep_model"),
)
"""Parts of a key of the config that do not tell settings apart."""
MOST_DIFFERENCES = 3


def _differences(firsts: pandas.DataFrame, key: str, stage1: bool) -> list[str]:
    """Of each run, which settings of `stage1` or of all else it alone has; a key where the config does not tell."""
    versions = firsts.get(NUMERICS, pandas.Series(1, index=firsts.index))
    known = versions.fillna(1).astype(int)
    found = [{**_flat(config), NUMERICS: version} for config, version in zip(firsts["config"], known, strict=True)]
    names = {name for config in found for name in config if name.startswith("stage1.") == stage1}
    told = sorted(
        name
        for name in names
        if not any(part.endswith(LEFT_OUT) for part in name.split("."))
        and len({str(config.get(name)) for config in found}) > 1
    )[:MOST_DIFFERENCES]
    words = [", ".join(f"{name}={config.get(name)}" for name in told) for config in found]
    keys = [hash_of(value)[:4] for value in firsts[key]]
    return [word if word and words.count(word) == 1 else mark for word, mark in zip(words, keys, strict=True)]


def _flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return found


FILTERED_SETTINGS = ("data", "model", "encoder", "objective", "protocol", "repr")


def common_settings(records: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What tells the runs of these records from others in W&B: the values of settings that all have, and conditions."""
    rows = list(records)
    names = (*FILTERED_SETTINGS, "condition")
    values: dict[str, set[Any]] = {name: {row.get(name) for row in rows} for name in names}
    return {name: sorted(found) for name, found in values.items() if all(isinstance(each, str) for each in found)}


def is_asked_for(key: str, selection: Sequence[str]) -> bool:
    """Whether a selection names a key."""
    return any(word.partition("=")[0] == key for word in selection)


def selected(runs: pandas.DataFrame, selection: Sequence[str]) -> pandas.DataFrame:
    """The runs that fit all of `KEY=VALUE[,VALUE...]`: keys as train.py takes them, or of the record.

    Trials of `poolwise.tune` are left out, unless `study=` asks for those of a study.

    Raises:
        UserError: something is no such pair, names no key, or leaves no run.
    """
    if not is_asked_for(STUDY, selection):
        studies = sorted(set(runs[STUDY].dropna()))
        runs = runs[runs[STUDY].isna()]
        if runs.empty:
            raise UserError(
                "all finished runs are trials of poolwise.tune, which a report leaves out; those of a study are "
                f"compared by {STUDY}=NAME; there are: {some(studies, 12)}"
            )
    for word in selection:
        key, equals, values = word.partition("=")
        rows = runs.to_dict("records")
        known = {name for record in rows for name in _keys(record)}
        if not equals or _place(key) not in known:
            raise UserError(f"{word}: not KEY=VALUE with a key of the config, such as data=demo{nearest(key, known)}")
        found = [_values(record, _place(key)) for record in rows]
        wanted = {_normal(value.removesuffix(RATES) if key == "protocol" else value) for value in values.split(",")}
        kept = [not wanted.isdisjoint(map(_normal, own)) for own in found]
        if not any(kept):
            there = sorted(set().union(*found))
            raise UserError(f"{word}: no finished run has this; there are: {some(there, 12) or 'none'}")
        runs = runs[kept]
    return runs


RATES = "_rates"
"""How protocols end that are another one at several learning rates; a run is of that one."""
RECORD_KEYS = ("data", "model", "encoder", "repr", "protocol", "condition", STUDY, *SEEDS)
"""What a run is selected by in its record, under the same name."""
OF_STAGE_1 = {"stage1.objective": "objective", "stage1.seed": "stage1_seed"}
"""Places in the config of stage 2, and what the record says there; both are null for an encoder without a stage 1."""


def _place(key: str) -> str:
    """Where the config of stage 2 has what train.py, in either stage, or the record calls so."""
    if key in SHORT_FORMS:
        return f"stage1.{key}"
    for place, name in OF_STAGE_1.items():
        if key == name:
            return place
    key = in_stage_2(key) or key
    return key.partition("@")[2] or key  # objective@stage1.objective lies at stage1.objective


def _keys(record: Mapping[str, Any]) -> set[str]:
    """Of the record, of the config's settings, and of its groups."""
    config = _flat(record["config"])
    groups = {name.rsplit(".", depth)[0] for name in config for depth in range(1, name.count(".") + 1)}
    return set(config) | groups | {key for key in RECORD_KEYS if key in record} | set(OF_STAGE_1)


def _values(record: Mapping[str, Any], place: str) -> set[str]:
    """What a record may be selected by at a place: what it says itself, and what the config has there.

    The settings of stage 1 in the config are those of the run only where it read that stage-1 run.
    """
    found = {record.get(place)} if place in RECORD_KEYS else {record.get(OF_STAGE_1.get(place, ""))}
    if place == "stage1.objective":
        names = {name.partition("-")[0] for name in found if isinstance(name, str)}  # without its budget
        found |= names | ({"combined"} if any("+" in name for name in names) else set())
    if place.partition(".")[0] != "stage1" or record["encoder"] == "stage1":
        found |= _configured(record["config"], place.split("."))
    words = {_written(each) for each in found if not pandas.isna(each)}
    if place == "labels_per_class" and "null" in words:
        words.add(ALL_LABELS)
    return words


def _configured(config: Any, path: Sequence[str]) -> set[Any]:
    """The value at a path of the config, `null` for none, or name and path of the group there; empty if not there."""
    for part in path:
        if not isinstance(config, Mapping) or part not in config:
            return set()
        config = config[part]
    if isinstance(config, Mapping):
        return {config[name] for name in ("name", "path") if config.get(name) is not None}
    return {"null" if config is None else str(config) if isinstance(config, list) else config}


def _normal(text: str) -> str:
    """One spelling of a value: 2e-3 is 0.002, True is true."""
    try:
        return _written(float(text))
    except ValueError:
        return text.lower()


def _written(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)  # 15 digits, so that seeds stay whole


def with_chosen_learning_rates(runs: pandas.DataFrame) -> pandas.DataFrame:
    """Of each condition's runs those of the learning rate that is best on dev; `tried` says which it was chosen from.

    The mean of the selection metric decides, over the seeds that the rates share, if they share any; of equal ones the
    lower rate. Only rates with at least half as many runs as any has are chosen from: of many tried once, one is best
    by luck. Test is not looked at. A condition with more rates to choose from than others has an advantage: see
    `unlike_rates`.
    """
    conditions = runs.groupby(["setting", "encoder_key", "repr"], sort=False)
    return pandas.concat([_of_best_rate(rows) for _, rows in conditions]).sort_index()


def _of_best_rate(runs: pandas.DataFrame) -> pandas.DataFrame:
    """The same of one condition. One whose rates were tried on some seeds before one was taken for more was chosen from
    all of these, by a person or here."""
    if runs["learning_rate"].isna().all():
        return runs.assign(tried="")
    seeds = runs.reindex(columns=["stage1_seed", *SEEDS]).map(str).agg(" ".join, axis=1)
    scores = runs.groupby([runs["learning_rate"], seeds])[SELECTION_METRIC].mean().unstack()
    counts = runs["learning_rate"].value_counts().reindex(scores.index)
    often = counts >= counts.max() / 2
    shared = scores[often].dropna(axis=1)
    best = (shared if len(shared.columns) else scores[often]).mean(axis=1).idxmax()
    tried = often | scores.loc[:, scores.loc[best].notna()].notna().any(axis=1)
    words = " ".join(map(_written, scores.index[tried]))
    return runs[runs["learning_rate"] == best].assign(tried=words)


class Condition:
    """The runs of one representation on one encoder, in one setting.

    Attributes:
        adaptation, label: the encoder and the representation in words.
        objective: of its stage 1, with the budget; None for an encoder that no stage 1 of poolwise trained.
        representation: its name.
        runs: rows of `read_runs`.
    """

    def __init__(self, runs: pandas.DataFrame) -> None:
        """Take the rows, all of one condition."""
        first = runs.iloc[0]
        self.adaptation, self.representation = str(first["adaptation"]), str(first["repr"])
        self.objective: str | None = first["objective"] if isinstance(first["objective"], str) else None
        self.label = max(runs["label"], key=len)  # a mark of one run's pooler is a mark of all
        self.runs = runs

    @property
    def name(self) -> str:
        """Encoder and representation in words."""
        return f"{self.label} {self.adaptation}"

    @property
    def dev(self) -> float:
        """Mean of the selection metric."""
        return float(self.runs[SELECTION_METRIC].mean())

    @property
    def adapted(self) -> bool:
        """Whether its stage-1 runs are known by their seeds."""
        return bool(self.runs["stage1_seed"].notna().all())

    @property
    def random(self) -> bool:
        """Whether stage 2 drew anything but labels: nothing is random in a probe of a trained encoder."""
        return not {"seed", *DRAWN_BY}.isdisjoint(self.seeds())

    @property
    def unit(self) -> str:
        """What its runs on one encoder differ in."""
        return "run" if self.random or not self.runs["draws_labels"].all() else self.draw

    @property
    def draw(self) -> str:
        """What `label_seed` draws, where it draws something."""
        return "fold draw" if self.runs["labels"].isna().all() else "label draw"

    def seeds(self) -> pandas.DataFrame:
        """A row a run: the seeds that all of them depend on, and its folder."""
        return self._seeds

    @cached_property
    def _seeds(self) -> pandas.DataFrame:
        columns = {name: self.runs[name] for name in DRAWN_BY if name in self.runs and self.runs[name].notna().all()}
        if all("seed" in material for material in self.runs["material"]):
            columns["seed"] = self.runs["seed"]
        if self.runs["draws_labels"].all():
            columns["label_seed"] = self.runs["label_seed"]
        if self.adapted:
            columns["stage1_seed"] = self.runs["stage1_seed"]
        whole = {name: seeds.astype(int) for name, seeds in columns.items()}  # floats where other runs have none
        return pandas.DataFrame({**whole, "folder": self.runs["folder"]}).sort_values([*columns, "folder"])

    @cached_property
    def accuracy(self) -> Estimate:
        """In points, with what its interval rests on."""
        answers, axes = self.answers()
        return mean_accuracy(answers, axes=axes)

    @property
    def mistakes(self) -> float:
        """Test texts that a run answers wrong, on average; or right, if these are fewer."""
        wrong = 100 - self.accuracy.points
        return self.accuracy.examples * min(wrong, self.accuracy.points) / 100

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `accuracy`, in points, as far as it lies between 0 and 100."""
        return max(self.accuracy.low, 0.0), min(self.accuracy.high, 100.0)

    def answers(self) -> tuple[Answers, Axes]:
        """Which test examples are answered right, (S, R, N); by share of runs where stage-1 runs have unlike many."""
        return _answers(self, self.units())

    def draws_left_out(self) -> list[int]:
        """Draws of labels that only some of its stage-1 runs have, or of what differs on one encoder, beside some that
        all have."""
        seeds = self.seeds()
        units = seeds["stage1_seed"] if len(self.units()) > 1 else _unit_on_one_encoder(seeds)
        if units is None or "label_seed" not in seeds:
            return []
        every = [set(draws) for _, draws in seeds.groupby(np.asarray(units))["label_seed"]]
        common = set.intersection(*every)
        return sorted(set.union(*every) - common) if common else []

    def units(self) -> list[list[str]]:
        """The folders of the runs on each stage-1 run; one list where the encoder is not adapted."""
        seeds = self.seeds()
        return [list(rows["folder"]) for _, rows in (seeds.groupby("stage1_seed") if self.adapted else [("", seeds)])]

    def by_unit(self, metric: str) -> "pandas.Series[float]":
        """The mean of a metric on each stage-1 run; of each run where there is one stage-1 run, or none."""
        values = self.runs.set_index("folder")[metric].astype(float)
        units = self.units()
        return values if len(units) == 1 else pandas.Series([values[unit].mean() for unit in units])


Folders = list[list[str]]
"""The run folders of each of S stage-1 runs: R of them, or where these share draws of labels, any number for each."""


def matched(conditions: Sequence[Condition]) -> list[Folders] | None:
    """The runs of several conditions that can be paired: those that agree in all seeds that both depend on.

    On each stage-1 run as many as all have, or where they share draws of labels, those of the draws that all have. Runs
    of an encoder that is not adapted have no stage-1 seed: beside adapted ones they are dealt out, each once, so that
    their spread counts; where nothing in them is random, the same ones stand beside each stage-1 run.

    Returns:
        The folders of each condition; None where there are none in common.
    """
    adapted = [condition.seeds() for condition in conditions if condition.adapted]
    tables = [
        _dealt(condition.seeds(), adapted[0])
        if adapted and condition.random and not condition.adapted
        else condition.seeds()
        for condition in conditions
    ]
    joined = tables[0].rename(columns={"folder": "folder0"})
    for place, table in enumerate(tables[1:], 1):
        right_hand = table.rename(columns={"folder": f"folder{place}"})
        shared = [name for name in right_hand if name in joined]
        joined = joined.merge(right_hand, on=shared) if shared else joined.merge(right_hand, how="cross")
    for place, condition in enumerate(conditions):
        if condition.random:  # one run in the place of several would hide their spread
            joined = joined.drop_duplicates(f"folder{place}")
    if joined.empty:
        return None
    units = [rows for _, rows in joined.groupby("stage1_seed")] if "stage1_seed" in joined else [joined]
    common = _common([set(rows["label_seed"]) for rows in units]) if "label_seed" in joined else []
    fewest = min(map(len, units))
    units = [rows[rows["label_seed"].isin(common)] if common else rows[:fewest] for rows in units]
    return [[list(rows[f"folder{place}"]) for rows in units] for place in range(len(tables))]


def _common(draws: Sequence[set[int]]) -> list[int]:
    """The draws of labels that all units share; none where it is one, which says nothing of the spread of others."""
    common = set.intersection(*draws)
    return sorted(common) if len(common) > 1 else []


def _dealt(runs: pandas.DataFrame, adapted: pandas.DataFrame) -> pandas.DataFrame:
    """Runs without stage-1 seeds, each in the place of an adapted run: of the same draw of labels, where both draw any,
    and on the stage-1 run that has the fewest yet; where there are several of each draw, one stage-1 run after the
    other, so that these have their draws in common."""
    several = "label_seed" in runs and runs["label_seed"].value_counts().min() > 1
    free = adapted.drop(columns="folder").sort_values("stage1_seed", kind="stable").to_dict("records")
    taken: Counter[int] = Counter()
    dealt = []
    for run in runs.to_dict("records"):
        fitting = [place for place in free if place.get("label_seed") == run.get("label_seed", place.get("label_seed"))]
        if fitting:
            place = fitting[0] if several else min(fitting, key=lambda place: taken[place["stage1_seed"]])
            free.remove(place)
            taken[place["stage1_seed"]] += 1
            dealt.append({**place, "folder": run["folder"]})
    return pandas.DataFrame(dealt, columns=adapted.columns)


def paired_answers(conditions: Sequence[Condition]) -> tuple[list[Answers], Axes] | None:
    """Which test examples each condition answers right, in runs that are paired; None where none can be."""
    folders = matched(conditions)
    if folders is None:
        return None
    adapted = next((place for place, condition in enumerate(conditions) if condition.adapted), 0)
    found = [_answers(conditions[adapted], of_one, by=folders[adapted]) for of_one in folders]
    return [answers for answers, _ in found], found[0][1]


def _answers(condition: Condition, folders: Folders, by: Folders | None = None) -> tuple[Answers, Axes]:
    """(S, R, N).

    Runs that share a draw of labels, say, are no units of their own. Where units share draws, they count by their mean
    for each draw that all have. On one encoder the seed with the fewest levels, of those that differ and are not of
    labels, makes the units, and runs that share it count by their mean, so that what other seeds do to all of these
    alike is not seen.

    Args:
        condition: whose seeds `by` has.
        folders: as `Folders`.
        by: the folders of `condition` in the same places; None for `folders` themselves.
    """
    every = condition.seeds().set_index("folder").drop(columns="stage1_seed", errors="ignore")
    found = [np.array([right(folder) for folder in row]) for row in folders]
    seeds = [every.loc[row] for row in by or folders]
    one_encoder = len(folders) == 1
    if one_encoder and (unit := _unit_on_one_encoder(seeds[0])) is not None:
        found = [found[0][unit == level] for level in np.unique(unit)]
        seeds = [seeds[0][unit == level] for level in np.unique(unit)]
    draws = [each["label_seed"].to_numpy() for each in seeds] if "label_seed" in every else []
    common = _common([set(each.tolist()) for each in draws]) if draws else []
    if common and len(found) > 1:
        means = [[rows[each == draw].mean(axis=0) for draw in common] for rows, each in zip(found, draws, strict=True)]
        return np.array(means), Axes(shared_draws=True, one_encoder=one_encoder)
    if len(found) > 1 and (one_encoder or len({len(rows) for rows in found}) > 1):
        found = [rows.mean(axis=0, keepdims=True) for rows in found]
    if not one_encoder:
        return np.stack(found), Axes()
    draws_alone = [name for name in every if seeds[0][name].nunique() > 1] == ["label_seed"]
    return np.concatenate(found)[None], Axes(shared_draws=draws_alone and len(found) == 1)


def _unit_on_one_encoder(seeds: pandas.DataFrame) -> ndarray | None:
    """Of each run the level of what makes the units, where several runs share one."""
    levels = {name: seeds[name].nunique() for name in seeds}
    shared = [name for name in levels if 1 < levels[name] < len(seeds)]
    units = [name for name in shared if name != "label_seed"] or shared
    return np.asarray(seeds[min(units, key=lambda name: levels[name])]) if units else None


@cache
def predictions(
    folder: str, split: str = "test"
) -> tuple[Float[ndarray, "N C"], Int[ndarray, " N"], Int[ndarray, " N"]]:
    """Logits, labels and example numbers of a run's split, in the order of examples."""
    rows = _rows_of(folder, split, ["label", "logits"])
    return np.stack(list(rows["logits"])), rows["label"].to_numpy(), rows["example"].to_numpy()


def components(folder: str) -> Float[ndarray, "N 2"] | None:
    """The test vectors on their first two principal components; None where the run kept none."""
    names = ["component_1", "component_2"]
    rows = _rows_of(folder, "test", names)
    found: ndarray | None = rows[names].to_numpy(dtype=float) if set(names) <= set(rows) else None
    return found


def _rows_of(folder: str, split: str, columns: Sequence[str]) -> pandas.DataFrame:
    """Of these columns those that a run kept of a split, and the example numbers, in the order of these."""
    with parquet.ParquetFile(Path(folder) / PREDICTIONS_FILE) as file:  # pandas' own way takes twice as long
        rows = file.read(columns=["split", "example", *columns]).to_pandas()
    return rows[rows["split"] == split].sort_values("example")


@cache
def right(folder: str) -> Bool[ndarray, " N"]:
    """Which test examples a run answers right."""
    logits, labels, _ = predictions(folder)
    answers: ndarray = logits.argmax(axis=1) == labels
    return answers


def majority_share(folder: str) -> float:
    """The share of a run's test examples that have the most frequent label."""
    labels = predictions(folder)[1]
    return float(np.bincount(labels).max() / len(labels))


def steps_of(folder: str, metric: str) -> list[tuple[int, float]]:
    """Step and value wherever a run logged a metric."""
    file = Path(folder) / METRICS_FILE
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    found = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):  # of a damaged run of the first days: others have a checksum
            row = json.loads(line)
            found.append((int(row["step"]), float(row[metric])))
    return found
