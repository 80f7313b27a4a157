"""Covariates set to values: the batch, other categories and numbers, by their names in the data registry."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.model_source import get_data_registry
from vaekit.batch import Batch
from vaekit.data.cells.columns import match_category
from vaekit.data.cells.query import trained_batch_key
from vaekit.exceptions import DataError, did_you_mean
from vaekit.models import VAE

UNNAMED_BATCH = "batch"  # of a model without a column of batches, extended by map_query
MAX_STD, FURTHEST_STD = 5.0, 1e6  # of a warning, and of an error: float32 overflows in the decoder
MAX_COMBINATIONS = 1000


class CovariateColumns(NamedTuple):
    """Columns of ``Batch.covariates``, by the name of the covariate.

    Attributes
    ----------
    batch : str or None
        Name of the batch among the covariates.
    categories : dict of list of str
        Categories of the batch and of each categorical covariate, in the order of the columns.
    moments : dict of tuple of float
        Mean and standard deviation of each continuous covariate over the training cells; inf if it is constant.
    """

    batch: str | None
    categories: dict[str, list[str]]
    moments: dict[str, tuple[float, float]]

    @classmethod
    def of_model(cls, model: VAE) -> CovariateColumns:
        """Return the columns of a model; a model of images does not have any."""
        registry = get_data_registry(model)
        categories, name = {}, None
        if batches := registry.get("batch_categories"):
            name = trained_batch_key(registry) or UNNAMED_BATCH
            categories[name] = list(batches)
        for key, names in registry.get("categorical_covariate_keys", {}).items():
            categories[key] = list(names)
        moments = {key: (mean, std) for key, (mean, std) in registry.get("continuous_covariate_keys", {}).items()}
        return cls(name, categories, moments)

    @property
    def names(self) -> list[str]:
        """Names of all covariates, in the order of their columns."""
        return [*self.categories, *self.moments]

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(map(len, self.categories.values())) + len(self.moments)

    def columns(self, name: str) -> slice:
        """Return the columns of a covariate."""
        start = 0
        for other in self.names:
            end = start + len(self.categories.get(other, [other]))
            if other == name:
                return slice(start, end)
            start = end
        raise KeyError(name)

    def text(self, name: str, value: Any) -> str:
        """Return a value as text: the category of the model that it means, or the number."""
        if name in self.categories:
            return match_category(value, self.categories[name])
        try:
            return f"{float(value):g}"
        except (TypeError, ValueError):  # encode rejects it
            return str(value)

    def encode(self, name: str, value: Any) -> list[float]:
        """Return a value as the covariate's columns: one-hot, or standardized.

        Raises
        ------
        DataError
            If the model does not know the category, or the value is not a finite number.
        """
        label = f"covariates={{{name!r}: {value!r}}}"
        if name in self.categories:
            names = self.categories[name]
            if (category := match_category(value, names)) not in names:
                raise DataError(
                    f"{label} not found in the categories of the model. {did_you_mean(category.strip(), names)}"
                )
            return [float(category == other) for other in names]
        mean, std = self.moments[name]
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = np.nan
        if not np.isfinite(number):
            raise DataError(f"{label} must be a number: the mean of the training cells is {mean:g}.")
        if np.isinf(std) and number != mean:
            raise DataError(
                f"{label}: all training cells have the value {mean:g}, so the model has not learned an effect of it. "
                f"Omit {name!r}."
            )
        scaled = (number - mean) / std
        if abs(scaled) > FURTHEST_STD:
            raise DataError(
                f"{label} is {abs(scaled):.2g} standard deviations from the mean of the training cells ({mean:g}), too "
                f"far for a meaningful result. Pass a number in the unit of the column, at most {FURTHEST_STD:g} "
                "standard deviations away."
            )
        if abs(scaled) > MAX_STD:
            warnings.warn(
                f"{label} is {abs(scaled):.0f} standard deviations from the mean of the training cells ({mean:g}): "
                "the result is an extrapolation.",
                UserWarning,
                stacklevel=2,
            )
        return [scaled]


class CovariateSettings(NamedTuple):
    """Values of some covariates; with several values of one, every combination.

    Attributes
    ----------
    columns : CovariateColumns
        Columns of the model.
    values : dict of dict
        Columns of each value, by its text, of each covariate that is set, by name.
    """

    columns: CovariateColumns
    values: dict[str, dict[str, list[float]]]

    def combinations(self, covariates: Tensor | None) -> list[Tensor | None]:
        """Return the covariates ``[observations, width]`` with each combination of the values; others are kept."""
        if covariates is None or not self.values:
            return [covariates]
        result: list[Tensor | None] = []
        for combination in itertools.product(*(each.values() for each in self.values.values())):
            changed = covariates.clone()
            for name, encoded in zip(self.values, combination, strict=True):
                changed[:, self.columns.columns(name)] = changed.new_tensor(encoded)
            result.append(changed)
        return result

    def batches(self, batch: Batch) -> list[Batch]:
        """Return a mini-batch with each combination of the values."""
        return [batch._replace(covariates=covariates) for covariates in self.combinations(batch.covariates)]

    @property
    def batch_names(self) -> list[str]:
        """Names of the batches that are set."""
        return list(self.values.get(str(self.columns.batch), ()))

    def describe(self) -> list[str]:
        """Return each value as text, such as ``"donor=A"``."""
        return [f"{name}={value}" for name, values in self.values.items() for value in values]


def set_covariates(
    model: VAE, covariates: Mapping[str, Any] | None = None, transform_batch: Any = None
) -> CovariateSettings:
    """Return the values that covariates are set to, checked by the data registry of the model.

    Parameters
    ----------
    model : VAE
        Trained model.
    covariates : mapping or None
        Value of each covariate to set, by the name of its column in the training data: a category, or a number in the
        unit of the column. Results are averaged over several values.
    transform_batch : str, sequence of str or None
        The same for the batch.

    Raises
    ------
    DataError
        If a covariate or a value is unknown, or the batch is set twice.
    """
    columns = CovariateColumns.of_model(model)
    if covariates is not None and not isinstance(covariates, Mapping):
        example = f"{{{columns.names[0]!r}: ...}}" if columns.names else "None"
        raise DataError(f"covariates={covariates!r} must be a mapping from names to values, such as {example}.")
    values: dict[str, dict[str, list[float]]] = {}
    for name, value in (covariates or {}).items():
        if name not in columns.names:
            if not columns.names:
                raise DataError(f"covariates={{{name!r}: ...}}: the model was trained without covariates. Omit it.")
            raise DataError(
                f"covariates={{{name!r}: ...}} not found in the covariates of the model. "
                f"{did_you_mean(str(name), columns.names)}"
            )
        values[name] = {columns.text(name, each): columns.encode(name, each) for each in _as_list(value)}
        if not values[name]:
            raise DataError(f"covariates={{{name!r}: {value!r}}} must name a value.")
    if transform_batch is not None:
        indices = batch_indices(model, transform_batch)
        name = str(columns.batch)
        if name in values:
            raise DataError(
                f"transform_batch={transform_batch!r} and covariates={{{name!r}: ...}} both set the batch. Pass one "
                "of them."
            )
        batches = [columns.categories[name][index] for index in indices]
        values[name] = {batch: columns.encode(name, batch) for batch in batches}
    if (count := int(np.prod([len(each) for each in values.values()], dtype=float))) > MAX_COMBINATIONS:
        raise DataError(f"covariates: the values have {count} combinations, more than {MAX_COMBINATIONS}. Pass fewer.")
    return CovariateSettings(columns, values)


def _as_list(value: Any) -> list[Any]:
    """Return one value, or an iterable of values, as a list."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        value = value.item()
    return [value] if isinstance(value, str | bytes) or not isinstance(value, Iterable) else list(value)


def batch_indices(model: VAE, transform_batch: str | Sequence[str]) -> list[int]:
    """Return the one-hot columns of named batches; raise an error if the model does not have one of them."""
    categories = list(get_data_registry(model)["batch_categories"])
    if not categories:
        raise DataError(
            f"transform_batch={transform_batch!r} needs a model with batches, and this one was trained without "
            "batch_key. Omit transform_batch, or train with batch_key."
        )
    names = [match_category(name, categories) for name in _as_list(transform_batch)]
    if not names:
        raise DataError(f"transform_batch={transform_batch!r} must name a batch. {did_you_mean('', categories)}")
    for name in names:
        if name not in categories:
            hint = did_you_mean(str(name).strip(), categories)
            raise DataError(f"transform_batch={name!r} not found in the model's batches. {hint}")
    return [categories.index(name) for name in names]


def set_batch(batch: Batch, index: int | Tensor, num_batches: int) -> Batch:
    """Return cells as if they came from the batch ``index``, a number or int64 ``[*sample, batch]``.

    The first ``num_batches`` covariates are the batches of the model.
    """
    assert batch.covariates is not None  # the batches are covariates
    index = torch.as_tensor(index, device=batch.covariates.device)
    one_hot = torch.nn.functional.one_hot(index.expand(*index.shape[:-1], len(batch.x)), num_batches)
    others = batch.covariates[:, num_batches:].expand(*one_hot.shape[:-1], -1)
    return batch._replace(covariates=torch.cat([one_hot.to(others.dtype), others], -1))
