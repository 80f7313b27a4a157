"""Observations that a model expects at values of its latents and covariates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit._core import memory_budget
from vaekit._core.memory_budget import check_memory
from vaekit.analysis.covariate_values import CovariateSettings, set_covariates
from vaekit.analysis.model_source import get_data_registry, resolve_model
from vaekit.analysis.unit_values import read_units
from vaekit.batch import Batch
from vaekit.data.cells.covariates import CovariateKeys, read_covariates
from vaekit.exceptions import DataError
from vaekit.models import VAE
from vaekit.models.evaluation_mode import evaluation_mode

MAX_LISTED = 10  # categories of a covariate in a message

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import ArrayLike


def decode(
    model: VAE | str | Path,
    latents: AnnData | Mapping[str, ArrayLike] | ArrayLike,
    covariates: Mapping[str, Any] | None = None,
    *,
    library_size: float = 1e4,
    obsm_key: str = "X_vaekit",
    batch_size: int = 1024,
    progress: bool = False,
) -> pd.DataFrame:
    r"""Return the expression, or the pixels, that a model expects at values of its latents and covariates.

    .. math:: \ell\, \rho_g(z, s)

    with the library size :math:`\ell`, the composition :math:`\rho` over genes, the latents z and the covariates s,
    such as the batch. For images it is the mean of each pixel. :func:`vaekit.analysis.normalized_expression` does the
    same for cells with counts, whose latents it samples.

    Parameters
    ----------
    model : VAE or path
        Trained model, or its checkpoint.
    latents : AnnData, mapping from names to arrays, or array
        Values of the latents that the decoder sees. An AnnData contains them as :func:`vaekit.analysis.embed` writes
        them; discrete latents then have their most probable codes. A mapping has an array ``[observations, size]`` per
        latent: coordinates, proportions, one-hot categories or bits, or ``[observations, variables]`` with the codes of
        a discrete latent. A single array has all latents next to each other. An array with one observation holds for
        all.
    covariates : mapping, optional
        Value of each covariate, by the name of its column in the training data: a category, or a number in the unit of
        the column, such as ``{"donor": "A", "percent_mito": 3.0}``. The result is averaged over several values. An
        AnnData provides the values of covariates that are not named.
    library_size : float
        Sum of the expression over the model's genes; not used for images.
    obsm_key : str
        Key in ``.obsm`` of an AnnData, the ``key_added`` of :func:`vaekit.analysis.embed`.
    batch_size : int
        Observations per mini-batch.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    pandas.DataFrame
        Float32 ``[observations, genes]``, or ``[observations, pixels]`` in the order of ``Batch.x``. The index is that
        of the AnnData, or of a pandas object among the latents.

    Raises
    ------
    CheckpointError
        If the model is not trained.
    DataError
        If latents or covariates are missing or unknown, values do not fit, or the result does not fit into memory.

    Examples
    --------
    >>> import vaekit
    >>> table = vaekit.analysis.decode(model, {"z": [[0.0, 0.0], [1.0, 0.0]]}, {"batch": "batch1"})
    >>> table.shape, table.sum(axis=1).round().tolist()  # counts per 10,000
    ((2, 60), [10000.0, 10000.0])
    """
    import pandas as pd
    from tqdm.auto import tqdm

    model = resolve_model(model)[0]
    registry = get_data_registry(model)
    if isinstance(library_size, str | bool) or not 0 < library_size < np.inf:
        raise DataError(f"decode: library_size={library_size!r} must be a positive number.")
    if batch_size < 1:
        raise DataError(f"decode: batch_size={batch_size} must be at least 1.")
    settings = set_covariates(model, covariates)
    units = read_units(model, latents, obsm_key)
    known = _other_covariates(settings, latents, registry)
    num_bytes = 4 * len(units) * model.features
    check_memory(num_bytes, f"decode: {len(units)} observations x {model.features}", "Pass fewer observations.")
    result = np.empty((len(units), model.features), dtype=np.float32)
    step = max(1, min(batch_size, memory_budget.DECODED_VALUES // model.features))
    with evaluation_mode(model), tqdm(total=len(units), desc="decoding", disable=not progress) as bar:
        for part in torch.arange(len(units)).split(step):
            values = None if known is None else known[part if len(known) > 1 else slice(None)].to(model.device)
            means = [_mean(model, units[part].to(model.device), each) for each in settings.combinations(values)]
            result[part.numpy()] = torch.stack(means).mean(0).cpu().numpy()
            bar.update(len(part))
    if model.networks.likelihood.has_composition:
        result *= library_size
    return pd.DataFrame(result, index=_index(latents, len(units)), columns=registry.get("feature_names"))


def _mean(model: VAE, units: Tensor, covariates: Tensor | None) -> Tensor:
    """Return compositions, or means of the likelihood without a size factor, ``[observations, features]``."""
    networks, count = model.networks, len(units)
    covariates = None if covariates is None else covariates.expand(count, -1)
    batch = Batch(units.new_zeros(count, model.features), covariates=covariates)
    h = networks.decode_units(units, covariates)
    if networks.likelihood.has_composition:
        return networks.likelihood.logits(h, batch).softmax(-1)  # type: ignore[operator]
    return networks.likelihood(h, batch).mean


def _other_covariates(settings: CovariateSettings, latents: Any, registry: Mapping[str, Any]) -> Tensor | None:
    """Return the covariates of the AnnData, or of one observation, with 0 for those that are set."""
    from anndata import AnnData

    columns = settings.columns
    if not columns.names:
        return None
    unset = [name for name in columns.names if name not in settings.values]
    if not isinstance(latents, AnnData):
        if unset:
            choices = {name: " or ".join(map(repr, columns.categories.get(name, [])[:MAX_LISTED])) for name in unset}
            known = "; ".join(f"{name!r}: {text or 'a number'}" for name, text in choices.items())
            raise DataError(
                f"decode: covariates={list(settings.values)} must have a value of each covariate of the model, also of "
                f"{known}. Pass these, or an AnnData with these columns in .obs as the latents."
            )
        return torch.zeros(1, columns.width, dtype=torch.float32)
    values = torch.zeros(latents.n_obs, columns.width, dtype=torch.float32)
    kept = {
        "batch_categories": registry["batch_categories"] if columns.batch in unset else [],
        "categorical_covariate_keys": _select(registry["categorical_covariate_keys"], unset),
        "continuous_covariate_keys": _select(registry["continuous_covariate_keys"], unset),
        "default_batch": registry.get("default_batch"),
    }
    batch_key = columns.batch if columns.batch in unset else None
    if batch_key not in latents.obs.columns and (len(kept["batch_categories"]) == 1 or kept["default_batch"]):
        batch_key = None  # the only batch, or that of reference cells
    read = read_covariates(latents.obs, CovariateKeys(batch_key), "latents", registry=kept).values
    if read is not None:
        places = [place for name in unset for place in range(columns.width)[columns.columns(name)]]
        values[:, places] = read
    return values


def _select(values: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in names}


def _index(latents: Any, count: int) -> Any:
    """Return the names of the observations, or None."""
    if hasattr(latents, "obs_names"):
        return latents.obs_names
    parts = latents.values() if isinstance(latents, Mapping) else [latents]
    indices = [part.index for part in parts if hasattr(part, "iloc") and len(part) == count]
    return indices[0] if indices else None
