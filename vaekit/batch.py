"""The one record that passes from data to models."""

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
        Total count of each cell over the modelled genes, ``[batch, 1]``, at least 1; None for images.
    covariates
        Known covariates that condition encoder and decoder, ``[batch, num_covariates]`` (a batch column is one-hot).
    label
        Class of each row, int64 ``[batch]``, -1 where unknown. Never used in training.
    index
        Row number in the data set, int64 ``[batch]``.
    nonzero
        Row and column of each non-zero entry of ``x`` in ascending order, int64 ``[2, count]``, where the data set
        knows them: it spares a search.
    """

    x: Tensor
    size_factor: Tensor | None = None
    covariates: Tensor | None = None
    label: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # (a tuple's method of that name is not needed)
    nonzero: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``."""
        return Batch(*(None if field is None else field.to(device) for field in self))  # type: ignore[arg-type]
