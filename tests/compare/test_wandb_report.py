import json
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb_workspaces.reports.v2 as reports

from poolwise import report
from poolwise.compare.records import common_settings, read_runs
from poolwise.compare.tables import markdown_table
from poolwise.compare.wandb_report import (
    TITLE,
    WandbPages,
    WandbProject,
    WandbSection,
    project_of,
    publish,
)
from poolwise.settings import UserError
from wandb_service import ENTITY

PROJECT = WandbProject(None, "poolwise")
SECTION = WandbSection(
    "demo, tiny <b>?",
    ["Use mean.", "mean beats cls."],
    [[["representation", "runs"], ["cls_linear", "3"]]],
    {"data": ["demo"], "repr": ["cls_linear", "mean@layer<1"], "condition": ["lr=0.1-aa", "mean-bb"]},
)


PAGES = WandbPages("", [], None, [SECTION], [[["limits"], ["few runs"]]])


def blocks_of(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [block for block in spec["blocks"] if block["type"] == kind]


def text_of(block: dict[str, Any]) -> str:
    return "".join(part["text"] for part in block["children"])


def dashed(pages: WandbPages) -> str:
    """The title as it stands in an address of W&B."""
    return f"{TITLE}: {pages.title}".replace(" ", "-")


def without_accounts_own(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec without random ids, and without the ids that only the account knows."""
    copy = json.loads(json.dumps(spec))
    for grid in blocks_of(copy, "panel-grid"):
        for run_set in grid["metadata"]["runSets"]:
            run_set |= {"id": "", "project": None}
        for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]:
            panel["__id__"] = ""
    return copy


def test_a_report_is_saved_then_updated_then_made_anew_if_it_is_gone(service, tmp_path, monkeypatch):
    spec_file = tmp_path / "wandb_report_spec.json"
    spec_file.write_text("of a call without an account")
    address = publish(PAGES, PROJECT, tmp_path)
    assert not spec_file.exists()
    ((view, saved),) = service.views.items()
    assert (saved["entityName"], saved["projectName"], saved["displayName"]) == (ENTITY, "poolwise", TITLE)
    assert address == f"{service.url}/{ENTITY}/poolwise/reports/{TITLE.replace(' ', '-')}--{view}"
    assert service.operations.count("CreateProject") == 1

    spec = json.loads(saved["spec"])
    closing = "How it was run, and its limits"
    assert [text_of(block) for block in blocks_of(spec, "heading")] == [SECTION.question, "Runs", closing]
    assert [text_of(block) for block in blocks_of(spec, "paragraph")][1:3] == SECTION.answers
    table, limits = blocks_of(spec, "markdown-block")
    assert limits["content"] == "| limits |\n|:--|\n| few runs |"
    assert table["content"] == "| representation | runs |\n|:--|--:|\n| cls\\_linear | 3 |"
    (grid,) = blocks_of(spec, "panel-grid")
    (run_set,) = grid["metadata"]["runSets"]
    assert run_set["project"] == {"id": "1", "name": "poolwise", "entityName": ENTITY}
    assert run_set["grouping"] == [{"section": "run", "name": "group"}]
    filters = {(each["key"]["section"], each["key"]["name"]): each for each in run_set["filters"]["filters"]}
    assert {key: (each["op"], each["value"]) for key, each in filters.items()} == {
        ("config", "data"): ("IN", ["demo"]),
        ("config", "repr"): ("IN", ["cls_linear", "mean@layer<1"]),
        ("run", "group"): ("IN", ["lr=0.1-aa", "mean-bb"]),
        ("run", "state"): ("=", "finished"),
    }
    read = reports.Report.from_url(address)
    (panels,) = (block.panels for block in read.blocks if isinstance(block, reports.PanelGrid))
    assert [panel.groupby for panel in panels] == ["Group", "Group"]
    assert panels[0].metrics == [reports.Metric("test/accuracy")]
    assert (panels[1].x, panels[1].y) == (reports.Metric("trainer/global_step"), [reports.Metric("dev/macro_f1")])

    changed = WandbSection("other words", [], [], {})
    summary = [["setting", "use"], ["probe", "mean"]]
    pages = WandbPages("data=mr", ["Of 2 settings, mean in 2."], summary, [changed])
    assert publish(pages, PROJECT, tmp_path) == f"{service.url}/{ENTITY}/poolwise/reports/{dashed(pages)}--{view}"
    assert service.views[view]["displayName"] == f"{TITLE}: data=mr"
    assert list(service.views) == [view]
    spec = json.loads(service.views[view]["spec"])
    assert [text_of(block) for block in blocks_of(spec, "heading")] == ["other words", "Runs"]
    assert "Of 2 settings, mean in 2." in [text_of(block) for block in blocks_of(spec, "paragraph")][:2]
    assert blocks_of(spec, "markdown-block")[0]["content"] == "| setting | use |\n|:--|--:|\n| probe | mean |"

    service.views = {"another": service.views[view]}
    assert publish(PAGES, PROJECT, tmp_path) != address
    assert len(service.views) == 2
    online = json.loads(list(service.views.values())[1]["spec"])

    monkeypatch.delenv("WANDB_API_KEY")
    place = publish(PAGES, PROJECT, tmp_path)
    assert place == f"{spec_file} (nobody is logged in to W&B (`wandb login`))"
    assert without_accounts_own(json.loads(spec_file.read_text())) == without_accounts_own(online)


def test_a_refusal_is_one_message_after_the_local_report(runs, service, monkeypatch, capsys):
    service.refused.add("upsertView")
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(runs), "--wandb"])
    with pytest.raises(SystemExit) as leaving:
        report.main()
    assert leaving.value.code == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("poolwise: the report could not be saved to W&B: ")
    assert "no upsertView here" in message
    assert sorted(file.name for file in (runs / "report").iterdir()) == [
        "comparison.csv",
        "differences.csv",
        "figures",
        "index.html",
        "report.md",
    ]


def test_without_an_account_the_command_writes_the_spec(runs, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(runs))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(runs), "--wandb"])
    report.main()
    spec_file = runs / "report/wandb_report_spec.json"
    missing, line = capsys.readouterr().out.splitlines()[-2:]
    assert missing == "runs     9 of 9 were not sent to W&B as they ran, and panels show what is there"
    assert line == f"in W&B   {spec_file} (nobody is logged in to W&B (`wandb login`))"
    spec = json.loads(spec_file.read_text())
    table, _, comparisons, *_, limits = blocks_of(spec, "markdown-block")
    assert comparisons["content"].startswith("| question | ")
    assert "| mean less pooler (random) | 1 x 3 | +10.5 | +6.2 to +14.8 | " in comparisons["content"]
    assert "Rows are ordered by macro F1 on dev" in limits["content"]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table["content"].splitlines()]
    assert [row[:3] for row in cells[2:]] == [
        ["mean", "3", "95.0 ± 0.0"],
        ["cls", "3", "95.0 ± 0.5"],
        ["pooler (random)", "3", "84.5 ± 0.5"],
    ]
    answer, hypothesis = (text_of(block) for block in blocks_of(spec, "paragraph")[1:3])
    assert answer.startswith("Use mean after stage 1 with bow, the best on dev")
    assert hypothesis.startswith("After stage 1 with bow: H1 (pooler beats cls): cls beats pooler (random) by")


def test_runs_that_are_offline_are_told_with_what_sends_them(runs):
    found = read_runs(runs, "sentiment")
    modes = ["online"] * 6 + ["offline"] * 3
    told = report.perhaps_not_in_wandb(found.assign(wandb=[{"mode": mode} for mode in modes]), Path("runs"))
    assert told == (
        "3 of 9 were not sent to W&B as they ran, and panels show what is there; "
        "wandb sync runs/wandb/offline-run-* sends them"
    )
    assert report.perhaps_not_in_wandb(found.assign(wandb=[{"mode": "online"}] * 9), Path("runs")) is None


def test_what_runs_share_tells_them_from_others(runs, tmp_path):
    found = common_settings(read_runs(runs, "sentiment").to_dict("records"))
    assert found.pop("condition") == sorted(set(read_runs(runs, "sentiment")["condition"]))
    assert found == {
        "data": ["demo"],
        "model": ["tiny"],
        "encoder": ["stage1"],
        "objective": ["bow"],
        "protocol": ["finetune"],
        "repr": ["cls", "mean", "pooler"],
    }
    assert common_settings([{"data": "demo", "objective": None}, {"data": "demo", "objective": "bow"}]) == {
        "data": ["demo"]
    }


def test_the_project_is_that_of_the_runs():
    def record(**logger: Any) -> dict[str, Any]:
        return {"config": {"logger": logger}}

    own = record(name="wandb", entity="team", project="films")
    assert project_of([own, own, record(name="csv"), {"config": {}}]) == WandbProject("team", "films")
    assert project_of([record(name="csv")]) == PROJECT
    with pytest.raises(UserError, match=r"several projects of W&B \(poolwise, team/films\).*--from-wandb"):
        project_of([own, record(name="wandb", entity=None, project="poolwise")])


def test_cells_keep_their_text_in_markdown():
    assert markdown_table([["a|b"], ["<b>*x*"]]) == "| a\\|b |\n|:--|\n| \\<b\\>\\*x\\* |"
