"""Every notebook runs from the top, and is committed with its results."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def outputs_of(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    kinds = {output.output_type for output in outputs_of(notebook)}
    assert "error" not in kinds
    assert any("image/png" in output.get("data", {}) for output in outputs_of(notebook))
    run = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert run == list(range(1, len(run) + 1)), "run all cells from a fresh kernel before committing"
    assert not [o.text for o in outputs_of(notebook) if o.output_type == "stream" and "Warning" in o.text]
    assert path.stat().st_size < 600_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_executes(path, tmp_path, monkeypatch):
    for name, few in {"EPOCHS": "3", "DRAWS": "500", "STEPS": "60"}.items():
        monkeypatch.setenv(f"VAEKIT_NOTEBOOK_{name}", few)
    folder = tmp_path / "notebooks"  # so that it finds no run of the user's beside it
    folder.mkdir()
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # what an earlier run left must not pass for this one's
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    assert outputs_of(notebook)
    assert not [output for output in outputs_of(notebook) if output.output_type == "error"]
    assert not list(folder.iterdir()), "a notebook leaves no files behind"
