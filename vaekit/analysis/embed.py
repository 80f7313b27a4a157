"""Latents of cells, written into an AnnData."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import check_in_memory, check_query, prepare_query, provenance, resolve_model
from vaekit.batch import Batch
from vaekit.data.cells.query import QueryData
from vaekit.data.dataset import sequential_loader
from vaekit.diagnostics import most_probable_codes, posterior_summaries
from vaekit.diagnostics.usage import coordinates, variable_codes
from vaekit.models import VAE

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData


def embed(
    adata: AnnData,
    model: VAE | str | Path,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "X_vaekit",
    batch_size: int = 1024,
    progress: bool = False,
) -> list[str]:
    """Embed cells with a trained model; genes are matched by name.

    Parameters
    ----------
    adata : AnnData
        Cells; changed in place as below, but not in their counts.
    model : VAE or path
        Trained model, or its checkpoint.
    layer : str, optional
        Layer with the counts (``"raw"`` for ``.raw``). None means the layer of the training data.
    batch_key : str, optional
        Column of ``.obs`` with the batch, or the name of the batch of all cells. None means the column of the training
        data. Without this column, cells count as reference cells of a model that
        :func:`vaekit.analysis.map_query` has extended by its first batches.
    key_added : str
        Key in ``.obsm``. Without a leading ``X_``, it is also the prefix of the names of codes.
    batch_size : int
        Cells per mini-batch; fewer if their decoded samples would take too much memory.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    list of str
        Genes of the model that ``adata`` lacks; they count as unobserved.

    Sets the following fields, for the ``key_added`` ``X_vaekit``:

    ``adata.obsm["X_vaekit"]``
        Posterior means of the continuous latents, ``[cells, dimensions]``, without a library size. For a model without
        continuous latents, the probabilities of its codes.
    ``adata.obs["vaekit_<name>"]``
        Most probable code of each discrete latent, a categorical in numerical order; the categories of several
        variables are joined by "-". Variables with names also have their own columns, ``"vaekit_<name>_<variable>"``.
    ``adata.obsm["vaekit_<name>_probabilities"]``
        Posterior probabilities of each discrete latent.
    ``adata.uns["vaekit"]``
        Provenance: version, model, checkpoint, training data and missing genes.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If the counts, genes or batches do not fit the model, or a field is taken.

    Examples
    --------
    >>> import vaekit
    >>> vaekit.analysis.embed(adata, model)  # no gene is missing
    []
    >>> adata.obsm["X_vaekit"].shape, adata.obs["vaekit_y"].nunique()
    ((300, 2), 3)
    """
    check_in_memory(adata, "embed")
    model, checkpoint = resolve_model(model)
    check_latent_fields(adata, model, key_added)
    query = prepare_query(model, adata, layer, batch_key)
    for place, values in latent_fields(query, model, key_added, batch_size, progress, checkpoint).items():
        for key, value in values.items():
            getattr(adata, place)[key] = value
    return query.missing_genes


def check_latent_fields(places: Any, model: VAE, key_added: str) -> None:
    """Check that the fields of :func:`embed` are free in an AnnData, or in the open file of one.

    Examples
    --------
    >>> import vaekit
    >>> vaekit.analysis.check_latent_fields(adata, model, "X_vaekit")  # free: nothing happens
    """
    prefix = str(key_added).removeprefix("X_")
    discrete = [name for name, latent in model.latents.items() if latent.discrete]
    names = {
        "obs": [f"{prefix}_{name}" for name in discrete]
        + [f"{prefix}_{name}_{variable}" for name in discrete for variable in model.latents[name].variable_names],
        "obsm": [key_added, *(f"{prefix}_{name}_probabilities" for name in discrete)],
    }
    check_free(places, key_added, names, prefix)


def latent_fields(
    query: QueryData,
    model: VAE,
    key_added: str = "X_vaekit",
    batch_size: int = 1024,
    progress: bool = False,
    checkpoint: str = "",
) -> dict[str, dict[str, Any]]:
    """Return the fields that :func:`embed` writes, by attribute and key, for cells in memory or in a file.

    Examples
    --------
    >>> import vaekit
    >>> fields = vaekit.analysis.latent_fields(vaekit.analysis.prepare_query(model, adata), model)
    >>> {place: list(values) for place, values in fields.items()}
    {'obs': ['vaekit_y'], 'obsm': ['X_vaekit', 'vaekit_y_probabilities'], 'uns': ['vaekit']}
    """
    check_query(query)
    summaries = summarize_cells(model, query, batch_size, progress)
    return summary_fields(summaries, query, model, key_added, checkpoint)


def summary_fields(
    summaries: dict[str, Tensor], query: QueryData, model: VAE, key_added: str = "X_vaekit", checkpoint: str = ""
) -> dict[str, dict[str, Any]]:
    """Return the fields of :func:`latent_fields` from the result of :func:`summarize_cells`."""
    prefix = key_added.removeprefix("X_")
    obs, obsm = {}, {key_added: coordinates(model, summaries).numpy()}
    for name, latent in model.latents.items():
        if latent.discrete:
            obs[f"{prefix}_{name}"] = most_probable_codes(latent, summaries[name])
            for variable, codes in variable_codes(latent, summaries[name]).items():
                obs[f"{prefix}_{name}_{variable}"] = codes
            obsm[f"{prefix}_{name}_probabilities"] = summaries[name].numpy()
    return {"obs": obs, "obsm": obsm, "uns": {prefix: provenance(model, query.missing_genes, checkpoint)}}


def summarize_cells(
    model: VAE, query: QueryData, batch_size: int = 1024, progress: bool = False, devices: int | None = None
) -> dict[str, Tensor]:
    """Return the posterior means of each latent, or the probabilities of its states, ``[cells, size]``.

    With ``devices``, only the first process returns them
    (:func:`vaekit.analysis.device_prediction.predict_on_devices`).
    """
    from tqdm.auto import tqdm

    if devices is not None:
        return _summarize_on_devices(model, query, batch_size, devices)
    loader = sequential_loader(query.dataset, batch_size)
    bar = tqdm(loader, desc=f"embedding {query.source}", unit="batch", disable=not progress)
    return posterior_summaries(model, bar)


def _summarize_on_devices(model: VAE, query: QueryData, batch_size: int, devices: int) -> dict[str, Tensor]:
    from vaekit.analysis.device_prediction import predict_on_devices

    parts: dict[str, list[Tensor]] = {name: [] for name in model.latents}

    def summarize(batch: Batch, start: int) -> dict[str, Tensor]:
        return {name: part.cpu() for name, part in posterior_summaries(model, [batch]).items()}

    def add(start: int, summaries: dict[str, Tensor]) -> None:
        for name, part in summaries.items():
            parts[name].append(part)

    predict_on_devices(model, query.dataset, summarize, add, devices, batch_size, f"embedding {query.source}")
    return {name: torch.cat(part) for name, part in parts.items() if part}


def cell_coordinates(model: VAE, query: QueryData, batch_size: int = 1024, progress: bool = False) -> np.ndarray:
    """Return the coordinates of cells in latent space, ``[cells, dimensions]``."""
    return coordinates(model, summarize_cells(model, query, batch_size, progress)).numpy()
