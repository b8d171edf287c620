import sys
from html.parser import HTMLParser

import pandas
import pytest

from helpers import write_run
from poolwise import report
from poolwise.compare.report import _stage1_rows, write_report
from poolwise.settings import UserError


class Page(HTMLParser):
    """The cells of a page, and all addresses that it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.cells, self.loaded, self._in_cell = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._in_cell = tag == "td"
        if tag in ("script", "link", "img", "iframe"):
            self.loaded.append(tag)

    def handle_data(self, data):
        if self._in_cell:
            self.cells.append(data)
            self._in_cell = False


def test_report_files_agree(runs):
    written = write_report(runs)
    table = pandas.read_csv(written.csv)
    assert table["label"].tolist() == ["mean", "cls", "pooler (random)"]
    page = Page(written.page.read_text())
    assert page.cells[:8] == [
        "mean",
        "3",
        "90.2 ± 0.1",
        "95.0 ± 0.0",
        "95.0 ± 0.0",
        "95.0 ± 0.0",
        "95.0 ± 0.0",
        "0.950 ± 0.000",
    ]
    assert len(page.cells) == 3 * 8
    assert page.loaded == []
    assert written.sections[0].rows[2][0] == "pooler (random)"
    assert "Use mean, the best on dev" in written.page.read_text()
    figure = written.figure.read_text()
    assert figure.startswith("<?xml")
    assert figure.count("<use") >= 9
    assert [file.name for file in written.page.parent.glob("*draft*")] == []


def test_stage_1_rows_show_the_proof_and_old_records_too():
    part = {"mean_gradient_norm": 0.5, "distance_moved": 2.0}
    old = {"pooler_status": "random", "parts": {"pooler": part}}
    new = {**old, "pooler_status": "collapsed", "pooler_geometry": {"effective_rank": 1.234, "mean_cosine": 0.987}}
    runs = pandas.DataFrame(
        [{"name": "old", "provenance": old, "dev/perplexity": 12.345}, {"name": "pooler only", "provenance": new}]
    )
    first, second = _stage1_rows(runs)
    assert first == {
        "name": "old",
        "status": "random",
        "gradient": "0.5",
        "moved": "2",
        "rank": "none",
        "cosine": "none",
        "perplexity": "12.3",
    }
    assert (second["status"], second["rank"], second["cosine"]) == ("collapsed", "1.2", "0.99")
    assert second["perplexity"] == "none"


def test_text_is_escaped(runs):
    text = write_report(runs).page.read_text()
    assert "formula of mean &lt;b&gt;" in text
    assert "formula of mean <b>" not in text


def test_without_runs_the_message_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no finished stage-2 run in .*\n  python train\.py stage=sentiment"):
        write_report(tmp_path)


def test_one_run_makes_a_report(tmp_path):
    write_run(tmp_path, "mean", 1, [0, 1], dev=0.9)
    assert write_report(tmp_path).sections[0].rows == [["mean", "1", "90.0", "99.0", "99.0", "99.0", "99.0", "0.990"]]


def test_the_command_prints_table_answer_and_places(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(runs)])
    monkeypatch.setenv("COLUMNS", "80")
    report.main()
    printed = capsys.readouterr().out
    assert "pooler (random)" in printed
    assert "Use mean, the best on dev" in printed
    for place in ("report/index.html", "report/comparison.csv", "report/comparison.svg"):
        assert str(runs / place) in printed
    assert max(map(len, printed.splitlines()[:12])) <= 80


def test_the_command_tells_a_mistake_in_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit) as leaving:
        report.main()
    assert leaving.value.code == 2
    assert capsys.readouterr().err.startswith("poolwise: no finished stage-2 run")
