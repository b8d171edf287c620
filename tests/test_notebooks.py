"""Every notebook runs from top to bottom, leaves nothing behind, and is committed without outputs."""

import nbformat
import pytest
from nbclient import NotebookClient

from helpers import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"
FILES = sorted(NOTEBOOKS.glob("*.ipynb"))
LONGEST_SECONDS = 300
"""For one cell, on a busy machine."""


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def notebook(request):
    found = nbformat.read(request.param, as_version=4)
    nbformat.validate(found)
    return found


@pytest.mark.slow
def test_it_runs_and_writes_nothing_beside_itself(notebook):
    before = set(NOTEBOOKS.rglob("*"))
    place = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(notebook, timeout=LONGEST_SECONDS, kernel_name="python3", resources=place).execute()
    assert set(NOTEBOOKS.rglob("*")) == before


def test_its_outputs_are_not_committed(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert not [cell for cell in cells if cell.outputs or cell.execution_count is not None]


def test_every_notebook_is_in_the_readme():
    readme = (REPOSITORY / "README.md").read_text()
    assert FILES
    assert [file.name for file in FILES if f"(notebooks/{file.name})" not in readme] == []
