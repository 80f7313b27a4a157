"""What is known of each cell and conditions encoder and decoder: columns of ``adata.obs`` as numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.data.cells.columns import Column, one_hot, read_batches, read_categories, read_numeric
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd


# What a checkpoint has to say for a query, or a training that goes on, to be read alike.
REFERENCE_KEYS = (
    "feature_names",
    "gene_name_key",
    "mean",
    "batch_categories",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
    "size_factor_key",
    "size_factor_scale",
    "matrix",
)


class CovariateKeys(NamedTuple):
    """Names of the columns; those of a query stand in the order of the checkpoint's, None for the same names."""

    batch: str | None = None
    categorical: Sequence[str] | None = None
    continuous: Sequence[str] | None = None


class Covariates(NamedTuple):
    """Covariates of cells and what their columns mean, in the order of the columns.

    Attributes
    ----------
    values
        Float32 ``[cells, width]``: the batch one-hot, each categorical covariate one-hot, the continuous ones
        standardised; None where there are none.
    batch_categories
        Names of the batches.
    categorical
        Levels of each categorical covariate.
    continuous
        Mean and standard deviation of each continuous covariate among the training cells; inf if it is constant.
    """

    values: Tensor | None
    batch_categories: list[str]
    categorical: dict[str, list[str]]
    continuous: dict[str, list[float]]

    @property
    def width(self) -> int:
        """Number of columns."""
        return 0 if self.values is None else self.values.shape[1]

    def batch(self, rows: np.ndarray) -> Column | None:
        """Return the batch of some cells, or None where there are no batches."""
        if self.values is None or not self.batch_categories:
            return None
        codes = self.values[torch.from_numpy(rows), : len(self.batch_categories)].argmax(1)
        return Column(codes.numpy(), self.batch_categories)

    def state(self) -> dict[str, Any]:
        """Return what the columns mean, as plain data: a registry for :func:`read_covariates`."""
        return {
            "batch_categories": list(self.batch_categories),
            "categorical_covariate_keys": {key: list(levels) for key, levels in self.categorical.items()},
            "continuous_covariate_keys": {key: list(moments) for key, moments in self.continuous.items()},
        }


def check_keys(keys: CovariateKeys) -> None:
    """Check names of columns before data are read.

    Raises
    ------
    DataError
        If a list of names is no list, or names a column that already has a part.
    """
    taken = [] if keys.batch is None else [keys.batch]
    for argument, names in (
        ("categorical_covariate_keys", keys.categorical),
        ("continuous_covariate_keys", keys.continuous),
    ):
        if isinstance(names, str):
            raise DataError(f"{argument}={names!r} must be a list of columns: [{names!r}]")
        for name in names or ():
            if name in taken:
                raise DataError(
                    f"{argument}: the column {name!r} is named twice (among batch_key, categorical_covariate_keys and "
                    "continuous_covariate_keys); name it once"
                )
            taken.append(name)


def read_covariates(
    obs: pd.DataFrame,
    keys: CovariateKeys,
    source: str,
    train: np.ndarray | None = None,
    registry: Mapping[str, Any] | None = None,
) -> Covariates:
    """Read the covariates of cells.

    Parameters
    ----------
    obs
        The cells' table.
    keys
        Columns to read.
    source
        Where the table comes from, for messages.
    train
        Row numbers of the training cells, whose mean and scale standardise; not needed with a registry.
    registry
        :meth:`Covariates.state` of a checkpoint: the columns get its meaning.

    Warns
    -----
    UserWarning
        If a covariate does not vary, or a category has no training cells.

    Raises
    ------
    DataError
        If a column is missing, does not hold what it should (see ``vaekit.data.cells.columns``), does not fit the
        registry, or is not finite after standardization.
    """
    known = {} if registry is None else dict(registry["categorical_covariate_keys"])
    moments = {} if registry is None else dict(registry["continuous_covariate_keys"])
    categorical = _matched(keys.categorical, "categorical_covariate_keys", known, registry)
    continuous = _matched(keys.continuous, "continuous_covariate_keys", moments, registry)
    batch = read_batches(obs, keys.batch, source, None if registry is None else list(registry["batch_categories"]))
    parts, levels = [one_hot(batch)], {}
    if batch is not None and registry is None:
        _warn_untrained(batch, "batch_key", keys.batch, source, train)
    for name, key in categorical.items():
        column = read_categories(obs, key, "categorical_covariate_keys", source, known.get(name))
        levels[name] = column.categories
        if registry is None:
            if len(column.categories) == 1:
                _warn(f"categorical_covariate_keys={key!r}: {source} has one level only, {column.categories[0]!r}")
            _warn_untrained(column, "categorical_covariate_keys", key, source, train)
        parts.append(one_hot(column))
    for name, key in continuous.items():
        values = read_numeric(obs, key, "continuous_covariate_keys", source)
        if registry is None:
            moments[name] = _mean_and_scale(values if train is None else values[train])
            if np.isinf(moments[name][1]):
                _warn(
                    f"continuous_covariate_keys={key!r}: all training cells of {source} have the value {moments[name][0]:g}"
                )
        parts.append(_standardized(values, moments[name], f"continuous_covariate_keys={key!r}", source, obs))
    given = [part for part in parts if part is not None]
    return Covariates(
        torch.cat(given, 1) if given else None, [] if batch is None else batch.categories, levels, moments
    )


def _mean_and_scale(values: np.ndarray) -> list[float]:
    """Return mean and standard deviation of float64 values in any unit; a scale of inf if they are constant.

    They are constant if they differ by no more than rounding. Dividing by inf makes the column 0 for every cell.
    """
    low = values.min()
    with np.errstate(over="ignore"):
        width = values.max() - low
    if width <= 4 * np.finfo(np.float64).eps * np.abs(values).max():
        return [float(low), np.inf]
    relative = (values - low) / width  # whose squares neither overflow nor vanish
    return [float(low + width * relative.mean()), float(width * relative.std())]


def _standardized(values: np.ndarray, moments: Sequence[float], what: str, source: str, obs: pd.DataFrame) -> Tensor:
    """Return a float32 column ``[cells, 1]``: centered and divided in float64.

    Raises
    ------
    DataError
        If a value is not finite in float32.
    """
    mean, scale = moments
    with np.errstate(over="ignore", invalid="ignore"):
        found = ((values - mean) / scale).astype(np.float32)
    if (bad := ~np.isfinite(found)).any():
        first = int(np.argmax(bad))
        raise DataError(
            f"{what}: {int(bad.sum())} of {len(obs)} cells of {source} are too far from the mean of the training cells "
            f"({mean:g}, standard deviation {scale:g}) for float32, the first {values[first]:g} in cell "
            f"{str(obs.index[first])!r}. Transform the column, for example by a logarithm."
        )
    return torch.from_numpy(found)[:, None]


def _matched(
    keys: Sequence[str] | None, argument: str, known: Mapping[str, Any], registry: Mapping[str, Any] | None
) -> dict[str, str]:
    """Return the column to read for each covariate of the checkpoint, or of the data itself."""
    if registry is None:
        return {key: key for key in keys or ()}
    keys = list(known) if keys is None else keys
    if len(keys) != len(known):
        trained = f"with {', '.join(map(repr, known))}" if known else "without any"
        raise DataError(
            f"{argument}: the checkpoint was trained {trained}, and {len(keys)} columns are given; give "
            f"{len(known)}, in that order, or leave {argument} out for the same names"
        )
    return dict(zip(known, keys, strict=True))


def _warn_untrained(column: Column, argument: str, key: str | None, source: str, train: np.ndarray | None) -> None:
    if train is None:
        return
    seen = np.bincount(column.codes[train], minlength=len(column.categories)) > 0
    if unseen := [name for name, found in zip(column.categories, seen, strict=True) if not found]:
        warnings.warn(
            f"{argument}={key!r}: no training cell of {source} has {', '.join(map(repr, unseen[:5]))}; the model "
            "learns nothing about cells with it",
            UserWarning,
            stacklevel=3,
        )


def _warn(problem: str) -> None:
    warnings.warn(f"{problem}; it tells the model nothing", UserWarning, stacklevel=3)
