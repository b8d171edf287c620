import subprocess
import sys

import pytest

from helpers import write_run
from poolwise import report


def test_table_answer_and_places_are_printed(tmp_path, monkeypatch, capsys):
    (tmp_path / "wandb").mkdir()
    for seed in (1, 2):
        write_run(tmp_path, "mean", seed, list(range(10)), dev=0.9)
        write_run(tmp_path, "pooler", seed, list(range(30)), dev=0.8, status="random")
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(tmp_path), "data=demo"])
    monkeypatch.setenv("COLUMNS", "80")
    report.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.split()[:1] in (["mean"], ["pooler"])]
    assert rows[0][:5] == ["mean", "2", "95.0", "±", "0.0"]
    assert rows[0][8:] == ["90.0", "±", "0.0"]
    assert rows[1][:5] == ["pooler", "(random)", "2", "85.0", "±"]
    assert any(line.startswith("Use mean after stage 1 with bow, the best on dev") for line in lines)
    places = {line[:9].strip(): line[9:] for line in lines[-7:]}
    assert places == {
        "page": f"{tmp_path}/report-data=demo/index.html",
        "Markdown": f"{tmp_path}/report-data=demo/report.md",
        "table": f"{tmp_path}/report-data=demo/comparison.csv",
        "tests": f"{tmp_path}/report-data=demo/differences.csv",
        "figures": f"{tmp_path}/report-data=demo/figures",
        "records": f"{tmp_path}/sentiment/*/record.json",
        "W&B runs": f"{tmp_path}/wandb",
    }
    assert all(
        (tmp_path / "report-data=demo" / name).is_file() for name in ("index.html", "comparison.csv", "report.md")
    )
    assert (tmp_path / "report-data=demo/figures/accuracy-1.svg").is_file()
    assert max(map(len, lines[:-7])) <= 80


def test_the_run_to_use_is_the_best_on_dev_of_the_best_that_kept_its_classifier(tmp_path, monkeypatch, capsys):
    runs = tmp_path / "my runs"
    for seed, dev in ((1, 0.92), (2, 0.9), (3, 0.85)):
        folder = write_run(runs, "mean", seed, [1], dev=dev)
        if seed > 1:
            (folder / "model").mkdir()
        (write_run(runs, "pooler", seed, [1], dev=0.6 + 0.3 * (seed == 1)) / "model").mkdir()
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(runs)])
    report.main()
    (best,) = runs.glob("sentiment/mean-2-*")
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"try it   python -m poolwise.predict '{best}' \"text\"",
        f"give it  python -m poolwise.export '{best}' --to transformers",
    ]


def test_no_run_is_the_one_to_use_where_there_are_several_data_sets(tmp_path, monkeypatch, capsys):
    """The easiest set has the best dev figure, and may be another task."""
    for data in ("demo", "mine"):
        (write_run(tmp_path, "mean", 1 + (data == "mine"), [], dev=0.9, data=data) / "model").mkdir()
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(tmp_path)])
    report.main()
    assert "try it" not in capsys.readouterr().out


def test_a_wrong_selection_is_one_message(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, "mean", 1, [], dev=0.9)
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(tmp_path), "repr=max"])
    with pytest.raises(SystemExit) as leaving:
        report.main()
    assert leaving.value.code == 2
    assert capsys.readouterr().err == "poolwise: repr=max: no finished run has this; there are: mean\n"
    assert not (tmp_path / "report").exists()


def test_without_runs_the_program_says_how_to_make_some(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit) as leaving:
        report.main()
    assert leaving.value.code == 2
    assert f"no finished stage-2 run in {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_of_many_settings_the_terminal_shows_what_they_say_together(tmp_path, monkeypatch, capsys):
    for labels in (8, 32, 128, None):
        for name, dev in (("mean", 0.9), ("pooler", 0.8)):
            write_run(tmp_path, name, 1, [1], dev, protocol="probe", labels=labels, objective="combined-1000000tokens")
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(tmp_path)])
    monkeypatch.setenv("COLUMNS", "80")
    report.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the best on dev of 4 settings")
    assert any(line.split()[:3] == ["probe", "on", "all"] for line in lines)
    assert any(line.startswith("Use mean where one representation must serve all 4 settings") for line in lines)
    assert max(map(len, lines[:-6])) <= 80


def test_a_report_that_cannot_be_written_is_one_message(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, "mean", 1, [], dev=0.9)
    (tmp_path / "report").write_text("a file in its place")
    monkeypatch.setattr(sys, "argv", ["report", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit) as leaving:
        report.main()
    assert leaving.value.code == 2
    assert capsys.readouterr().err.startswith(f"poolwise: the report could not be written to {tmp_path}/report: ")


def test_a_report_of_records_starts_without_what_trains(tmp_path):
    write_run(tmp_path, "mean", 1, [1], dev=0.9)
    script = (
        "import sys; from poolwise import report; sys.argv[1:] = ['--runs', sys.argv[1]]; report.main(); "
        "print({'torch', 'lightning', 'transformers', 'datasets', 'hydra', 'wandb'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "set()"
