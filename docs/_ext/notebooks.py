"""Copies of the notebooks in ``docs/tutorials``, which git ignores: the sources are in ``notebooks``."""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx

SOURCE = Path(__file__).parents[2] / "notebooks"


def copy_notebooks(app: Sphinx) -> None:
    """Copy new and changed notebooks, and remove copies whose notebook does not exist."""
    target = Path(app.srcdir) / "tutorials"
    notebooks = {path.name: path for path in SOURCE.glob("*.ipynb")}
    for copy in target.glob("*.ipynb"):
        if copy.name not in notebooks:
            copy.unlink()
    for name, path in notebooks.items():
        copy = target / name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            shutil.copy2(path, copy)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", copy_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
