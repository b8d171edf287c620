"""The pages: their commands and their code run as written; what they say to add works when it is added."""

import inspect
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from helpers import REPOSITORY, SMALL_STAGE1, SMALL_STAGE2
from poolwise import inspect_data, predict, report
from poolwise.app import composed, first_job, prepared, register_schemas, typed_settings
from poolwise.encoder import load_encoder, model_class
from poolwise.families import FAMILIES
from poolwise.objectives import OBJECTIVES
from poolwise.representations import REPRESENTATIONS
from poolwise.runs import read_record
from poolwise.settings import problems_with, settings_of

DOCS = REPOSITORY / "docs"
HOW_TO = (DOCS / "how_to.md").read_text()
TUTORIAL = (DOCS / "tutorial.md").read_text()
OWN = re.search(r"^OWN=\((.*)\)$", TUTORIAL, flags=re.MULTILINE).group(1)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = [line for block in blocks((DOCS / page).read_text(), "bash") for line in block.splitlines()]
    own = (line.replace('"${OWN[@]}"', OWN) for line in lines if not line.startswith("OWN="))
    return [shlex.split(line, comments=True) for line in own]


def section(anchor: str) -> str:
    return HOW_TO.split(f"({anchor})=")[1].split("\n(a")[0]


def run_all(code: list[str]) -> dict:
    """Everything that the pieces of code define, run in turn in one session."""
    session = {"__name__": "docs"}
    for piece in code:
        exec(compile(piece, "docs", "exec"), session)
    return session


@pytest.mark.parametrize("page", ["pooler.md", "statistics.md"])
def test_the_code_says_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pieces = blocks((DOCS / page).read_text(), "python")
    assert "assert" in "".join(pieces)
    run_all(pieces)


def run_the_test_of(session: dict, request: pytest.FixtureRequest) -> None:
    (test,) = (value for name, value in session.items() if name.startswith("test_"))
    test(**{name: request.getfixturevalue(name) for name in inspect.signature(test).parameters})


def test_a_representation_is_added_as_the_page_says(request, monkeypatch):
    kind, check = blocks(section("a-representation"), "python")
    (settings,) = map(yaml.safe_load, blocks(section("a-representation"), "yaml"))
    added = run_all([kind])["MaxMean"]
    monkeypatch.setitem(REPRESENTATIONS, added.name, added)
    assert settings == {"name": added.name, "layer": None}
    run_the_test_of(run_all([kind, check]), request)


def test_an_objective_is_added_as_the_page_says(request, monkeypatch):
    kind, check = blocks(section("an-objective"), "python")
    (settings,) = map(yaml.safe_load, blocks(section("an-objective"), "yaml"))
    added = run_all([kind])["Length"]
    monkeypatch.setitem(OBJECTIVES, added.name, added)
    assert set(settings) == {"name", *settings_of(added)}
    assert problems_with(added, {key: value for key, value in settings.items() if key != "name"}, "objective.") == []
    run_the_test_of(run_all([kind, check]), request)


@pytest.fixture
def added_yaml(tmp_path, monkeypatch) -> Callable[[str, str], None]:
    """Adds the YAML of a section to a copy of `conf/`, under a name there, and has the program read that."""
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf")
    for module in ("app", "command_line"):
        monkeypatch.setattr(f"poolwise.{module}.conf_dir", lambda: tmp_path / "conf")

    def add(anchor: str, name: str) -> None:
        (text,) = blocks(section(anchor), "yaml")
        (tmp_path / "conf" / f"{name}.yaml").write_text(text)

    return add


@pytest.mark.slow
def test_what_is_added_trains(program, added_yaml, tmp_path, monkeypatch):
    """The added objective in stage 1, and on its export the added representation in stage 2."""
    length = run_all(blocks(section("an-objective"), "python")[:1])["Length"]
    max_mean = run_all(blocks(section("a-representation"), "python")[:1])["MaxMean"]
    monkeypatch.setitem(OBJECTIVES, "length", length)
    monkeypatch.setitem(REPRESENTATIONS, "max_mean", max_mean)
    added_yaml("an-objective", "objective/length")
    added_yaml("a-representation", "repr/max_mean")
    assert program("stage=mlm", *SMALL_STAGE1, "logger=csv", "objective=length") == 0
    again = ["objective@stage1.objective=length", "repr=max_mean", "seed=1"]
    assert program("stage=sentiment", *SMALL_STAGE2, "logger=csv", *again) == 0
    (record,) = (read_record(folder) for folder in (tmp_path / "runs/sentiment").iterdir())
    assert record["representation"]["name"] == "max_mean"
    assert record["metrics"]["test/accuracy"] > 0
    (record,) = (read_record(folder) for folder in (tmp_path / "runs/mlm").iterdir())
    assert record["metrics"]["dev/objective_loss"] > 0


def test_a_data_set_is_added_as_the_page_says(added_yaml):
    added_yaml("a-data-set", "data/emotion")
    register_schemas()
    data = typed_settings(composed(prepared(["stage=mlm", "data=emotion"]))).data
    assert (data.name, data.path, data.configuration) == ("emotion", "dair-ai/emotion", "split")


def test_a_family_is_added_as_the_page_says(tmp_path, monkeypatch):
    electra = run_all(blocks(section("an-encoder-family"), "python"))["ELECTRA"]
    monkeypatch.setitem(FAMILIES, "electra", electra)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    reference = electra.masked_lm(electra.masked_lm.config_class(vocab_size=99, embedding_size=8, **sizes)).eval()
    reference.save_pretrained(tmp_path)
    model = model_class(electra).from_pretrained(tmp_path).eval()
    assert model.loading_info["missing_keys"] == electra.pooler_keys
    ids = torch.arange(12).reshape(2, 6) + 5
    labels = ids.where(ids % 3 == 0, -100)
    torch.testing.assert_close(model(ids, torch.ones_like(ids), labels=labels).loss, reference(ids, labels=labels).loss)
    model.save_pretrained(tmp_path)
    body, _ = load_encoder(str(tmp_path))
    assert torch.equal(body.eval()(ids).pooler_output, model(ids, torch.ones_like(ids)).pooler_output)


def test_the_settings_of_every_command_are_right():
    register_schemas()
    every = [words for page in sorted(DOCS.glob("*.md")) for words in commands(page.name)]
    trained = [words for words in every if words[0] == "poolwise" or "train.py" in words]
    for words in trained:
        settings = words[words.index("train.py" if "train.py" in words else "poolwise") + 1 :]
        named = [word.replace("=FOLDER", "=made/by/stage1") for word in settings]
        typed_settings(composed(first_job([word for word in prepared(named) if word != "-m"])))
    modules = [words[2].removeprefix("poolwise.") for words in every if words[:2] == ["python", "-m"]]
    assert all((REPOSITORY / f"src/poolwise/{name}.py").is_file() for name in modules)
    assert trained
    assert modules


def exit_code(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


@pytest.mark.slow
def test_the_tutorial_runs(program, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_all(blocks(TUTORIAL, "python"))
    for words in commands("tutorial.md"):
        small = [word for word in (SMALL_STAGE1 if "stage=mlm" in words else SMALL_STAGE2) if word[:5] != "data."]
        if words[0] == "poolwise":
            assert program(*small, "logger=csv", *words[1:]) == 0, words
            continue
        run = next((tmp_path / "runs/sentiment").glob("*/record.json"), tmp_path).parent
        module = {"inspect_data": inspect_data, "report": report, "predict": predict}[words[2].split(".")[1]]
        monkeypatch.setattr(
            sys, "argv", [module.__file__, *(str(run) if word == "RUN" else word for word in words[3:])]
        )
        assert exit_code(module.main) == 0, words
    printed = capsys.readouterr().out
    assert "What stage 1 gave" in (tmp_path / "runs/report/report.md").read_text()
    assert "runs/report/index.html" in printed
    assert '"label":' in printed
    assert len(list((tmp_path / "runs").glob("*/*/record.json"))) == 2 + 8 + 6


@pytest.mark.slow
def test_the_pages_are_built_and_all_links_lead_somewhere(tmp_path):
    build = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "docs", ".", str(tmp_path)]
    done = subprocess.run([sys.executable, *build], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {Path(page).stem for page in DOCS.glob("*.md")} == {page.stem for page in tmp_path.glob("docs/*.html")}


SRUN = """#!/bin/bash
trap 'kill $waiting; exit 137' USR1
$DOES & waiting=$!
touch started
wait $waiting
"""


@pytest.mark.parametrize(
    ("does", "signalled", "code", "requeued"), [("sleep 60", True, 137, "requeue 7\n"), ("false", False, 1, "")]
)
def test_the_batch_script_goes_on_in_the_next_slot_only_if_its_time_was_up(tmp_path, does, signalled, code, requeued):
    """srun and scontrol are stand-ins: there is no SLURM here."""
    (script,) = blocks((DOCS / "many_processes.md").read_text(), "sh")
    (tmp_path / "job.sh").write_text(script)
    (tmp_path / "asked").touch()
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/bash\necho "$@" > asked\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "DOES": does}
    job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=variables)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    if signalled:
        job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == code
    assert (tmp_path / "asked").read_text() == requeued
