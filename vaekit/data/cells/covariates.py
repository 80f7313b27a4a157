"""Covariates: columns of ``adata.obs`` as numbers that condition encoder and decoder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.data.cells.columns import Column, check_column_name, one_hot, read_batches, read_categories, read_numeric
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd

REGISTRY_KEYS = (  # needed to read a query, or the data of a resumed run, like the training data
    "feature_names",
    "gene_name_key",
    "mean",
    "batch_categories",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
    "round_counts",
    "size_factor_key",
    "size_factor_scale",
    "matrix",
)


class CovariateKeys(NamedTuple):
    """Names of the columns; those of a query in the order of the checkpoint's, None for the same names."""

    batch: str | None = None
    categorical: Sequence[str] | None = None
    continuous: Sequence[str] | None = None

    def check(self) -> None:
        """Raise a DataError if a name is no text, a list of names is a string, or a column is named twice."""
        check_column_name(self.batch, "batch_key")
        seen = {self.batch}
        for argument, names in (
            ("categorical_covariate_keys", self.categorical),
            ("continuous_covariate_keys", self.continuous),
        ):
            if isinstance(names, str):
                raise DataError(f"{argument}={names!r} must be a list of columns: [{names!r}].")
            for name in names or ():
                check_column_name(name, argument)
                if name in seen:
                    raise DataError(
                        f"{argument}: the column {name!r} is named twice (among batch_key, categorical_covariate_keys "
                        "and continuous_covariate_keys). Name it once."
                    )
                seen.add(name)

    def check_excludes(self, key: str | None, argument: str) -> None:
        """Raise a DataError if a column that the model must not see as a covariate is one of them."""
        check_column_name(key, argument)
        if key is not None and key in (self.batch, *(self.categorical or ()), *(self.continuous or ())):
            raise DataError(
                f"{argument}={key!r} is also a batch or covariate, which would give the label to the decoder. Name "
                "another column."
            )


class Covariates(NamedTuple):
    """Covariates of cells, and the meaning of their columns.

    Attributes
    ----------
    values : Tensor or None, shape (cells, num_covariates)
        The batch one-hot, each categorical covariate one-hot, then the standardized continuous ones, float32.
    batch : Column or None
        Batch of each cell.
    categorical : dict of list of str
        Categories of each categorical covariate.
    continuous : dict of list of float
        Mean and standard deviation of each continuous covariate over the training cells; inf if it is constant.
    """

    values: Tensor | None
    batch: Column | None
    categorical: dict[str, list[str]]
    continuous: dict[str, list[float]]

    @property
    def num_covariates(self) -> int:
        """Number of columns."""
        return 0 if self.values is None else self.values.shape[1]

    @property
    def batch_categories(self) -> list[str]:
        """Names of the batches."""
        return [] if self.batch is None else self.batch.categories

    def registry(self) -> dict[str, Any]:
        """Return the meaning of the columns as plain data, for :func:`read_covariates`."""
        return {
            "batch_categories": list(self.batch_categories),
            "categorical_covariate_keys": {key: list(names) for key, names in self.categorical.items()},
            "continuous_covariate_keys": {key: list(moments) for key, moments in self.continuous.items()},
        }


def read_covariates(
    obs: pd.DataFrame,
    keys: CovariateKeys,
    source: str,
    train: np.ndarray | None = None,
    registry: Mapping[str, Any] | None = None,
) -> Covariates:
    """Read the covariates of cells, with the categories and moments of a checkpoint's registry if there is one.

    Else the ``train`` cells (all cells for None) standardize continuous covariates. Constant covariates, categories
    without training cells, and covariates that follow from the batch cause a warning.

    Raises
    ------
    DataError
        If a column does not exist, has invalid values (see ``vaekit.data.cells.columns``), does not match the registry,
        or is not finite after standardization.
    """
    trained: Mapping[str, Any] = registry or {
        "batch_categories": None, "categorical_covariate_keys": {}, "continuous_covariate_keys": {}
    }  # fmt: skip
    names, moments = trained["categorical_covariate_keys"], dict(trained["continuous_covariate_keys"])
    is_new = registry is None
    categorical = _match_keys(keys.categorical, "categorical_covariate_keys", names, is_new)
    continuous = _match_keys(keys.continuous, "continuous_covariate_keys", moments, is_new)
    batches = None if is_new else list(trained["batch_categories"])
    batch = read_batches(obs, keys.batch, source, batches, trained.get("default_batch"))
    parts, categories = [one_hot(batch)], {}
    if batch is not None and is_new:
        _warn_untrained(batch, f"batch_key={keys.batch!r}", source, train)
    for name, key in categorical.items():
        column = read_categories(obs, key, "categorical_covariate_keys", source, names.get(name))
        categories[name] = column.categories
        if is_new:
            if len(column.categories) == 1:
                _warn_constant(
                    f"categorical_covariate_keys={key!r}: all cells of {source} are {column.categories[0]!r}",
                    f"categorical_covariate_keys={[other for other in categorical if other != key]}",
                )
            elif batch is not None and len(batch.categories) > 1:
                _warn_confounded(batch, column, str(keys.batch), key, source)
            _warn_untrained(column, f"categorical_covariate_keys={key!r}", source, train)
        parts.append(one_hot(column))
    for name, key in continuous.items():
        values = read_numeric(obs, key, "continuous_covariate_keys", source)
        label = f"continuous_covariate_keys={key!r}"
        if is_new:
            moments[name] = _mean_and_std(values if train is None else values[train])
            if np.isinf(moments[name][1]):
                _warn_constant(
                    f"{label}: all training cells of {source} have the value {moments[name][0]:g}",
                    f"continuous_covariate_keys={[other for other in continuous if other != key]}",
                )
        parts.append(_standardize(values, moments[name], label, source, obs))
    columns = [part for part in parts if part is not None]
    return Covariates(torch.cat(columns, 1) if columns else None, batch, categories, moments)


def _match_keys(keys: Sequence[str] | None, argument: str, trained: Mapping[str, Any], is_new: bool) -> dict[str, str]:
    """Return the column to read for each covariate of the checkpoint, or of new training data."""
    if is_new:
        return {key: key for key in keys or ()}
    keys = list(trained) if keys is None else keys
    if len(keys) != len(trained):
        names = f"with {', '.join(map(repr, trained))}" if trained else "without any"
        raise DataError(
            f"{argument} has {len(keys)} columns, but the checkpoint was trained {names}. Pass {len(trained)} in this "
            f"order, or omit {argument} to use the same names."
        )
    return dict(zip(trained, keys, strict=True))


def _mean_and_std(values: np.ndarray) -> list[float]:
    """Return mean and standard deviation of float64 values in any unit; inf if they differ by rounding only.

    Dividing by inf makes a constant column 0 for every cell.
    """
    low = values.min()
    with np.errstate(over="ignore"):
        width = values.max() - low
    if width <= 4 * np.finfo(np.float64).eps * np.abs(values).max():
        return [float(low), np.inf]
    relative = (values - low) / width  # its squares neither overflow nor underflow
    return [float(low + width * relative.mean()), float(width * relative.std())]


def _standardize(values: np.ndarray, moments: Sequence[float], label: str, source: str, obs: pd.DataFrame) -> Tensor:
    """Return a float32 column ``[cells, 1]``, centered and divided in float64; it must be finite in float32."""
    mean, std = moments
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = ((values - mean) / std).astype(np.float32)
    if (invalid := ~np.isfinite(scaled)).any():
        first = int(np.argmax(invalid))
        raise DataError(
            f"{label}: {int(invalid.sum())} of {len(obs)} cells of {source} are too far from the mean of the training "
            f"cells ({mean:g}, standard deviation {std:g}) for float32, the first {values[first]:g} in cell "
            f"{str(obs.index[first])!r}. Transform the column, for example by a logarithm."
        )
    return torch.from_numpy(scaled)[:, None]


def _warn_untrained(column: Column, label: str, source: str, train: np.ndarray | None) -> None:
    if train is None:
        return
    num_cells = np.bincount(column.codes[train], minlength=len(column.categories))
    if unseen := [name for name, count in zip(column.categories, num_cells, strict=True) if not count]:
        warnings.warn(
            f"{label}: {', '.join(map(repr, unseen[:5]))} without training cells in {source}; the model learns no "
            f"effect of it. Merge it with a similar one, or remove its cells: "
            f"adata = adata[adata.obs[{label.partition('=')[2]}] != {unseen[0]!r}].",
            UserWarning,
            stacklevel=3,
        )


def _warn_constant(problem: str, remedy: str) -> None:
    warnings.warn(f"{problem}; it gives the model no information. Pass {remedy}.", UserWarning, stacklevel=3)


def _warn_confounded(batch: Column, column: Column, batch_key: str, key: str, source: str) -> None:
    """Warn if the cells of each batch have the same category."""
    if len(np.unique(np.stack([batch.codes, column.codes]), axis=1).T) > len(batch.categories):
        return
    same = len(column.categories) == len(batch.categories)
    problem = f"{batch_key} is the same as {key}" if same else f"each {batch_key} has one value of {key}"
    warnings.warn(
        f"{problem} in {source}: their effects cannot be distinguished. To compare values of {key}, pass "
        f"batch_key=None and categorical_covariate_keys=[{key!r}], or a batch_key whose batches have cells of several "
        f"values. To ignore {key}, omit it from categorical_covariate_keys.",
        UserWarning,
        stacklevel=3,
    )
