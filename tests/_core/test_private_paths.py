"""Values that leave the machine do not contain its directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vaekit._core.private_paths import find_directories, hide_directories


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
        (["--data.path=/home/ada/my data/cells.h5ad", "-o", "/a b/c"], ["--data.path=cells.h5ad", "-o", "c"]),
        (["--layer", "/raw/X", "--data.layer=/layers/counts", "--data.matrix", "/X", "/X"],
         ["--layer", "/raw/X", "--data.layer=/layers/counts", "--data.matrix", "/X", "X"]),
        ({"path": ["donor 7/a.h5ad", "https://b.org/c/d.h5ad"], "root": "my data/images"},
         {"path": ["a.h5ad", "https://b.org/c/d.h5ad"], "root": "images"}),
    ],
)  # fmt: skip
def test_directories_are_hidden(value: Any, expected: Any) -> None:
    assert hide_directories(value) == expected


def test_directories_of_the_data_are_hidden_in_texts() -> None:
    data = {"path": ["donor 7/cells.h5ad", "/home/ada/my data/b.h5ad", "c.h5ad", "s3://bucket/d/e.h5ad"], "seed": 1}
    directories = find_directories([{"init_args": data}])
    assert directories == {"donor 7", "/home/ada/my data"}
    text = "donor 7/cells.h5ad and /home/ada/my data/b.h5ad: 3 cells; other-donor 7/x, s3://bucket/d/e.h5ad"
    expected = "cells.h5ad and b.h5ad: 3 cells; other-donor 7/x, s3://bucket/d/e.h5ad"
    assert hide_directories(text, directories) == expected
    command = ["fit", "donor 7/cells.h5ad", '{"data": {"path": ["/home/ada/my data/b.h5ad"]}}']
    assert hide_directories(command, directories) == ["fit", "cells.h5ad", '{"data": {"path": ["b.h5ad"]}}']
