"""Size factors of cells, and the statistics of the training cells from which a model is initialized."""

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

MIN_STD = 1e-2  # of log size factors: cells normalized to one total would fix a latent library size


def read_size_factors(
    obs: pd.DataFrame, key: str, source: str, totals: np.ndarray, train: np.ndarray
) -> tuple[np.ndarray, float]:
    """Read size factors or library sizes in any unit, scaled to the same sum over the training cells as ``totals``.

    Returns
    -------
    values : ndarray, shape (cells,)
        Scaled size factors.
    scale : float
        Factor by which they were multiplied.
    """
    values = read_numeric(obs, key, "size_factor_key", source, positive=True)
    largest = values[train].max()  # the sum of huge values would overflow
    with np.errstate(over="ignore"):
        scale = float(totals[train].sum() / (values[train] / largest).sum() / largest)
    return _rescale(values, scale, obs, key, source), scale


def _rescale(values: np.ndarray, scale: float, obs: pd.DataFrame, key: str, source: str) -> np.ndarray:
    """Return size factors times ``scale``, or raise a DataError if one is 0 or infinite in float32."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        sizes = values * scale
        rounded = sizes.astype(np.float32)
    if (invalid := ~np.isfinite(rounded) | (rounded <= 0)).any():
        first = int(np.argmax(invalid))
        raise DataError(
            f"size_factor_key={key!r}: {int(invalid.sum())} of {len(obs)} cells of {source} have a size factor that is "
            f"too far from those of the training cells for float32, the first {values[first]:g} in cell "
            f"{str(obs.index[first])!r}. Correct the column, or remove these cells."
        )
    return sizes


def query_size_factors(
    obs: pd.DataFrame, key: str | None, source: str, observed: np.ndarray, registry: Mapping[str, Any]
) -> tuple[np.ndarray | None, float]:
    """Return the size factors of a query in the checkpoint's unit, the expected totals over all its genes.

    Returns
    -------
    sizes : ndarray or None, shape (cells,)
        Size factors of a column; None if the total counts are to be used.
    fraction : float
        Fraction of the training counts in the ``observed`` genes, by which total counts are to be divided.

    Raises
    ------
    DataError
        If the column and the checkpoint do not match, values are not positive, or no observed gene has training counts.
    """
    scale = registry["size_factor_scale"]
    if key is not None and scale is None:
        raise DataError(
            f"size_factor_key={key!r}: the checkpoint was trained with total counts as size factors. Omit "
            "size_factor_key."
        )
    if key is not None:
        values = read_numeric(obs, key, "size_factor_key", source, positive=True)
        return _rescale(values, scale, obs, key, source), 1.0
    if scale is not None:
        raise DataError(
            f"size_factor_key is required for {source}: the checkpoint was trained with size factors of a column."
        )
    if observed.all():
        return None, 1.0
    mean = registry["mean"].double().numpy()
    fraction = mean[observed].sum() / max(mean.sum(), np.finfo(np.float64).tiny)
    if fraction == 0:
        raise DataError(f"{source} has no gene of the checkpoint with counts in its training data.")
    return None, fraction


def training_statistics(
    mean: np.ndarray, mean_log1p: np.ndarray, size_factor: np.ndarray, batch: Column | None
) -> DataStatistics:
    """Return the statistics of training cells, the moments of all cells for a batch without training cells.

    ``mean`` and ``mean_log1p`` are the means of counts and of ``log1p(count)`` per gene.
    """
    log_size = np.log(size_factor)
    groups = [log_size]
    if batch is not None:
        groups = [log_size[batch.codes == code] for code in range(len(batch.categories))]
    moments = [_mean_and_std(group if len(group) else log_size) for group in groups]
    means = [torch.from_numpy(values.astype(np.float32)) for values in (mean, mean_log1p)]
    return DataStatistics(means[0], means[1], torch.stack(moments), 0 if batch is None else len(batch.categories))


def _mean_and_std(values: np.ndarray) -> Tensor:
    return torch.tensor([values.mean(), max(values.std(), MIN_STD)], dtype=torch.float32)
