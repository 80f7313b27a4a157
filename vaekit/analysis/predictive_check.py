"""Posterior predictive check: replicated counts compared with the observed ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.decoding import Chunk, PosteriorSampler, evaluating
from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import (
    get_data_registry,
    prepare_query,
    provenance,
    resolve_model,
    writable_adata,
)
from vaekit.data.dataset import BatchDataset
from vaekit.diagnostics.keyed_noise import draw_by_key
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

STATISTICS = ("mean", "variance", "zero_fraction")  # of each gene
CELL_COLUMNS = ("total_replicated", "zero_fraction", "zero_fraction_replicated")


def posterior_predictive_check(
    adata: AnnData | str | Path | Sequence[str | Path],
    model: VAE | str | Path,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_ppc",
    num_samples: int = 5,
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare counts with replicates of them: mean, variance and fraction of zeros of each gene and cell.

    A replicate samples latents from each cell's posterior, then counts from the likelihood.

    Parameters
    ----------
    adata : AnnData, path or sequence of paths
        Cells with counts. An AnnData changes as below; files do not change.
    model : VAE or path
        Trained model, or its checkpoint.
    layer, batch_key, batch_size, progress
        As in :func:`vaekit.analysis.embed`.
    key_added : str
        Key in ``.uns``, and prefix of the columns of ``.obs``.
    num_samples, seed : int
        Number of replicates, and seed of the samples.

    Returns
    -------
    pandas.DataFrame
        One row for each gene of the model that ``adata`` has. The columns ``mean``, ``variance`` and ``zero_fraction``
        are over the cells. ``<name>_replicated`` is the mean over replicates, ``<name>_replicated_std`` their standard
        deviation.

    Sets the following fields of an AnnData:

    ``adata.uns[key_added]``
        Provenance, ``ratio_<name>`` and ``zero_fraction_error``: the median over genes of the replicated over the
        observed statistic (if both are positive), and the mean absolute difference of the zero fractions.
    ``adata.obs["<key_added>_total_replicated"]``, ``adata.obs["<key_added>_zero_fraction"]``,
    ``adata.obs["<key_added>_zero_fraction_replicated"]``
        Statistics of each cell over the genes of the table.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If the cells do not fit the model, or ``key_added`` is taken.

    Examples
    --------
    >>> import vaekit
    >>> table = vaekit.analysis.posterior_predictive_check(adata, model)
    >>> table.shape  # a row per gene
    (60, 9)
    """
    writable = writable_adata(adata)
    model, checkpoint = resolve_model(model)
    if writable is not None:
        check_free(writable, key_added, {"obs": [f"{key_added}_{name}" for name in CELL_COLUMNS]}, key_added)
    sampler = PosteriorSampler(model, num_samples, batch_size, seed)
    query = prepare_query(model, adata, layer, batch_key)
    index = torch.arange(len(query.dataset))
    table, cells = replicate_cells(sampler, query.dataset, index, query.obs_names, query.missing_genes, progress)
    summary = summarize_genes(table)
    if writable is not None:
        for name, column in zip(CELL_COLUMNS, cells, strict=True):
            writable.obs[f"{key_added}_{name}"] = column
        origin = provenance(model, query.missing_genes, checkpoint)
        writable.uns[key_added] = {**summary, "num_samples": num_samples, **origin}
    return table


def replicate_cells(
    sampler: PosteriorSampler,
    dataset: BatchDataset,
    index: Tensor,
    names: Sequence[str],
    missing_genes: Sequence[str] = (),
    progress: bool = False,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Replicate the counts of cells in the form of the model's training data.

    Parameters
    ----------
    sampler : PosteriorSampler
        Sampler of the latents, with the model and the seed.
    dataset : BatchDataset
        Cells.
    index : Tensor, shape (cells,)
        Indices of the cells to replicate.
    names : sequence of str
        Names of all cells of the data set.
    missing_genes : sequence of str
        Genes that are not observed.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    table : pandas.DataFrame
        Table of :func:`posterior_predictive_check`.
    cells : array, shape (3, cells)
        Statistics of each cell in the order of ``CELL_COLUMNS``.
    """
    import pandas as pd

    model, num_samples, num_cells = sampler.model, sampler.num_samples, len(index)
    genes = np.array(get_data_registry(model)["feature_names"])
    measured = torch.from_numpy(~np.isin(genes, missing_genes))
    num_genes = int(measured.sum())
    observed, replicated = torch.zeros(3, 1, num_genes).double(), torch.zeros(3, num_samples, num_genes).double()
    parts = []
    with evaluating(model, sampler.seed):
        for chunk in sampler.chunks(dataset, index, names, "replicating", progress):
            x, replicates = chunk.batch.x.cpu()[:, measured], _replicate(sampler, chunk).cpu()[..., measured]
            observed += _sums(x[None])
            replicated += _sums(replicates)
            zeros = (x == 0).double().mean(-1), (replicates == 0).double().mean((0, -1))
            parts.append(np.stack([replicates.sum(-1).mean(0), *zeros]))
    table = pd.DataFrame(index=pd.Index(genes[measured.numpy()], name="gene"))
    data, copies = _moments(observed, num_cells), _moments(replicated, num_cells)
    for name, (value,) in data.items():
        table[name], table[f"{name}_replicated"] = value, copies[name].mean(0)
        table[f"{name}_replicated_std"] = copies[name].std(0, ddof=1) if num_samples > 1 else np.nan
    return table, np.concatenate(parts, axis=1)


def summarize_genes(table: pd.DataFrame) -> dict[str, float]:
    """Return ``ratio_<name>`` of each statistic and ``zero_fraction_error`` of a table of replicated genes."""
    summary = {}
    for name in STATISTICS:
        value, mean = table[name].to_numpy(), table[f"{name}_replicated"].to_numpy()
        positive = (value > 0) & (mean > 0)
        summary[f"ratio_{name}"] = float(np.median(mean[positive] / value[positive])) if positive.any() else np.nan
    summary["zero_fraction_error"] = float((table["zero_fraction"] - table["zero_fraction_replicated"]).abs().mean())
    return summary


def _replicate(sampler: PosteriorSampler, chunk: Chunk) -> Tensor:
    """Sample counts from the posterior predictive distribution, ``[num_samples, batch, genes]``."""
    networks, num_samples = sampler.model.networks, sampler.num_samples
    h = networks.encode(chunk.batch)
    return draw_by_key(
        lambda part: networks.observation(
            networks.sample_posterior(h[part], num_samples), chunk.batch.rows(part)
        ).sample(),
        chunk.keys,
        num_samples,
    )


def _sums(x: Tensor) -> Tensor:
    """Return sums over cells of the counts, of their squares, and of zeros, ``[3, replicates, genes]``."""
    x = x.double()
    return torch.stack([x.sum(1), x.square().sum(1), (x == 0).double().sum(1)])


def _moments(sums: Tensor, num_cells: int) -> dict[str, np.ndarray]:
    """Return mean, unbiased variance (0 for a single cell) and zero fraction, each ``[replicates, genes]``."""
    mean, second, zero_fraction = (sums / num_cells).numpy()
    variance = np.maximum(second - mean**2, 0) * num_cells / max(1, num_cells - 1)
    return {"mean": mean, "variance": variance, "zero_fraction": zero_fraction}
