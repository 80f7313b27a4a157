"""Error for an argument that is not cells, with the remedy for a frequent mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from vaekit.exceptions import DataError


def not_cells(value: Any, allowed: str, argument: str = "adata") -> DataError:
    """Return the error for a value that is neither an AnnData nor, if allowed, the path of cells.

    Parameters
    ----------
    value : object
        The argument.
    allowed : str
        Allowed values, for the message.
    argument : str
        Name of the argument.

    Examples
    --------
    >>> print(not_cells(np.ones((2, 3)), "an AnnData"))
    adata has type ndarray, but must be an AnnData. Create one: anndata.AnnData(counts), with names of genes and cells.
    """
    kind = type(value).__name__
    remedy = ""
    if isinstance(value, nn.Module):
        remedy = " It is a model: check the order of the arguments."
    elif isinstance(getattr(value, "kind", None), str):  # a data module
        remedy = " It is a data module: pass its cells, data.adata."
    elif isinstance(value, np.ndarray) or hasattr(value, "tocsr") or hasattr(value, "iloc"):
        remedy = " Create one: anndata.AnnData(counts), with names of genes and cells."
    return DataError(f"{argument} has type {kind}, but must be {allowed}.{remedy}")


def check_no_checkpoint(path: str | Path, argument: str) -> None:
    """Raise a DataError if a path of cells is that of a checkpoint by its ending."""
    if Path(path).suffix == ".ckpt":
        raise DataError(
            f"{argument}={str(path)!r} is a checkpoint. Pass the cells here, and the checkpoint as the model."
        )
