"""The README's commands run as written, on small data."""

import re
import resource
import shlex
import subprocess
import sys
import time
from functools import reduce
from pathlib import Path

import pytest

from helpers import REPOSITORY, SMALL_STAGE1, SMALL_STAGE2
from poolwise import report
from poolwise.app import composed, first_job, prepared, register_schemas, typed_settings
from poolwise.inspect import inspect_checkpoint

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
OWN = re.search(r"^OWN=\((.*)\)$", README, flags=re.MULTILINE).group(1)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line.replace('"${OWN[@]}"', OWN) for line in LINES if not line.startswith("OWN=")]
ROWS = [(f"the {word} film number {n}", word) for n in range(10) for word in ("fine", "dull")]


def small(words: list[str]) -> list[str]:
    """A command of the README on small data and a small encoder."""
    settings = SMALL_STAGE1 if "stage=mlm" in words else SMALL_STAGE2
    if "data=files" in words:
        settings = [s for s in settings if not s.startswith("data.") or s.startswith("data.max_length")]
    if "model=FOLDER" in words:
        settings = [s for s in settings if not s.startswith("model.")]
    if "protocol=probe" in words:
        settings = [s for s in settings if not s.startswith("protocol.")]
    words = [word for word in words if not word.startswith("hydra")]  # launchers: see stages/test_sweep.py
    words = [word.replace("model=minilm", "model=tiny").replace("budget=20min", "budget=3steps") for word in words]
    return [*settings, "logger=csv", *words]


def test_the_commands_are_those_of_the_project():
    assert [command.split()[0] for command in COMMANDS].count("make") == 2
    assert len([command for command in COMMANDS if command.startswith("python ")]) == 25
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"`?make ([a-z-]+)", README)
    assert set(named) <= set(targets)
    assert {"demo", "test"} <= set(named)


def test_the_settings_of_every_command_are_right(tmp_path):
    """Quick: nothing is run. What a command reads need not be there."""
    register_schemas()
    commands = [shlex.split(command)[2:] for command in COMMANDS if command.startswith("python train.py")]
    for words in commands:
        if "--help" not in words:
            named = [word.replace("=FOLDER", "=made/by/stage1") for word in words]
            typed_settings(composed(first_job([word for word in prepared(named) if word != "-m"])))
    assert len(commands) == 15


@pytest.mark.slow
def test_the_commands_run(program, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_texts.txt").write_text("\n".join(text for text, _ in ROWS) + "\n")
    for split in ("train", "dev", "test", "all"):
        lines = "\n".join(f"{text} of {split},{label}" for text, label in ROWS)
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{lines}\n")
    for command in COMMANDS:
        if command.startswith("python train.py"):
            words = shlex.split(command)[2:]
            named = {"FOLDER": _an_export(tmp_path), "runs/mlm/NAME-KEY": _a_run(tmp_path)}
            given = [reduce(lambda text, name: text.replace(name, named[name]), named, word) for word in small(words)]
            assert program(*given) == 0, command
        elif command.startswith("python -m poolwise.inspect_data"):
            words = shlex.split(command)[3:]
            typed_settings(composed(first_job(prepared(words))))
        elif command.startswith("python -m poolwise.inspect "):
            assert inspect_checkpoint(Path(_an_export(tmp_path))).missing == set()
        elif command.startswith("python -m poolwise.report"):
            words = shlex.split(command)[2:]
            if "--from-wandb" not in words:  # needs an account
                monkeypatch.setattr(sys, "argv", words)
                report.main()
    printed = capsys.readouterr().out
    assert "runs/report/index.html" in printed
    assert len(list((tmp_path / "runs/sentiment").glob("*/record.json"))) == 12 + (4 + 9 + 9 + 1) + 12 + 3
    assert len(list((tmp_path / "runs/mlm").glob("*/export"))) == 3 + 2 + 1 + 5


def _an_export(folder: Path) -> str:
    return str(next((folder / "runs/mlm").glob("*/export"), ""))


def _a_run(folder: Path) -> str:
    return str(next((folder / "runs/mlm").glob("demo-tiny-bow-seed1-*"), ""))


def test_layout_names_what_exists():
    layout = README[README.index("train.py                  the entry") :]
    layout = layout[: layout.index("```")]
    for name in re.findall(r"([a-z0-9_]+\.py)", layout):
        assert (REPOSITORY / name).is_file() or (REPOSITORY / "src/poolwise" / name).is_file(), name


def test_train_py_shows_its_help_in_a_second():
    """The best of three: the machine may be busy, so that a second is one of a core."""
    seconds, of_a_core = [], []
    for _ in range(3):
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, str(REPOSITORY / "train.py"), "--help"]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        of_a_core.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 2
    assert min(of_a_core) < 1
    for words in ("stage: mlm, sentiment", "repr: attention, cls, ", "python train.py stage=mlm"):
        assert words in found.stdout


@pytest.mark.parametrize("group", ["repr", "objective", "data", "control"])
def test_every_choice_is_in_the_readme(group):
    for file in (REPOSITORY / "conf" / group).glob("*.yaml"):
        assert f"`{file.stem}`" in README or f"{group}={file.stem}" in README, file.stem
