"""The wheel: what it holds, and that it runs where there is no checkout."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

from helpers import REPOSITORY, SMALL_STAGE1, SMALL_STAGE2

PACKAGES = REPOSITORY / "src/poolwise"
OF_THE_PROGRAM = ("*.py", "*.html", "*.jinja")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (file,) = folder.glob("poolwise-*.whl")
    return file


def test_it_holds_the_program_its_config_and_nothing_else(wheel):
    package = REPOSITORY / "src"
    program = {str(file.relative_to(package)) for kind in OF_THE_PROGRAM for file in package.rglob(kind)}
    config = {f"poolwise/{file.relative_to(REPOSITORY)}" for file in (REPOSITORY / "conf").rglob("*.*")}
    names = ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == program | config
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "poolwise = poolwise.app:main" in ZipFile(wheel).read(entry_points).decode()


def imported(code: ast.AST) -> set[str]:
    """The packages that a piece of code imports, of others than Python and this project."""
    found = set()
    for each in ast.walk(code):
        names = [alias.name for alias in each.names] if isinstance(each, ast.Import) else []
        names += [each.module or ""] if isinstance(each, ast.ImportFrom) else []
        found |= {name.split(".")[0] for name in names}
    return found - sys.stdlib_module_names - {"poolwise"}


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[]", each)[0].lower().replace("_", "-") for each in requirements}


def test_whatever_the_program_imports_is_declared():
    """At the top of a file as a dependency, within a function maybe as an extra."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    always = names_of(project["dependencies"])
    extras = names_of(
        [each for name, extra in project["optional-dependencies"].items() if name != "dev" for each in extra]
    )
    distributions = packages_distributions()

    def undeclared(packages: set[str], declared: set[str]) -> set[str]:
        of = {name: {each.lower().replace("_", "-") for each in distributions[name]} for name in packages}
        return {name for name, several in of.items() if not several & declared}

    for file in PACKAGES.rglob("*.py"):
        code = ast.parse(file.read_text())
        first = {each for each in code.body if isinstance(each, ast.Import | ast.ImportFrom)}
        needed = set().union(*map(imported, first)) if first else set()
        assert undeclared(needed, always) == set(), file
        assert undeclared(imported(code), always | extras) == set(), file


@pytest.fixture
def environment(wheel, tmp_path) -> Path:
    """A fresh environment with the wheel installed, whose libraries are those of the one that runs the tests."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "-q"]
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", *options, str(wheel)]
    subprocess.run(pip, check=True)
    # By a .pth the libraries come last, and the .pth files among them, such as the checkout's, are not read.
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site_packages / "libraries.pth").write_text("\n".join(libraries))
    return folder


@pytest.fixture
def empty(tmp_path) -> Path:
    """An empty folder, in a repository of somebody else's."""
    folder = tmp_path / "empty"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def in_environment(environment: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command does in a folder, with the programs of an environment."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    variables |= {"HOME": str(folder.parent), "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True)


def output_of(environment: Path, folder: Path, *words: str) -> str:
    done = in_environment(environment, folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_both_stages_and_the_report_run_in_an_empty_folder(environment, empty):
    run = partial(output_of, environment, empty)
    seen = "import sys, poolwise, poolwise.command_line as c; print([poolwise.__file__, str(c.conf_dir()), *sys.path])"
    places = json.loads(run("python", "-c", seen).replace("'", '"'))
    assert [place for place in places[:2] if not place.startswith(str(environment))] == []
    assert not {str(REPOSITORY), f"{REPOSITORY}/src", f"{REPOSITORY}/tests"} & set(places)

    assert "  poolwise stage=mlm" in run("poolwise", "--help")
    assert "next    poolwise stage=sentiment" in run("poolwise", "stage=mlm", "logger=csv", *SMALL_STAGE1)
    sweep = ["repr=cls,pooler", "seed=1", "-m"]
    assert "python -m poolwise.report" in run("poolwise", "stage=sentiment", "logger=csv", *SMALL_STAGE2, *sweep)
    assert "runs/report/index.html" in run("python", "-m", "poolwise.report")
    records = [json.loads(file.read_text()) for file in empty.glob("runs/*/*/record.json")]
    assert [(record["status"], record["git_commit"]) for record in records] == [("finished", None)] * 3
    (export,) = empty.glob("runs/mlm/*/export")
    assert "to train" not in run("python", "-m", "poolwise.inspect", str(export))
    (run_of_cls,) = empty.glob("runs/sentiment/*-cls-*")
    assert run("python", "-m", "poolwise.predict", str(run_of_cls), "A lovely film.", "--jsonl").count("\n") == 1
    assert {path.name for path in empty.iterdir()} == {".git", "runs", ".cache"}


@pytest.mark.slow
def test_several_processes_train_where_there_is_no_checkout(environment, empty):
    settings = ["stage=mlm", "trainer=ddp", "logger=csv", *SMALL_STAGE1]
    alone = in_environment(environment, empty, "poolwise", *settings)
    assert alone.returncode == 2
    assert "torchrun --nproc-per-node 2 -m poolwise ..." in alone.stderr
    assert "srun --kill-on-bad-exit=1 poolwise ..." in alone.stderr
    torchrun = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert "in each of 2 processes" in output_of(environment, empty, *torchrun, "-m", "poolwise", *settings)
    (record,) = empty.glob("runs/mlm/*/record.json")
    assert json.loads(record.read_text())["processes"] == 2
