"""Expression of genes as the model sees it: denoised, and free of library size and batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.decoding import batch_numbers, chunks, composition, draws, evaluating, in_batch
from vaekit.analysis.query import query_for
from vaekit.analysis.source import opened, provenance, reference_of
from vaekit.batch import Batch
from vaekit.exceptions import DataError, nearest
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MEMORY_SHARE = 0.5  # of the machine's memory, that a layer may take


def normalized_expression(
    adata: AnnData,
    model: VAE | str | Path,
    *,
    library_size: float | Literal["observed"] = 1e4,
    transform_batch: str | Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_normalized",
    num_samples: int = 1,
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> pd.DataFrame | None:
    r"""Write the expected expression of each gene in each cell into a layer, or return that of some genes.

    .. math:: \ell\, E_{q(z | x)}[\rho_g(z, s)]

    with the composition rho over genes, the library size l and the batch s.

    Parameters
    ----------
    adata
        Cells with counts; changed in ``.layers`` and ``.uns`` alone.
    model
        A trained model, or the path of its checkpoint.
    library_size
        What each cell's expression sums to over the model's genes; ``"observed"``: its size factor.
    transform_batch
        Batch that all cells are taken to come from; of several, the mean over them; None: each cell's own.
    genes
        Genes to return instead of writing a layer.
    layer, batch_key
        As in :func:`vaekit.analysis.embed`.
    key_added
        Key in ``.layers`` and ``.uns``.
    num_samples
        Draws of the latents a cell.
    batch_size
        Cells at a time; fewer where the draws of all genes would take too much memory.
    progress
        Whether to show a progress bar.
    seed
        Of the draws.

    Returns
    -------
    pandas.DataFrame or None
        Float32, a row for each cell and a column for each of ``genes``; None without ``genes``.

    Without ``genes``, sets the following fields:

    ``adata.layers[key_added]``
        Float32 ``[cells, genes]``; NaN for genes that the model does not know.
    ``adata.uns[key_added]``
        Where it comes from.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, or its likelihood has no composition.
    DataError
        If the cells do not fit the model, the layer would not fit into memory, or a gene or batch is unknown.
    """
    if library_size != "observed" and (isinstance(library_size, str) or not 0 < library_size < np.inf):
        raise DataError(f"library_size is {library_size!r}; a positive number is needed, or 'observed'")
    model, checkpoint = opened(model)
    names = list(reference_of(model).get("feature_names", []))
    wanted = names if genes is None else [str(gene) for gene in ([genes] if isinstance(genes, str) else genes)]
    if unknown := [gene for gene in wanted if gene not in set(names)]:
        raise DataError(
            f"genes: the model does not know {', '.join(map(repr, unknown[:5]))}; {nearest(unknown[0], names)}"
        )
    _check_memory(adata.n_obs, adata.n_vars if genes is None else len(wanted))
    query = query_for(model, adata, layer, batch_key)
    numbers = [] if transform_batch is None else batch_numbers(model, transform_batch)  # type: ignore[arg-type]
    batches = len(reference_of(model)["batch_categories"])
    place = {gene: number for number, gene in enumerate(names)}
    columns = torch.tensor([place[gene] for gene in wanted], device=model.device)
    target = np.arange(len(wanted)) if genes is not None else _columns(adata, reference_of(model)["gene_names"], names)
    known = target >= 0
    shape = (adata.n_obs, adata.n_vars if genes is None else len(wanted))
    result = np.full(shape, np.nan, dtype=np.float32)

    import pandas as pd
    from tqdm.auto import tqdm

    with (
        evaluating(model, seed),
        tqdm(total=adata.n_obs, desc="normalizing", unit="cell", disable=not progress) as bar,
    ):
        for rows, batch in chunks(model, query.dataset, torch.arange(adata.n_obs), num_samples, batch_size):
            rho = _composition(model, batch, numbers, batches, num_samples)[:, columns]
            size = batch.size_factor if library_size == "observed" else library_size
            assert size is not None  # a count likelihood has size factors
            result[rows[:, None].numpy(), target[known]] = (rho * size).cpu().numpy()[:, known]
            bar.update(len(rows))
    if genes is not None:
        return pd.DataFrame(result, index=adata.obs_names, columns=wanted)
    adata.layers[key_added] = result
    adata.uns[key_added] = {
        **provenance(model, query.missing_genes, checkpoint),
        "library_size": str(library_size),
        "transform_batch": np.array([reference_of(model)["batch_categories"][number] for number in numbers], dtype=str),
    }
    return None


def _composition(model: VAE, batch: Batch, numbers: list[int], batches: int, num_samples: int) -> Tensor:
    """Return the posterior mean of the composition, averaged over batches if some are named, ``[batch, genes]``."""
    values = draws(model, batch, num_samples)
    places = [in_batch(batch, number, batches) for number in numbers] or [batch]
    return torch.stack([composition(model, values, place).mean(0) for place in places]).mean(0)


def _columns(adata: AnnData, column: str | None, names: list[str]) -> np.ndarray:
    """Return the column of ``adata`` of each of the model's genes, -1 for those that it lacks."""
    found = adata.var[column] if column in adata.var.columns else adata.var_names
    place = {str(gene): number for number, gene in enumerate(found)}
    return np.array([place.get(gene, -1) for gene in names])


def _check_memory(cells: int, genes: int) -> None:
    """Raise an error if a table would take more than half of the machine's memory."""
    needed, total = 4 * cells * genes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > MEMORY_SHARE * total:
        raise DataError(
            f"{cells} cells x {genes} genes take {needed / 1e9:.1f} GB and this machine has {total / 1e9:.1f} GB: name "
            "fewer genes (genes=[...]), or pass fewer cells"
        )
