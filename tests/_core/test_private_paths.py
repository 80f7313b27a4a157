"""Values that leave the machine do not contain its directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vaekit._core.private_paths import hide_directories


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/ada/my data/cells.h5ad", "cells.h5ad"),
        (Path("/home/ada/cells.h5ad"), "cells.h5ad"),
        (r"C:\Users\ada\cells.h5ad", "cells.h5ad"),
        ("/", ""),
        ("runs/a", "runs/a"),
        ("s3://bucket/cells.zarr", "s3://bucket/cells.zarr"),
        ("val/elbo", "val/elbo"),
        ({"layer": "/layers/counts", "path": "/layers/counts"}, {"layer": "/layers/counts", "path": "counts"}),
        ("CD4/CD8", "CD4/CD8"),
        (["/a/b.h5ad", {"x": ("/c/d.zarr/", 3, None)}], ["b.h5ad", {"x": ("d.zarr", 3, None)}]),
        ("fit --data.path=/a/b/c.h5ad --trainer.default_root_dir /a/runs -c x.yaml",
         "fit --data.path=c.h5ad --trainer.default_root_dir runs -c x.yaml"),
        ("'/a b/c.h5ad' and ['/d/e.h5ad', \"/f/g.h5ad\"]", "'a b/c.h5ad' and ['e.h5ad', \"g.h5ad\"]"),
        (f"cells of {Path.home()}", f"cells of {Path.home().name}"),
        ("a line\n/a/b.h5ad: not found", "a line\nb.h5ad: not found"),
    ],
)  # fmt: skip
def test_directories_are_hidden(value: Any, expected: Any) -> None:
    assert hide_directories(value) == expected
