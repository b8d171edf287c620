from html.parser import HTMLParser

import pandas
import pytest

from helpers import EXAMPLES, write_run
from poolwise.compare.disagreement import DisputedText
from poolwise.compare.report import write_report
from poolwise.settings import UserError


class Page(HTMLParser):
    """The text, cells and pictures of a page, and all that it loads from elsewhere."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.cells, self.loaded, self.pictures, self._in_cell = text, [], [], 0, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._in_cell = tag == "td"
        self.pictures += tag == "svg"
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
    assert table["test/accuracy mean"].tolist() == pytest.approx([0.95, 0.95, 0.845])
    assert table["test/accuracy std"].tolist() == pytest.approx([0.0, 0.005, 0.005])
    assert ((table["test/accuracy low"] < table["test/accuracy mean"]) & (table["runs"] == 3)).all()
    page = Page(written.page.read_text())
    (section,) = written.sections
    first = section.table.rows[0]
    assert first[:3] == ["mean", "3", "95.0 ± 0.0"]
    assert first[4] == "90.2 ± 0.1"
    assert first[-2:] == ["0.950 ± 0.000", "0.001"]
    assert page.cells[: len(first)] == first
    assert page.loaded == []
    assert "Use mean after stage 1 with bow, the best on dev" in page.text
    assert page.pictures == len(list(written.figures.glob("*.svg"))) == len(section.drawings) + len(section.details)
    assert [file.name for file in written.page.parent.rglob("*draft*")] == []


def test_markdown_has_the_same_words_and_cells(runs):
    written = write_report(runs)
    text = written.markdown.read_text()
    (section,) = written.sections
    assert f"## demo, tiny, finetune\n\n{section.answer}\n" in text
    for row in section.table.rows:
        assert f"| {' | '.join(row)} |\n" in text
    for drawing in section.drawings:
        assert f"![{drawing.caption}](figures/{drawing.name}.svg)" in text
        assert (written.figures / f"{drawing.name}.svg").read_text() == drawing.svg
    assert "\n\n\n" not in text


def test_label_counts_make_a_curve_and_encoders_a_grouped_table(tmp_path):
    for labels in (8, 32, None):
        for seed in (1, 2):
            for objective in ("bow", "none"):
                dev = 0.9 if objective == "bow" else 0.8
                write_run(tmp_path, "cls", seed, [seed], dev, objective=objective, labels=labels, protocol="probe")
    written = write_report(tmp_path)
    assert [section.question for section in written.sections] == [
        "demo, tiny, probe on 8 labels a class",
        "demo, tiny, probe on 32 labels a class",
        "demo, tiny, probe",
    ]
    assert written.summary is not None
    assert [row[:2] for row in written.summary.rows] == [
        ["probe on 8 labels a class", "cls"],
        ["probe on 32 labels a class", "cls"],
        ["probe on all labels", "cls"],
    ]
    assert len(written.labels) == 1
    assert [bool(section.details) for section in written.sections] == [False, False, True]
    assert list(written.sections[0].table.group) == ["after stage 1 with bow", "after plain MLM"]
    assert "| after stage 1 with bow | cls |" in written.markdown.read_text()
    assert written.overview[0].startswith("Of 3 settings, the best on dev was cls in 3.")
    page = written.page.read_text()
    assert "on one draw" not in page
    assert "Where train has few labels, dev is whole all the same" in page
    assert "| data and model | setting | use |" in written.markdown.read_text()


def test_a_selection_leaves_out_other_runs(runs):
    written = write_report(runs, ["repr=cls,mean", "seed=1,2"])
    assert [row[:2] for row in written.sections[0].table.rows] == [["mean", "2"], ["cls", "2"]]
    assert "4 finished runs of" in written.page.read_text()
    assert "selected by repr=cls,mean seed=1,2; 5 others" in written.page.read_text()


def test_trials_and_unlike_learning_rates_are_told(tmp_path):
    for seed, (name, rate) in enumerate([("cls", 1e-3), ("cls", 2e-3), ("mean", 1e-3)]):
        write_run(tmp_path, name, seed, [seed], dev=0.9, learning_rate=rate)
    write_run(tmp_path, "cls", 7, [], dev=0.9, study="ab12")
    text = write_report(tmp_path).markdown.read_text()
    assert "- **left out**: 1 trial of poolwise.tune; what compares those of a study: study=ab12\n" in text
    assert "2 finished runs of" in text
    assert "; 1 others not selected" in text
    assert (
        "Learning rates to choose from were not the same for all of demo, tiny, finetune: 0.001 for mean; 0.001, 0.002 "
        "for cls. More of them are an advantage.\n"
    ) in text
    of_study = write_report(tmp_path, ["study=ab12"]).markdown.read_text()
    assert "left out" not in of_study
    assert "1 finished run of" in of_study


def test_a_long_selection_has_a_folder_of_its_own(tmp_path):
    write_run(tmp_path, "cls", 1, [], dev=0.9)
    folders = {write_report(tmp_path, [f"seed=1,{'9' * 300}{end}"]).page.parent.name for end in (1, 2)}
    assert len(folders) == 2
    assert max(map(len, folders)) < 140


def test_the_report_says_where_poolers_come_from(tmp_path):
    noted = {"pooler_status": "trained", "gradient_norm": 0.1234, "relative_distance_moved": 0.5, "geometry": {}}
    noted |= {"origin": "fresh (seed 1)", "losses": ["bow"], "steps": 1200}
    for seed in (1, 2):
        write_run(tmp_path, "pooler", seed, [0], dev=0.9, stage1_provenance=noted)
        for name, status in (("cls", "as released"), ("pooler", "never trained")):
            write_run(tmp_path, name, seed, [0], dev=0.9, objective=None, stage1_provenance={}, status=status)
    page = write_report(tmp_path).page.read_text()
    row = "<td>demo, tiny, after stage 1 with bow</td>" + "".join(
        f'<td class="number">{cell}</td>'
        for cell in ("1", "trained", "fresh (seed 1)", "bow", "1200", "0.123", "0.500", "none", "none")
    )
    assert page.count(row) == 1  # two stage-2 runs read the same stage-1 run
    unadapted = ("none", "never trained", "as the checkpoint has it", "not noted", "not noted")
    row = "<td>demo, tiny, not adapted</td>" + "".join(f'<td class="number">{cell}</td>' for cell in unadapted)
    assert page.count(row) == 1


def test_the_report_says_how_it_was_run(tmp_path):
    report = {"stage2": {"train": {"texts": 6161}, "dev": {"texts": 769}}}
    for seed in (1, 2):
        write_run(tmp_path, "cls", seed, [0], dev=0.9, data_report=report, stage1_seed=seed + 10)
    facts = write_report(tmp_path).facts
    assert facts["texts"] == "demo: up to None word pieces, train 6,161, dev 769"
    assert facts["stage 2"] == "finetune: epochs 2, learning rates 0.001"
    assert facts["seeds"] == "11, 12 of stage 1; 1, 2 of stage 2"
    write_run(tmp_path, "cls", 5, [0], dev=0.9, protocol="probe", labels=8, data_report=report, stage1_seed=11)
    assert write_report(tmp_path).facts["seeds"] == "11, 12 of stage 1; 5 of label draws; 1, 2 of stage 2"


def test_the_mean_and_the_spread_in_the_table_are_over_stage_1_runs(tmp_path):
    for stage1_seed, wrong in ((1, (0, 20)), (2, (10, 30))):
        for seed, count in enumerate(wrong):
            write_run(tmp_path, "cls", seed, list(range(count)), dev=0.9, stage1_seed=stage1_seed)
    written = write_report(tmp_path)
    assert written.sections[0].table.rows[0][2] == "92.5 ± 3.5"  # of 95 and 90
    assert "sd 3.5 over 2 stage-1 runs with 2 on each" in written.sections[0].answer


def test_a_page_to_show_has_no_texts(runs, monkeypatch):
    disputed = [DisputedText("a secret text", "good", {"cls": 0.5, "mean": 1.0})]
    monkeypatch.setattr("poolwise.compare.report.disputed_texts", lambda conditions: disputed)
    assert "a secret text" in write_report(runs).page.read_text()
    assert "a secret text" not in write_report(runs, texts=False).page.read_text()


def test_representations_of_several_layers_make_a_map(tmp_path):
    for layer in (1, 2, 3):
        name = "mean" if layer == 3 else f"mean@layer{layer}"
        shape = {"name": "mean", "layer": layer, "formula": "f"}
        write_run(tmp_path, name, 1, list(range(layer)), dev=0.9, representation=shape)
    drawings = {drawing.name: drawing.svg for drawing in write_report(tmp_path).sections[0].drawings}
    assert set(drawings) == {"accuracy-1", "layers-1-0"}
    assert all(f">{value}<" in drawings["layers-1-0"] for value in ("99.5", "99.0", "98.5"))


def test_what_spread_comes_from_is_a_table(tmp_path):
    for stage1_seed in (1, 2, 3):
        for seed in (1, 2):
            write_run(tmp_path, "cls", seed, list(range(stage1_seed * 4)), dev=0.9, stage1_seed=stage1_seed)
    (section,) = write_report(tmp_path).sections
    assert section.variance is not None
    sources = {row[0]: row[1:] for row in section.variance.rows}
    assert sources["stage-1 run"] == ["2.00", "100%", "2"]


def test_parameters_of_representations_are_told(tmp_path):
    for name, hidden in (("pooler", 64), ("pooler", 128), ("cls", 64)):
        parameters = hidden * (hidden + 1) if name == "pooler" else 0
        shape = {"name": name, "layer": None, "formula": f"f of {name}", "parameters": parameters}
        write_run(tmp_path, name, hidden, [1], dev=0.9, representation=shape)
    formulas = write_report(tmp_path).formulas
    assert formulas == {"cls": "f of cls", "pooler": "f of pooler; 4,160 or 16,512 parameters"}


def test_text_is_escaped(runs):
    text = write_report(runs).page.read_text()
    assert "formula of mean &lt;b&gt;" in text
    assert "formula of mean <b>" not in text


def test_without_runs_the_message_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no finished stage-2 run in .*\n  python train\.py stage=sentiment"):
        write_report(tmp_path)


def test_one_run_makes_a_report(tmp_path):
    write_run(tmp_path, "mean", 1, [0, 1], dev=0.9, labels=8)
    written = write_report(tmp_path)
    (row,) = written.sections[0].table.rows
    assert "Some comparisons of few labels are on one draw of these, and hold for this draw." in written.limits
    assert any(limit.startswith("One learning rate was tried in demo, tiny") for limit in written.limits)
    assert row[:3] == ["mean", "1", "99.0"]


def test_of_several_settings_the_run_to_use_is_that_of_the_best_on_dev(tmp_path):
    folders = []
    for labels, dev in ((8, 0.7), (None, 0.9)):
        folders.append(write_run(tmp_path, "cls", 1, [1], dev=dev, labels=labels, protocol="probe"))
        (folders[-1] / "model").mkdir()
    assert write_report(tmp_path).kept == folders[1]


def test_every_difference_is_a_row_with_the_runs_that_it_rests_on(runs):
    report = write_report(runs)
    rows = pandas.read_csv(report.differences)
    (section,) = report.sections
    assert len(rows) == len(section.comparisons.rows)
    h1 = rows[rows["question"] == "H1"].iloc[0]
    assert (h1["difference"], h1["outcome"]) == ("pooler (random) less cls", "the opposite")
    assert (h1["stage1_runs"], h1["stage2_runs"], h1["label_draws"], h1["examples"]) == (1, 3, 0, EXAMPLES)
    assert h1["points"] == pytest.approx(-10.5)
    assert h1["low"] < h1["points"] < h1["high"] < 0
    assert h1["p"] <= h1["p_adjusted"] <= 0.05
    assert h1["p_permutation"] <= 0.05


def test_without_comparisons_the_table_of_differences_has_its_columns_alone(tmp_path):
    write_run(tmp_path, "cls", 1, [], dev=0.9)
    rows = pandas.read_csv(write_report(tmp_path).differences)
    assert len(rows) == 0
    assert {"question", "points", "p_adjusted"} <= {*rows.columns}
