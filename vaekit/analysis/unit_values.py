"""Values of latents from arrays or an AnnData, in the form that the decoder sees."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.model_source import encoder_fingerprint
from vaekit.exceptions import DataError, did_you_mean
from vaekit.latents import Latent
from vaekit.models import VAE

if TYPE_CHECKING:
    from anndata import AnnData

LARGEST = 1e6  # value of a latent
TOLERANCE = 1e-3  # of sums that must be 1


def unit_slices(model: VAE) -> dict[str, slice]:
    """Return the columns of each latent among the units, the values that the decoder sees."""
    slices, start = {}, 0
    for name in model.networks.decoded:
        size = model.latents[name].size
        slices[name] = slice(start, start + size)
        start += size
    return slices


def code_values(latent: Latent, codes: Tensor) -> Tensor:
    """Return codes ``[observations, variables]`` of a discrete latent as its units, ``[observations, size]``."""
    assert latent.state_shape is not None
    if latent.event_dim == 1:  # bits
        return codes.float()
    return latent.flatten(torch.nn.functional.one_hot(codes, latent.state_shape[1]).float())


def read_units(model: VAE, latents: Any, obsm_key: str = "X_vaekit") -> Tensor:
    """Return values of the latents as the decoder sees them, ``[observations, units]``.

    Parameters
    ----------
    model : VAE
        The model.
    latents : mapping, array or AnnData
        As in :func:`vaekit.analysis.decode`.
    obsm_key : str
        Key of the latents in the AnnData.

    Raises
    ------
    DataError
        If a latent is missing, unknown or not seen by the decoder, or its values do not fit.
    """
    from anndata import AnnData

    names = list(unit_slices(model))
    if isinstance(latents, AnnData):
        values = _read_embedding(model, latents, obsm_key)
    elif isinstance(latents, Mapping):
        values = {str(name): value for name, value in latents.items()}
    else:
        values = _split(model, names, _as_array(latents, "latents"), "latents")
    for name in values:
        if name not in names:
            seen = f"The decoder sees {', '.join(map(repr, names))}"
            reason = "is not seen by the decoder" if name in model.latents else "not found in the model"
            raise DataError(f"latents: {name!r} {reason}. {seen}. {did_you_mean(name, names)}")
    if missing := [name for name in names if name not in values]:
        shapes = ", ".join(f"{name!r}: array of shape (n, {model.latents[name].size})" for name in names)
        raise DataError(f"latents: values of {', '.join(map(repr, missing))} not found. Pass {{{shapes}}}.")
    parts = {name: _latent_units(name, model.latents[name], values[name]) for name in names}
    count = max(map(len, parts.values()))
    if wrong := {name: len(part) for name, part in parts.items() if len(part) not in (1, count)}:
        raise DataError(f"latents: the numbers of observations differ, {wrong} and {count}. Pass as many for each.")
    return torch.cat([part.expand(count, -1) for part in parts.values()], -1)


def _latent_units(name: str, latent: Latent, value: Any) -> Tensor:
    """Return the checked values of a latent, ``[observations, size]``."""
    array, label = _as_array(value, f"latents[{name!r}]"), f"latents[{name!r}]"
    num_variables, num_states = latent.state_shape or (0, 0)
    if array.ndim == 1 and (latent.size == 1 or (latent.discrete and num_variables == 1)):
        array = array[:, None]
    takes_codes = latent.discrete and array.ndim == 2 and array.shape[1] == num_variables != latent.size
    if array.ndim != 2 or not (takes_codes or array.shape[1] == latent.size):
        codes = f", or codes of shape (n, {num_variables})" if latent.discrete and num_variables != latent.size else ""
        raise DataError(f"{label} has shape {array.shape}, but must have shape (n, {latent.size}){codes}.")
    if not len(array):
        raise DataError(f"{label} is empty. Pass at least one observation.")
    if not np.isfinite(array).all():
        raise DataError(f"{label} has values that are not finite, such as NaN. Remove these observations.")
    if (largest := np.abs(array).max()) > LARGEST:
        raise DataError(
            f"{label} has the value {largest:g}, with which float32 overflows in the decoder. Pass values of at most "
            f"{LARGEST:g}; those of the training data are near 1."
        )
    if takes_codes:
        if (array != array.round()).any() or array.min() < 0 or array.max() >= num_states:
            raise DataError(f"{label}: codes must be whole numbers from 0 to {num_states - 1}, not {array.max():g}.")
        units = code_values(latent, torch.from_numpy(array).long())
        if not _sums_to_one(latent, units):
            raise DataError(f"{label} has a code that a variable does not have. Its states are {_state_names(latent)}.")
        return units
    units = torch.from_numpy(array).float()
    if latent.discrete and not bool(((units == 0) | (units == 1)).all()):
        raise DataError(
            f"{label} must contain 0 and 1 only: the decoder sees states, not probabilities. Pass the most probable "
            "codes, such as probabilities.argmax(1)."
        )
    if (latent.is_categorical or latent.is_proportions) and not _sums_to_one(latent, units):
        kind = "one category per variable" if latent.is_categorical else "proportions"
        raise DataError(f"{label} must contain {kind}: not negative, with a sum of 1.")
    return units


def _sums_to_one(latent: Latent, units: Tensor) -> bool:
    totals = latent.state_probabilities(units).sum(-1)
    return bool((units >= 0).all() and ((totals - 1).abs() < TOLERANCE).all())


def _state_names(latent: Latent) -> str:
    return ", ".join(latent.unit_name(unit) for unit in range(latent.size))


def _as_array(value: Any, label: str) -> np.ndarray:
    """Return numbers as float64; text with digits, such as the codes of an embedding, counts as numbers."""
    value = value.detach().cpu() if isinstance(value, Tensor) else value
    try:
        array = np.asarray(value)
        return array.astype(str).astype(np.float64) if array.dtype.kind in "OUS" else array.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{label} must contain numbers, but has type {type(value).__name__}.") from None


def _split(model: VAE, names: Sequence[str], array: np.ndarray, label: str) -> dict[str, Any]:
    """Return the columns of each named latent in an array with the units of all of them."""
    sizes = [model.latents[name].size for name in names]
    if array.ndim != 2 or array.shape[1] != sum(sizes):
        parts = " + ".join(f"{size} of {name!r}" for name, size in zip(names, sizes, strict=True))
        raise DataError(f"{label} has shape {array.shape}, but must have shape (n, {sum(sizes)}): {parts}.")
    return dict(zip(names, np.split(array, np.cumsum(sizes)[:-1], 1), strict=True))


def _read_embedding(model: VAE, adata: AnnData, key: str) -> dict[str, Any]:
    """Return the decoded latents from the fields that :func:`vaekit.analysis.embed` writes."""
    prefix, values = key.removeprefix("X_"), {}
    record, own = adata.uns.get(prefix), encoder_fingerprint(model)
    if isinstance(record, Mapping) and record.get("encoder_fingerprint", own) != own:
        warnings.warn(
            f"latents: obsm[{key!r}] was written by another model, whose latents have another meaning. Write it again "
            "with vaekit.analysis.embed(adata, model).",
            stacklevel=4,
        )
    continuous = [name for name, latent in model.latents.items() if latent.is_coordinate]
    if continuous:
        _check_field(adata, key)
        values = _split(model, continuous, _as_array(adata.obsm[key], "latents"), f"latents.obsm[{key!r}]")
    for name in model.networks.decoded:
        latent = model.latents[name]
        if latent.discrete:
            field = f"{prefix}_{name}_probabilities"
            _check_field(adata, field)
            columns = _split(model, [name], _as_array(adata.obsm[field], "latents"), f"latents.obsm[{field!r}]")
            values[name] = code_values(latent, latent.codes(torch.from_numpy(columns[name])))
    return {name: value for name, value in values.items() if name in model.networks.decoded}


def _check_field(adata: AnnData, key: str) -> None:
    if key not in adata.obsm:
        raise DataError(
            f"latents: obsm[{key!r}] not found. Write it with vaekit.analysis.embed(adata, model), or pass the values "
            f"of each latent by name. {did_you_mean(key, adata.obsm)}"
        )
