"""Every notebook runs from the top, and is committed with its results.

The short versions share one kernel, whose names are deleted before each notebook: imports and the compilation of UMAP
would take half a minute per notebook.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
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


@pytest.fixture(scope="module")
def kernel(tmp_path_factory) -> Iterator[KernelManager]:
    """Start a kernel with the settings of the short versions."""
    with pytest.MonkeyPatch.context() as patch:
        for name, few in {"EPOCHS": "3", "DRAWS": "200", "STEPS": "40"}.items():
            patch.setenv(f"VAEKIT_NOTEBOOK_{name}", few)
        manager, client = start_new_kernel(cwd=str(tmp_path_factory.mktemp("kernel")))
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)


def first_and_others() -> list[Any]:
    """Return the notebooks; the main run executes those of the first steps."""
    first = ("01", "02", "05")
    marks = [() if path.stem.startswith(first) else pytest.mark.exhaustive for path in NOTEBOOKS]
    return [pytest.param(path, marks=mark, id=path.stem) for path, mark in zip(NOTEBOOKS, marks, strict=True)]


@pytest.mark.parametrize("path", first_and_others())
def test_executes(path, tmp_path, kernel):
    folder = tmp_path / "notebooks"  # without runs of the user
    folder.mkdir()
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # outputs of an earlier run must not count
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    start = f"%reset -f\n%matplotlib inline\n%cd -q {folder}\nimport matplotlib\nmatplotlib.rcdefaults()"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(start))
    NotebookClient(notebook, km=kernel, timeout=300).execute()
    assert outputs_of(notebook)
    assert not [output for output in outputs_of(notebook) if output.output_type == "error"]
    assert not list(folder.iterdir()), "a notebook leaves no files behind"
