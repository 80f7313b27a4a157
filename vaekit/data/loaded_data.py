"""Content of a data module once its source has been read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vaekit.data.dataset import BatchDataset


@dataclass(frozen=True)
class LoadedData:
    """Loaded data; most attributes are explained in :class:`~vaekit.data.data_module.DataModule`.

    Attributes
    ----------
    dataset, train_dataset : BatchDataset
        All observations in the order of the source, for evaluation and for training (which may binarize images again).
    observed_labels : ndarray or None, shape (rows,)
        Known category of each observation, int64, -1 if unknown, whether or not it is a training observation; indexes
        the only list of ``observed_categories``. None without an ``observed_key``.
    """

    dataset: BatchDataset
    train_dataset: BatchDataset
    split_indices: dict[str, Tensor]
    features: int
    covariates: int
    mean: Tensor
    label_categories: list[str]
    labels: np.ndarray
    observed_categories: dict[str, list[str]]
    observed_labels: np.ndarray | None
    fingerprint: str
    source: str


def from_loaded(name: str, doc: str) -> Any:
    """Return a read-only property with an attribute of :attr:`DataModule.loaded`."""
    return property(lambda data: getattr(data.loaded, name), doc=doc)
