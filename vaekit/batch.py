"""The records that pass from data to models."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
        Row and column of each non-zero entry of ``x`` in ascending order, int64 ``[2, count]``, where the data set
        knows them: it spares a search.
    observed
        Whether each feature was measured at all, bool ``[batch, features]``; None where all were. ``x`` is 0 where
        one was not.
    """

    x: Tensor
    size_factor: Tensor | None = None
    covariates: Tensor | None = None
    label: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # (a tuple's method of that name is not needed)
    nonzero: Tensor | None = None
    observed: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``."""
        return Batch(*(None if field is None else field.to(device) for field in self))  # type: ignore[arg-type]


class Moments(NamedTuple):
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
    mean_log: Tensor | None = None
    log_size: Tensor | None = None
    batches: int = 0
