"""The comparison as a report in W&B, or as the JSON of one where no account can be reached."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as reports
from wandb_workspaces import expr

from poolwise.compare.tables import markdown_table
from poolwise.runs import write_atomically
from poolwise.settings import SELECTION_METRIC, UserError
from poolwise.tracking import wandb_account, what_hinders

TITLE = "Sentence representations compared by poolwise"
SAVED_FILE = "wandb_report.json"
SPEC_FILE = "wandb_report_spec.json"
DEFAULT_PROJECT = "poolwise"
"""The project of `conf/logger/wandb.yaml`, for runs that were not logged to W&B."""
CONDITION = "condition"
"""Of a record; W&B calls it the run's group."""


@dataclass(frozen=True)
class WandbProject:
    """A project of W&B; an entity that is None is the account's own."""

    entity: str | None
    name: str


@dataclass(frozen=True)
class WandbSection:
    """What is said on one question.

    Attributes:
        question: its words.
        answers: sentences.
        tables: text cells, row by row; the first row holds the names of columns.
        where: which runs are shown, as from `common_settings`.
    """

    question: str
    answers: Sequence[str]
    tables: Sequence[Sequence[Sequence[str]]]
    where: Mapping[str, Sequence[str]]


Cells = Sequence[Sequence[str]]
"""Text cells, row by row; the first row holds the names of columns."""


@dataclass(frozen=True)
class WandbPages:
    """All that the report says.

    Attributes:
        title: what of it is a selection; empty for all runs.
        opening: sentences above all sections.
        summary: several settings at a glance; None where there is one.
        sections: one of each setting.
        closing: tables below them.
    """

    title: str
    opening: Sequence[str]
    summary: Cells | None
    sections: Sequence[WandbSection]
    closing: Sequence[Cells] = ()


def project_of(records: Iterable[Mapping[str, Any]]) -> WandbProject:
    """The project that the runs of these records were logged to.

    Raises:
        UserError: there are several.
    """
    settings = [record["config"].get("logger", {}) for record in records]
    projects = {WandbProject(each["entity"], each["project"]) for each in settings if each.get("name") == "wandb"}
    if len(projects) > 1:
        names = ", ".join(sorted("/".join(filter(None, (each.entity, each.name))) for each in projects))
        raise UserError(
            f"these runs were logged to several projects of W&B ({names}), and a report shows the runs of one: "
            "name it by --from-wandb ENTITY/PROJECT"
        )
    return projects.pop() if projects else WandbProject(None, DEFAULT_PROJECT)


def publish(pages: WandbPages, project: WandbProject, folder: Path) -> str:
    """Save the report to the account of whoever is logged in, else write its JSON spec into `folder`.

    The report that an earlier call saved is updated; `SAVED_FILE` in `folder` says which that is.

    Returns:
        Where it lies, and if on this disk, why.

    Raises:
        UserError: W&B refused something, or a file could not be written.
    """
    hindrance = what_hinders()
    spec_file, saved_file = folder / SPEC_FILE, folder / SAVED_FILE
    try:
        if hindrance:
            write_atomically(spec_file, spec_of(build(pages, WandbProject("", project.name))))
            return f"{spec_file} ({hindrance})"
        with wandb_account("the report could not be saved to W&B") as account:
            saved = save(pages, project, account, _last_saved(saved_file))
        write_atomically(saved_file, json.dumps(asdict(saved), indent=2) + "\n")
        spec_file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"the report of W&B could not be noted in {folder}: {error}") from error
    return saved.url


@dataclass(frozen=True)
class SavedReport:
    """Which report of an account a folder's last call saved."""

    id: str
    url: str


def _last_saved(file: Path) -> SavedReport | None:
    with suppress(OSError, ValueError, TypeError):
        return SavedReport(**json.loads(file.read_text(encoding="utf-8")))
    return None


def save(pages: WandbPages, project: WandbProject, account: wandb.Api, last: SavedReport | None) -> SavedReport:
    """Save a report to its project, which is made if it is missing: over the last one, if that is still there."""
    entity = project.entity or account.settings["entity"] or account.default_entity
    if not entity:
        raise UserError("the W&B account has no default entity; name one by WANDB_ENTITY")
    # A run set is refused unless its project is there.
    if project.name not in [other.name for other in account.projects(entity)]:
        account.create_project(project.name, entity)
    report = build(pages, WandbProject(entity, project.name))
    if last and last.id in [other.id for other in account.reports(f"{entity}/{project.name}")]:
        report.id = last.id
    report.save()
    return SavedReport(report.id, report.url)


def build(pages: WandbPages, project: WandbProject) -> reports.Report:
    """The report, not saved yet; with an entity of "" no service is asked, and run sets are those of its project."""
    blocks: list[Any] = [reports.P(sentence) for sentence in pages.opening]
    blocks += [_table(pages.summary)] if pages.summary else []
    blocks.append(reports.TableOfContents())
    for section in pages.sections:
        blocks += [
            reports.H1(section.question),
            *(reports.P(answer) for answer in section.answers),
            *(_table(table) for table in section.tables),
            reports.H2("Runs"),
            reports.P("Those of the runs above that were logged to this project, one group a condition."),
            _panels(section, project),
        ]
    blocks += [reports.H1("How it was run, and its limits"), *map(_table, pages.closing)] if pages.closing else []
    return reports.Report(
        entity=project.entity or "",
        project=project.name,
        title=f"{TITLE}: {pages.title}" if pages.title else TITLE,
        description="Made by `python -m poolwise.report --wandb`, which writes it anew: changes by hand are lost.",
        blocks=blocks,
        width="fluid",
    )


def _table(cells: Cells) -> reports.MarkdownBlock:
    return reports.MarkdownBlock(markdown_table(cells))


def _panels(section: WandbSection, project: WandbProject) -> reports.PanelGrid:
    runs = reports.Runset(
        entity=project.entity or "",
        project=project.name if project.entity else "",
        name=section.question,
        groupby=["group"],
        order=[reports.OrderBy(reports.SummaryMetric(SELECTION_METRIC))],
        pinned_columns=["config:repr.value", f"summary:{SELECTION_METRIC}", "summary:test/accuracy"],
    )
    # Filters given as such pass through a text in which the library rewrites each =, < and >, also those in values.
    settings = [
        (expr.Metric("Group") if name == CONDITION else expr.Config(name)).isin(list(values))
        for name, values in section.where.items()
    ]
    finished = expr.Metric("State") == "finished"
    runs._stashed_filters_v2 = expr.filters_tree_to_v2(expr.And(*settings, finished).to_model())
    runs._stashed_filter_string = runs.filters
    over_seeds = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    return reports.PanelGrid(
        runsets=[runs],
        panels=[
            reports.BarPlot(
                title="Accuracy on test, mean and range over seeds",
                metrics=["test/accuracy"],
                groupby="Group",
                layout=reports.Layout(w=12, h=9),
                **over_seeds,
            ),
            reports.LinePlot(
                title="Macro F1 on dev",
                x="trainer/global_step",
                y=[SELECTION_METRIC],
                title_x="step",
                groupby="Group",
                layout=reports.Layout(x=12, w=12, h=9),
                **over_seeds,
            ),
        ],
    )


def spec_of(report: reports.Report) -> str:
    """What `Report.save` would send as the content of a report, as indented JSON."""
    spec = report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    return json.dumps(json.loads(spec), indent=2) + "\n"
