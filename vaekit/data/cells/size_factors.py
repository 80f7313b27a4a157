"""Size factors of cells, and the moments of the training cells that a model starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.batch import DataStatistics
from vaekit.data.cells.columns import Column, read_numeric
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

MIN_SCALE = 1e-2  # of log totals: cells brought to one total would leave a learned one no room


def total_counts(counts: sparse.csr_matrix) -> np.ndarray:
    """Return the total of each cell, float64 ``[cells]``, 1 for an empty one so that its logarithm exists."""
    return np.maximum(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), 1)


def read_size_factors(
    obs: pd.DataFrame, key: str, source: str, totals: np.ndarray, train: np.ndarray
) -> tuple[np.ndarray, float]:
    """Read size factors, or library sizes: any numbers proportional to the depth of the cells.

    Their unit does not matter: they are scaled so that their sum over the training cells is that of the totals.

    Parameters
    ----------
    obs, key, source
        The cells' table, its column, and where it comes from.
    totals
        Total counts over the modelled genes, ``[cells]``.
    train
        Row numbers of the training cells.

    Returns
    -------
    values
        Scaled size factors, ``[cells]``.
    scale
        What they were multiplied by.

    Raises
    ------
    DataError
        If there is no such column, or a value is no number, not finite or not positive.
    """
    values = read_numeric(obs, key, "size_factor_key", source, positive=True)
    largest = values[train].max()  # the sum of huge values is not finite
    with np.errstate(over="ignore"):
        scale = float(totals[train].sum() / (values[train] / largest).sum() / largest)
    return _scaled(values, scale, obs, key, source), scale


def _scaled(values: np.ndarray, scale: float, obs: pd.DataFrame, key: str, source: str) -> np.ndarray:
    """Return size factors times ``scale``.

    Raises
    ------
    DataError
        If one is 0 or infinite in float32.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        sizes = values * scale
        stored = sizes.astype(np.float32)
    if (bad := ~np.isfinite(stored) | (stored <= 0)).any():
        first = int(np.argmax(bad))
        raise DataError(
            f"size_factor_key={key!r}: {int(bad.sum())} of {len(obs)} cells of {source} have a size factor that is "
            f"too far from those of the training cells for float32, the first {values[first]:g} in cell "
            f"{str(obs.index[first])!r}. Correct the column, or remove these cells."
        )
    return sizes


def query_size_factors(
    obs: pd.DataFrame,
    key: str | None,
    source: str,
    counts: sparse.csr_matrix,
    observed: np.ndarray,
    registry: Mapping[str, Any],
) -> np.ndarray:
    """Return the size factors of a query in the checkpoint's unit, ``[cells]``: expected totals over all its genes.

    Without a column they are the totals over the genes that the query has, divided by the share of the training
    counts that these genes had.

    Raises
    ------
    DataError
        If the column and the checkpoint do not fit each other, or values are not positive.
    """
    scale = registry["size_factor_scale"]
    if key is not None and scale is None:
        raise DataError(
            f"size_factor_key={key!r}: the checkpoint was trained with the total counts as size factors; leave "
            "size_factor_key out"
        )
    if key is not None:
        values = read_numeric(obs, key, "size_factor_key", source, positive=True)
        return _scaled(values, scale, obs, key, source)
    if scale is not None:
        raise DataError(
            f"size_factor_key is needed for {source}: the checkpoint was trained with the size factors of a column"
        )
    mean = registry["mean"].double().numpy()
    share = mean[observed].sum() / max(mean.sum(), np.finfo(np.float64).tiny)
    if not observed.all() and share == 0:
        raise DataError(f"{source} has no gene of the checkpoint that had counts in its training")
    return total_counts(counts) / (1.0 if observed.all() else share)


def training_moments(
    mean: np.ndarray, mean_log: np.ndarray, size_factor: np.ndarray, batch: Column | None
) -> DataStatistics:
    """Return the moments of the training cells.

    Parameters
    ----------
    mean, mean_log
        Means of their counts and of ``log1p(count)``, ``[genes]``.
    size_factor
        Theirs, ``[cells]``.
    batch
        Theirs, or None; a batch without training cells gets the moments of all.
    """
    log_size = np.log(size_factor)
    groups = [log_size]
    if batch is not None:
        groups = [log_size[batch.codes == code] for code in range(len(batch.categories))]
    rows = [_mean_and_scale(group if len(group) else log_size) for group in groups]
    first, log = (torch.from_numpy(values.astype(np.float32)) for values in (mean, mean_log))
    return DataStatistics(first, log, torch.stack(rows), 0 if batch is None else len(batch.categories))


def _mean_and_scale(values: np.ndarray) -> Tensor:
    return torch.tensor([values.mean(), max(values.std(), MIN_SCALE)], dtype=torch.float32)
