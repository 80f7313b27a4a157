"""Latents of cells, written into an AnnData."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import DataLoader

from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import check_in_memory, provenance, resolve_model
from vaekit.analysis.query import prepare_query
from vaekit.data.cells.align import QueryData
from vaekit.data.dataset import identity_collate
from vaekit.diagnostics import most_probable_codes, posterior_summaries
from vaekit.diagnostics.usage import coordinates
from vaekit.models import VAE

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
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
    """Embed cells with a trained model, matching genes by name.

    Parameters
    ----------
    adata
        Cells; changed in place as below, its counts never.
    model
        A trained model, or the path of its checkpoint.
    layer
        Layer that holds the counts; None for that of the training data.
    batch_key
        Column of ``.obs`` with the batch; None for that of the training data.
    key_added
        Key in ``.obsm``; the names of codes begin with it too, without a leading ``X_``.
    batch_size
        Cells at a time.
    progress
        Whether to show a progress bar.

    Returns
    -------
    list of str
        Genes of the model that ``adata`` lacks (they were taken as unobserved).

    Sets the following fields, for a ``key_added`` of ``X_vaekit``:

    ``adata.obsm["X_vaekit"]``
        Posterior means of the continuous latents side by side, ``[cells, units]``, but for a library size; for a
        model without any, the probabilities of its codes.
    ``adata.obs["vaekit_<name>"]``
        For each discrete latent, the most probable code, a categorical in the order of their numbers; those of several
        variables are joined by "-".
    ``adata.obsm["vaekit_<name>_probabilities"]``
        Its posterior probabilities.
    ``adata.uns["vaekit"]``
        Where these come from: version, model, checkpoint, training data, missing genes.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If the counts, genes or batches do not fit the model (see ``vaekit.data.query_dataset``).
    """
    check_in_memory(adata, "embed")
    model, checkpoint = resolve_model(model)
    check_latent_fields(adata, model, key_added)
    query = prepare_query(model, adata, layer, batch_key)
    fields = latent_fields(query, model, key_added, batch_size, progress, checkpoint)
    for key, codes in fields.obs.items():
        adata.obs[key] = codes
    adata.obsm.update(fields.obsm)
    adata.uns.update(fields.uns)
    return query.missing_genes


def check_latent_fields(places: Any, model: VAE, key_added: str) -> None:
    """Check that the fields of :func:`embed` are free in an AnnData, or in the open file of one.

    Raises
    ------
    DataError
        If ``key_added`` is not a name, or one of them holds what vaekit did not write.
    """
    prefix = str(key_added).removeprefix("X_")
    discrete = [name for name, latent in model.latents.items() if latent.discrete]
    names = {
        "obs": [f"{prefix}_{name}" for name in discrete],
        "obsm": [key_added, *(f"{prefix}_{name}_probabilities" for name in discrete)],
    }
    check_free(places, key_added, names, prefix)


class LatentFields(NamedTuple):
    """Latents of cells, as the fields of an AnnData: see :func:`embed`."""

    obs: dict[str, pd.Categorical]
    obsm: dict[str, np.ndarray]
    uns: dict[str, dict[str, Any]]


def latent_fields(
    query: QueryData,
    model: VAE,
    key_added: str = "X_vaekit",
    batch_size: int = 1024,
    progress: bool = False,
    checkpoint: str = "",
) -> LatentFields:
    """Return what :func:`embed` writes of the cells of ``query``, whether they are in memory or in a file."""
    from tqdm.auto import tqdm

    batches = DataLoader(query.dataset, batch_size=batch_size, collate_fn=identity_collate)
    summaries = posterior_summaries(model, tqdm(batches, desc="embedding", unit="batch", disable=not progress))
    prefix = key_added.removeprefix("X_")
    fields = LatentFields({}, {key_added: coordinates(model, summaries).numpy()}, {})
    for name, latent in model.latents.items():
        if latent.discrete:
            fields.obs[f"{prefix}_{name}"] = most_probable_codes(latent, summaries[name])
            fields.obsm[f"{prefix}_{name}_probabilities"] = summaries[name].numpy()
    fields.uns[prefix] = provenance(model, query.missing_genes, checkpoint)
    return fields
