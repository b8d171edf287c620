"""The comparison as files: one self-contained page that reads like a short paper, Markdown, CSV and figures."""

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
from jinja2 import Environment
from markupsafe import Markup

from poolwise.command_line import program
from poolwise.compare.disagreement import DisputedText, disputed_texts
from poolwise.compare.drawings import Drawing, accuracies_drawn, details_drawn, labels_drawn, layers_drawn
from poolwise.compare.inference import LARGEST, LEVEL, smallest_detectable
from poolwise.compare.limits import limits_of
from poolwise.compare.records import (
    DRAWN_BY,
    METRICS,
    Condition,
    common_settings,
    is_asked_for,
    read_runs,
    selected,
    with_chosen_learning_rates,
)
from poolwise.compare.summary import one_for_all, summary_table
from poolwise.compare.tables import Table, markdown_table, markdown_text
from poolwise.compare.variance import variance_table
from poolwise.compare.verdict import Comparison, Setting, Verdict, called, overview, settings_of, verdict
from poolwise.runs import MODEL_FOLDER, STUDY, hash_of, write_atomically
from poolwise.settings import OFF, SELECTION_METRIC, UserError
from poolwise.words import counted, duration, signed, some

PERCENT_METRICS = {
    "dev F1": "dev/macro_f1",
    "test F1": "test/macro_f1",
    "Matthews": "test/matthews",
    "calibration": "test/calibration_error",
}
COLUMNS = ["representation", "runs", "test accuracy", "95 % interval", *PERCENT_METRICS, "loss"]
SETTING_COLUMNS = ("data", "model", "protocol", "labels", "setting")
LONGEST_NAME = 120
"""Characters of a report's folder; file systems take some more."""


@dataclass(frozen=True)
class Section:
    """One setting: its words, the answer, what else the runs say, tables and figures, and its runs in W&B (`where`)."""

    question: str
    answer: str
    notes: Sequence[str]
    table: Table
    variance: Table | None
    comparisons: Table | None
    drawings: Sequence[Drawing]
    details: Sequence[Drawing]
    disputed: Sequence[DisputedText]
    where: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Report:
    """What a report says of which stage-2 runs, and where its files lie.

    `summary` holds several settings at a glance; None where there is one. `formulas` are those of representations,
    `facts` how it was run, `provenance` where poolers come from, `kept` the folder of the run to use (see `kept_run`;
    none where there are several data sets).
    """

    runs: pandas.DataFrame
    overview: Sequence[str]
    summary: Table | None
    sections: Sequence[Section]
    labels: Sequence[Drawing]
    formulas: Mapping[str, str]
    facts: Mapping[str, str]
    provenance: Table | None
    limits: Sequence[str]
    kept: Path | None
    page: Path
    markdown: Path
    csv: Path
    differences: Path
    figures: Path


def write_report(runs_folder: Path, selection: Sequence[str] = (), texts: bool = True) -> Report:
    """Read all finished stage-2 runs that are selected, and write the comparison into `report/` (of a selection
    `report-SELECTION/`) beside them.

    Args:
        runs_folder: the folder of runs.
        selection: of `records.selected`.
        texts: whether the page shows texts, those on which representations disagree.

    Raises:
        UserError: there is no such run, or the folder cannot be written.
    """
    found = read_runs(runs_folder, "sentiment")
    if found.empty:
        raise UserError(
            f"no finished stage-2 run in {runs_folder}; make some:\n"
            f"  {shlex.join(program())} stage=sentiment repr=cls,pooler,mean,cls_linear -m"
        )
    runs = with_chosen_learning_rates(selected(found, selection))
    settings = settings_of(runs)
    verdicts = [(setting, verdict(setting)) for setting in settings]
    detailed = _detailed(settings)
    one_data_set = runs["data"].nunique() == 1
    folder = runs_folder / _folder_name(selection)
    if not folder.resolve().is_relative_to(runs_folder.resolve()):
        raise UserError(f"{folder} is a link that leads out of {runs_folder}, and nothing is written there; remove it")
    report = Report(
        runs=runs,
        overview=[*filter(None, [one_for_all(settings)]), *overview(verdicts)] if len(settings) > 1 else [],
        summary=summary_table(settings) if len(settings) > 1 else None,
        sections=[
            Section(
                question=setting.label,
                answer=told.answer,
                notes=told.notes,
                table=_table(setting),
                variance=_variance(setting),
                comparisons=_comparisons(told),
                drawings=[accuracies_drawn(setting, str(number)), *layers_drawn(setting, str(number))],
                details=details_drawn(setting, str(number)) if setting in detailed else [],
                disputed=_disputed(setting) if texts and setting in detailed else [],
                where=common_settings(_runs_of(setting).to_dict("records")),
            )
            for number, (setting, told) in enumerate(verdicts, 1)
        ],
        labels=[
            labels_drawn(family, str(number)) for number, family in enumerate(_families(settings), 1) if len(family) > 1
        ],
        formulas=_formulas(runs),
        facts=_facts(found, runs, selection, runs_folder),
        provenance=_provenance(runs),
        limits=limits_of(runs, settings),
        kept=kept_run(max((setting.best for setting in settings), key=lambda best: best.dev)) if one_data_set else None,
        page=folder / "index.html",
        markdown=folder / "report.md",
        csv=folder / "comparison.csv",
        differences=folder / "differences.csv",
        figures=folder / "figures",
    )
    try:
        report.figures.mkdir(parents=True, exist_ok=True)
        for earlier in report.figures.glob("*.svg"):
            earlier.unlink()
        write_atomically(report.csv, _csv(settings).to_csv(index=False))
        write_atomically(report.differences, _differences(verdicts).to_csv(index=False))
        for drawing in _all_drawings(report):
            write_atomically(report.figures / f"{drawing.name}.svg", drawing.svg)
        write_atomically(report.markdown, _rendered("report.md.jinja", report, escaped=False))
        write_atomically(report.page, _rendered("report.html", report, escaped=True))
    except OSError as error:
        raise UserError(f"the report could not be written to {folder}: {error}") from error
    return report


def kept_run(condition: Condition) -> Path | None:
    """The folder of its run that is best on dev, of those that have kept their classifiers; None if none has."""
    best_first = condition.runs.sort_values(SELECTION_METRIC, ascending=False, kind="stable")["folder"]
    return next((Path(folder) for folder in best_first if (Path(folder) / MODEL_FOLDER).is_dir()), None)


def _folder_name(selection: Sequence[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9_.=-]", "_", "-".join(["report", *selection]))
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{hash_of(list(selection))[:8]}"


def _rendered(template: str, report: Report, escaped: bool) -> str:
    text = (Path(__file__).parent / template).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=None if escaped else lambda words: words if isinstance(words, Markup) else markdown_text(str(words)),
    )
    environment.filters["markdown"] = lambda table: Markup(markdown_table(table.flat))
    environment.filters["drawn"] = Markup  # our own drawings, whose labels matplotlib escapes
    rendered = environment.from_string(text).render(report=report)
    return rendered.replace(" %", "&nbsp;%") if escaped else rendered


def _families(settings: Sequence[Setting]) -> list[list[Setting]]:
    """From few labels to all; those of few labels with another `least_steps` are another family, ended by the same."""
    families: dict[str, dict[Any, list[Setting]]] = {}
    for setting in settings:
        by_steps = families.setdefault(setting.family, {})
        if math.isnan(setting.labels) and by_steps:
            for family in by_steps.values():
                family.append(setting)
        else:
            by_steps.setdefault(setting.least_steps, []).append(setting)
    return [family for by_steps in families.values() for family in by_steps.values()]


def _detailed(settings: Sequence[Setting]) -> list[Setting]:
    """Of each family the setting with most labels: what is shown from near would repeat itself in the others."""
    fullest = [family[-1] for family in _families(settings)]
    return [setting for setting in settings if setting in fullest]


def _all_drawings(report: Report) -> Iterable[Drawing]:
    yield from report.labels
    for section in report.sections:
        yield from section.drawings
        yield from section.details


def _table(setting: Setting) -> Table:
    groups = [adaptation for adaptation, conditions in setting.encoders.items() for _ in conditions]
    rates = [_learning_rate(each) for each in setting.conditions]
    rows = [_cells(each) for each in setting.conditions]
    columns = [*COLUMNS, "learning rate"] if any(rates) else COLUMNS
    rows = [[*row, rate or "none"] for row, rate in zip(rows, rates, strict=True)] if any(rates) else rows
    return Table(columns, rows, groups if len(setting.encoders) > 1 else ())


def _cells(condition: Condition) -> list[str]:
    accuracy = condition.accuracy
    return [
        condition.label,
        str(len(condition.runs)),
        _with_spread(accuracy.points, accuracy.deviation, 1),
        "{:.1f} to {:.1f}".format(*condition.interval),
        *(mean_and_spread(condition.by_unit(metric), 100.0, 1) for metric in PERCENT_METRICS.values()),
        mean_and_spread(condition.by_unit("test/loss"), 1.0, 3),
    ]


def _learning_rate(condition: Condition) -> str | None:
    """With the number of those that it was chosen from, if there was a choice; None of a probe."""
    rate, tried = condition.runs["learning_rate"].iloc[0], len(condition.runs["tried"].iloc[0].split())
    return None if pandas.isna(rate) else f"{rate:g}" + (f" of {tried}" if tried > 1 else "")


def mean_and_spread(values: "pandas.Series[float]", scale: float, digits: int) -> str:
    """`mean ± sd` (n - 1); the mean alone where one run gives no spread."""
    return _with_spread(scale * values.mean(), scale * values.std(), digits)


def _with_spread(mean: float, spread: float, digits: int) -> str:
    return f"{mean:.{digits}f}" if pandas.isna(spread) else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _runs_of(setting: Setting) -> pandas.DataFrame:
    return pandas.concat([each.runs for each in setting.conditions])


def _variance(setting: Setting) -> Table | None:
    found = variance_table(_runs_of(setting))
    rows = [
        [name, f"{part.deviation:.2f}", f"{part.share:.0%}", str(part.degrees_of_freedom)]
        for name, part in found.items()
    ]
    columns = ["source", "sd in points", "share of variance", "degrees of freedom"]
    return Table(columns, rows) if rows else None


def _comparisons(told: Verdict) -> Table | None:
    """A row for each difference that a setting's words rest on, shown or not."""
    rows = [
        [
            each.question or "unplanned",
            each.encoders,
            " less ".join(called(each.conditions[:2])),
            f"{each.gap.stage1_runs} x {each.gap.stage2_runs}",
            signed(each.gap.points),
            f"{signed(each.gap.low)} to {signed(each.gap.high)}",
            f"{each.gap.p:.3f}",
            f"{each.p:.3f}",
            _seen_above(each),
        ]
        for each in [*told.planned, *told.unplanned]
    ]
    return Table(COMPARISON_COLUMNS.split(";"), rows) if rows else None


def _seen_above(compared: Comparison) -> str:
    points = smallest_detectable(compared.gap, LEVEL / compared.family)
    return f"{points:.1f}" if points <= LARGEST else f"> {LARGEST:.0f}"


def _disputed(setting: Setting) -> list[DisputedText]:
    conditions = next(iter(setting.encoders.values()))
    return (disputed_texts(conditions) or []) if len(conditions) > 1 else []


def _csv(settings: Sequence[Setting]) -> pandas.DataFrame:
    """A row for each condition: what it is, its runs, and of each metric, as recorded, mean and sd over units (stage-1
    runs where there are several, else runs), lowest and highest run."""
    rows = []
    for setting in settings:
        for each in setting.conditions:
            first, accuracy = each.runs.iloc[0], each.accuracy
            row: dict[str, Any] = {
                **{name: first[name] for name in SETTING_COLUMNS},
                **{"encoder": each.adaptation, "representation": each.representation, "label": each.label},
                **{"learning_rate": first["learning_rate"], "learning_rates_tried": first["tried"]},
                **{"runs": len(each.runs), "stage1_runs": each.runs["stage1_seed"].nunique()},
                **{"test/accuracy low": accuracy.low / 100, "test/accuracy high": accuracy.high / 100},
            }
            for metric in METRICS:
                values = each.runs[metric].astype(float)
                row |= {f"{metric} mean": each.by_unit(metric).mean(), f"{metric} std": each.by_unit(metric).std()}
                row |= {f"{metric} min": values.min(), f"{metric} max": values.max()}
            rows.append(row)
    return pandas.DataFrame(rows)


def _differences(verdicts: Sequence[tuple[Setting, Verdict]]) -> pandas.DataFrame:
    """A row for each comparison: what is held against what, over how many units, and what was found, in points."""
    rows = [
        {
            **{name: setting.best.runs.iloc[0][name] for name in SETTING_COLUMNS},
            **{"question": each.question or "unplanned", "encoder": each.encoders},
            "difference": " less ".join(called(each.conditions[:2])),
            **{"stage1_runs": each.gap.stage1_runs, "stage2_runs": each.gap.stage2_runs, "label_draws": each.gap.draws},
            **{"examples": each.gap.examples, "points": each.gap.points, "low": each.gap.low, "high": each.gap.high},
            **{"p": each.gap.p, "p_adjusted": each.p, "family": each.family, "p_permutation": each.permutation_p},
            **{"seen_above": smallest_detectable(each.gap, LEVEL / each.family), "outcome": each.outcome},
        }
        for setting, told in verdicts
        for each in [*told.planned, *told.unplanned]
    ]
    return pandas.DataFrame(rows, columns=[*SETTING_COLUMNS, *DIFFERENCE_COLUMNS.split()])


def _formulas(runs: pandas.DataFrame) -> dict[str, str]:
    """What each representation is, and how many parameters lie between hidden states and vector, if any do."""
    found = {}
    for name, shapes in runs.groupby("repr", sort=False)["representation"]:
        counts = sorted({shape.get("parameters", 0) for shape in shapes} - {0})
        words = f"; {' or '.join(f'{count:,}' for count in counts)} parameters" if counts else ""
        rates = {str(runs.at[place, "material"].get("representation_rate", "")) for place in shapes.index} - {""}
        words += f", which learn at {' or '.join(sorted(rates))} whatever the head's rate is" if rates else ""
        found[str(name)] = shapes.iloc[0]["formula"] + words
    return found


DIFFERENCE_COLUMNS = (
    "question encoder difference stage1_runs stage2_runs label_draws examples points low high p p_adjusted family "
    "p_permutation seen_above outcome"
)
COMPARISON_COLUMNS = "question;encoder;difference;runs;points;95 % interval;p alone;p adjusted;would be seen above"
POOLER_COLUMNS = "encoder;seed;pooler;began;losses;steps;gradient norm;distance moved;effective rank;mean cosine"


def _provenance(runs: pandas.DataFrame) -> Table | None:
    """A row for each stage-1 run that was read on some data, and for other encoders whose pooler was: its origin."""
    rows: dict[tuple[str, str], list[str]] = {}
    fullest: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs.to_dict("records"):
        noted = run.get("stage1_provenance")
        known = noted if isinstance(noted, dict) else {}
        if not known and run["representation"]["name"] == "pooler":
            drawn = run["pooler_status"] == "random"
            origin = "drawn in stage 2" if drawn else "as the checkpoint has it"
            known = {"pooler_status": run["pooler_status"], "origin": origin}
        read = run["data"], run["material"]["weights"]
        if known and len(known) > len(fullest.get(read, {})):  # older records note less
            fullest[read] = known
            geometry = known.get("geometry", {})
            rows[read] = [
                f"{run['data']}, {run['model']}, {run['adaptation']}",
                _figure(run["stage1_seed"], 0),
                str(known["pooler_status"]),
                str(known.get("origin", "not noted")),
                ", ".join(known["losses"]) or "none" if "losses" in known else "not noted",
                _figure(known["steps"], 0) if "steps" in known else "not noted",
                _figure(known.get("gradient_norm"), 3),
                _figure(known.get("relative_distance_moved"), 3),
                *(_figure(geometry.get(name), 2) for name in ("effective_rank", "mean_cosine")),
            ]
    return Table(POOLER_COLUMNS.split(";"), list(rows.values())) if rows else None


def _figure(value: float | int | None, digits: int) -> str:
    return "none" if value is None or pandas.isna(value) else f"{value:.{digits}f}"


def _facts(
    found: pandas.DataFrame, runs: pandas.DataFrame, selection: Sequence[str], runs_folder: Path
) -> dict[str, str]:
    """How the runs were made, for a reader who would repeat them."""
    versions = [f"{name} {version}" for name, version in runs["versions"].iloc[0].items()]
    platforms = {tuple(material.get("platform", {}).values()) for material in runs["material"]}
    chosen = f", selected by {' '.join(selection)}" if selection else ""
    trials = _trials_left_out(found, selection)
    left_out = len(found) - len(runs) - int(trials.sum())
    seconds = float(runs["wall_seconds"].sum())
    return {
        "runs": f"{counted(len(runs), 'finished run')} of {runs_folder}{chosen}"
        + f"; {left_out:,} others not selected, or of a learning rate that was not the best on dev" * (left_out > 0),
        **trials_in_words(found[trials]),
        **_made_of(runs),
        "made": f"{min(runs['started'])[:10]} to {max(runs['started'])[:10]}, {duration(seconds)} of running in all",
        "on": "; ".join(sorted(" ".join(map(str, platform)) for platform in platforms)),
        "commit": ", ".join(sorted({str(commit)[:12] for commit in runs["git_commit"]})),
        "versions of the first run": ", ".join(versions),
    }


SHOWN_OF_PROTOCOL = ("epochs", "batch_size", "least_steps", "dropout", "dense", "layer_decay", "strengths")
SHOWN_IF_ON = ("reinitialise", "gradual_unfreezing", "early_stopping")
NAMED_SEEDS = {
    "stage1_seed": "of stage 1",
    "label_seed": "of label draws",
    "seed": "of stage 2",
    "head_seed": "of heads",
    "order_seed": "of orders",
    "pooler_seed": "of fresh poolers",
}


def _made_of(runs: pandas.DataFrame) -> dict[str, str]:
    """Texts, settings of stage 2 by protocol, learning rates that were chosen from, and seeds."""
    texts: dict[str, str] = {}
    protocols: dict[str, None] = {}
    for run in runs.to_dict("records"):
        report = run.get("data_report")
        counts = report.get("stage2", {}) if isinstance(report, dict) else {}
        sizes = "".join(f", {split} {of['texts']:,}" for split, of in counts.items())
        if sizes or run["data"] not in texts:  # older records note less
            texts[run["data"]] = f"{run['data']}: up to {run['material'].get('max_length')} word pieces{sizes}"
        protocol = run["config"].get("protocol", {})
        told = [*SHOWN_OF_PROTOCOL, *(name for name in SHOWN_IF_ON if protocol.get(name) != OFF[name])]
        shown = [f"{name} {protocol[name]}" for name in told if name in protocol]
        rates = [f"learning rates {run['tried'].replace(' ', ', ')}"] if run["tried"] else []
        protocols[f"{protocol.get('name')}: {', '.join([*shown, *rates])}"] = None
    by_one = runs["material"].map(lambda material: "seed" in material)  # one `seed` for all that stage 2 draws
    counts = {"seed": by_one, "label_seed": runs["draws_labels"].astype(bool), **dict.fromkeys(DRAWN_BY, ~by_one)}
    drawn = {
        name: sorted({int(seed) for seed in runs[column][counts.get(column, slice(None))].dropna()})
        for column, name in NAMED_SEEDS.items()
        if column in runs
    }
    seeds = [f"{some(numbers, 8)} {name}" for name, numbers in drawn.items() if numbers]
    return {
        "texts": "; ".join(texts.values()),
        "stage 2": "; ".join(protocols),
        "seeds": "; ".join(seeds),
    }


def _trials_left_out(found: pandas.DataFrame, selection: Sequence[str]) -> "pandas.Series[bool]":
    """Of each run whether it is a trial of `poolwise.tune`, and the selection does not ask for those."""
    return found[STUDY].notna() & (not is_asked_for(STUDY, selection))


def trials_in_words(trials: pandas.DataFrame) -> dict[str, str]:
    """How many trials were left out, and what selects those of a study; nothing where there are none."""
    if trials.empty:
        return {}
    studies = some(f"{STUDY}={name}" for name in sorted(set(trials[STUDY])))
    return {"left out": f"{counted(len(trials), 'trial')} of poolwise.tune; what compares those of a study: {studies}"}
