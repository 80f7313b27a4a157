"""Records that the data modules pass to the models."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class CSREntries(NamedTuple):
    """Non-zero entries of a matrix in CSR form.

    Attributes
    ----------
    dense : Tensor, shape (batch, features)
        The matrix itself. A batch whose ``x`` was replaced has other entries.
    indptr : Tensor, int64, shape (batch + 1)
        The entries of observation i are ``indptr[i]`` to ``indptr[i + 1]``.
    indices : Tensor, int64, shape (entries)
        Columns of the entries, ascending for each observation.
    data : Tensor, float32, shape (entries)
        Values of the entries.
    """

    dense: Tensor
    indptr: Tensor
    indices: Tensor
    data: Tensor


class Batch(NamedTuple):
    """A mini-batch. Fields that a data set does not have are None.

    It is a NamedTuple, because Lightning moves NamedTuples to the device.

    Attributes
    ----------
    x : Tensor, float32, shape (batch, features)
        Observations: UMI counts, or pixel values (flattened, in [0, 1]).
    size_factor : Tensor or None, shape (batch, 1)
        Positive factor of the mean of each cell, by default the total count of the modeled genes, at least 1. None for
        images.
    covariates : Tensor or None, shape (batch, num_covariates)
        Inputs of encoder and decoder: the batch (one-hot), other categories (each one-hot), then standardized numbers.
    label : Tensor or None, int64, shape (batch)
        Class of each observation, -1 if unknown, for evaluation and figures only. It is never used in training.
    index : Tensor or None, int64, shape (batch)
        Index of each observation in the data set.
    nonzero : CSREntries or None
        Non-zero entries of ``x``, always on the CPU, if the data set has them.
    observed : Tensor or None, bool, shape (batch, features)
        Whether each feature was measured; ``x`` is 0 for the others. None means all.
    observed_label : Tensor or None, int64, shape (batch)
        Known category of the latent with an ``observed_key``, for training; -1 if unknown. Observations outside the
        training split are always unknown.

    Examples
    --------
    >>> import torch, vaekit
    >>> images = vaekit.Batch(torch.rand(8, 64), label=torch.zeros(8, dtype=torch.long))
    >>> images.x.shape, images.covariates
    (torch.Size([8, 64]), None)
    """

    x: Tensor
    size_factor: Tensor | None = None
    covariates: Tensor | None = None
    label: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # hides tuple.index, which is not needed
    nonzero: CSREntries | None = None
    observed: Tensor | None = None
    observed_label: Tensor | None = None

    @property
    def entries(self) -> CSREntries | None:
        """The non-zero entries, if they are available and ``x`` has not been replaced or changed in place."""
        nonzero = self.nonzero
        if nonzero is None or nonzero.dense is not self.x or (not self.x.is_inference() and self.x._version):
            return None
        return nonzero

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``."""
        nonzero = self.nonzero if torch.device(device).type == "cpu" else None
        return Batch(*(f.to(device) if isinstance(f, Tensor) else None for f in self))._replace(nonzero=nonzero)  # type: ignore[arg-type]

    def rows(self, part: slice | Tensor) -> Batch:
        """Return a range of the observations, or those at int64 indices."""
        fields = self._replace(nonzero=None)
        return Batch(*(field[part] if isinstance(field, Tensor) else None for field in fields))  # type: ignore[arg-type]


class DataStatistics(NamedTuple):
    """Statistics of the training data that initialize a model. Fields that a data set does not have are None.

    Attributes
    ----------
    mean : Tensor, float32, shape (features)
        Mean of ``x``.
    mean_log1p : Tensor or None, float32, shape (features)
        Mean of ``log(1 + x)``.
    log_size_factor : Tensor or None, float32, shape (max(1, num_batches), 2)
        Mean and standard deviation of the log size factor of each batch.
    num_batches : int
        Number of batches, whose one-hot code are the first columns of ``Batch.covariates``.
    """

    mean: Tensor
    mean_log1p: Tensor | None = None
    log_size_factor: Tensor | None = None
    num_batches: int = 0
