"""The records that pass from data to models."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class CSREntries(NamedTuple):
    """The non-zero entries of a matrix, row after row.

    Attributes
    ----------
    dense
        The very matrix that they are of, ``[rows, columns]``: a batch whose ``x`` was replaced has others.
    starts
        Those of row i are from ``starts[i]`` to ``starts[i + 1]``, int64 ``[rows + 1]``.
    column
        Their columns, ascending in each row, int64 ``[count]``.
    value
        Float32 ``[count]``.
    """

    dense: Tensor
    indptr: Tensor
    indices: Tensor
    data: Tensor


class Batch(NamedTuple):
    """A mini-batch; fields that a data set does not have are None.

    A NamedTuple, because Lightning moves one to the device field by field.

    Attributes
    ----------
    x
        Observations, float32 ``[batch, features]``: UMI counts, or pixel values (flattened, in 0..1).
    size_factor
        Expected total count of each cell over the modelled genes, ``[batch, 1]``, positive: by default the total
        itself, at least 1; None for images.
    covariates
        Known covariates that condition encoder and decoder, ``[batch, num_covariates]``: the batch (one-hot), other
        categories (each one-hot), then standardised numbers.
    label
        Class of each row, int64 ``[batch]``, -1 where unknown. Never used in training.
    index
        Row number in the data set, int64 ``[batch]``.
    nonzero
        The non-zero entries of ``x``, where the data set knows them: it spares a search. They stay on the CPU.
    observed
        Whether each feature was measured at all, bool ``[batch, features]``; None where all were. ``x`` is 0 where
        one was not.
    """

    x: Tensor
    size_factor: Tensor | None = None
    covariates: Tensor | None = None
    label: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # (a tuple's method of that name is not needed)
    nonzero: CSREntries | None = None
    observed: Tensor | None = None

    @property
    def entries(self) -> CSREntries | None:
        """The non-zero entries, if they are known, and ``x`` is still what they are of."""
        known = self.nonzero
        if known is None or known.dense is not self.x or (not self.x.is_inference() and self.x._version):
            return None
        return known

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``."""
        nonzero = self.nonzero if torch.device(device).type == "cpu" else None
        return Batch(*(f.to(device) if isinstance(f, Tensor) else None for f in self))._replace(nonzero=nonzero)  # type: ignore[arg-type]

    def rows(self, part: slice) -> Batch:
        """Return a range of the observations."""
        fields = self._replace(nonzero=None)
        return Batch(*(field[part] if isinstance(field, Tensor) else None for field in fields))  # type: ignore[arg-type]


class DataStatistics(NamedTuple):
    """What a model takes over from its training rows before the first step; None where a data set has no such thing.

    Attributes
    ----------
    mean
        Mean of ``x``, float32 ``[features]``.
    mean_log
        Mean of ``log(1 + x)``, float32 ``[features]``.
    log_size
        Mean and standard deviation of the log size factor, float32 ``[max(1, batches), 2]``: a row for each batch.
    batches
        Number of batches: the first columns of ``Batch.covariates``.
    """

    mean: Tensor
    mean_log1p: Tensor | None = None
    log_size_factor: Tensor | None = None
    num_batches: int = 0
