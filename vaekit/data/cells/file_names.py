"""Names of files of cells, and the column with the file of each cell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vaekit._core.urls import is_url, path_text

if TYPE_CHECKING:
    import pandas as pd

FILE_COLUMN = "vaekit_file"  # of obs: the file of each cell, if there are several
ENDINGS = re.compile(r"(\.(h5ad|h5mu|h5|hdf5|loom|zarr|csv|tsv|tab|txt|mtx|zip|gz|tar))+$", re.IGNORECASE)
COMMON_NAMES = re.compile(
    r"((\w+_)?(filtered|raw)_(feature|gene)_bc_matri(x|ces)(_\w+)?|outs|count|matrix)?", re.IGNORECASE
)


def file_name(file: str | Path) -> str:
    """Return the name of a file without directory and ending.

    The output of Cell Ranger has the same names for each sample, and is named by the sample's directory.

    Examples
    --------
    >>> file_name("data/donor.v1.h5ad"), file_name("data/donor_1/outs/filtered_feature_bc_matrix")
    ('donor.v1', 'donor_1')
    """
    text = str(file)
    path = PurePosixPath(urlsplit(text).path) if is_url(text) else Path(text).absolute()
    names = [ENDINGS.sub("", path.name), *(parent.name for parent in path.parents)]
    own = (name for name in names if not COMMON_NAMES.fullmatch(name))
    return next(own, names[0]) or "vaekit"


def file_column(paths: Sequence[str | Path], sizes: Sequence[int]) -> pd.Categorical:
    """Return the name of the file of each cell, or its path if two files have the same name.

    Parameters
    ----------
    paths : sequence of str or Path
        The files.
    sizes : sequence of int
        Their numbers of cells.

    Examples
    --------
    >>> list(file_column(["data/a.h5ad", "data/b.h5ad"], [1, 2]))
    ['a', 'b', 'b']
    """
    import numpy as np
    import pandas as pd

    names = [file_name(path) for path in paths]
    names = names if len(set(names)) == len(names) else list(map(path_text, paths))
    return pd.Categorical.from_codes(np.repeat(np.arange(len(names)), sizes), names)
