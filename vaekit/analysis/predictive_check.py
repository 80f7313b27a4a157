"""Counts drawn from a model beside those that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.decoding import chunks, evaluating
from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import check_in_memory, get_data_registry, provenance, resolve_model
from vaekit.analysis.query import prepare_query
from vaekit.batch import Batch
from vaekit.diagnostics.keyed_noise import draw_by_key, hash_names, observation_keys
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

CELL_COLUMNS = ("total_replicated", "zero_fraction", "zero_fraction_replicated")


def posterior_predictive_check(
    adata: AnnData,
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
    """Compare the counts with replicates of them: mean, variance and share of zeros of each gene and each cell.

    A replicate draws latents from each cell's posterior and counts from the likelihood.

    Parameters
    ----------
    adata
        Cells with counts; changed as below.
    model
        A trained model, or the path of its checkpoint.
    layer, batch_key
        As in :func:`vaekit.analysis.embed`.
    key_added
        Key in ``.uns``, and beginning of the columns of ``.obs``.
    num_samples
        Replicates.
    batch_size
        Cells at a time; fewer where the replicates of all genes would take too much memory.
    progress
        Whether to show a progress bar.
    seed
        Of the draws.

    Returns
    -------
    pandas.DataFrame
        A row for each gene of the model that ``adata`` has, with ``mean``, ``variance`` and ``zero_fraction`` over the
        cells, of the counts and (``<name>_replicated``) averaged over replicates, and the standard deviation of the
        latter between replicates (``<name>_replicated_std``).

    Sets the following fields:

    ``adata.uns[key_added]``
        The median over genes of the replicated over the observed value of each statistic (``ratio_<name>``; of
        genes where neither is 0), the mean over genes of the absolute difference of the zero fractions
        (``zero_fraction_error``), and where they come from.
    ``adata.obs["<key_added>_total_replicated"]``, ``adata.obs["<key_added>_zero_fraction"]``,
    ``adata.obs["<key_added>_zero_fraction_replicated"]``
        Of each cell, over the genes of the table.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If the cells do not fit the model, or ``key_added`` is taken.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    check_in_memory(adata)
    model, checkpoint = resolve_model(model)
    check_free(adata, key_added, {"obs": [f"{key_added}_{name}" for name in CELL_COLUMNS]}, key_added)
    query = prepare_query(model, adata, layer, batch_key)
    genes = np.array(get_data_registry(model)["feature_names"])
    measured = torch.from_numpy(~np.isin(genes, query.missing_genes))
    size = int(measured.sum())
    observed, replicated = torch.zeros(3, 1, size).double(), torch.zeros(3, num_samples, size).double()
    cells, names = np.zeros((3, adata.n_obs)), hash_names(query.obs_names)
    with (
        evaluating(model, seed),
        tqdm(total=adata.n_obs, desc="replicating", unit="cell", disable=not progress) as bar,
    ):
        for rows, batch in chunks(model, query.dataset, torch.arange(adata.n_obs), num_samples, batch_size):
            keys = observation_keys(batch, seed, names[rows.numpy()])
            drawn = _replicate(model, batch, num_samples, keys).cpu()[..., measured]
            x = batch.x.cpu()[:, measured]
            observed += _sums(x[None])
            replicated += _sums(drawn)
            cells[:, rows.numpy()] = np.stack(
                [drawn.sum(-1).mean(0), (x == 0).double().mean(-1), (drawn == 0).double().mean((0, -1))]
            )
            bar.update(len(rows))
    columns: dict[str, np.ndarray] = {}
    summary: dict[str, float] = {}
    both = zip(_moments(observed, adata.n_obs).items(), _moments(replicated, adata.n_obs).values(), strict=True)
    for (name, value), draw in both:
        seen, mean = value[0], draw.mean(0)
        columns[name], columns[f"{name}_replicated"] = seen, mean
        columns[f"{name}_replicated_std"] = draw.std(0, ddof=1) if num_samples > 1 else np.full(size, np.nan)
        positive = (seen > 0) & (mean > 0)
        summary[f"ratio_{name}"] = float(np.median(mean[positive] / seen[positive])) if positive.any() else np.nan
    summary["zero_fraction_error"] = float(
        np.abs(columns["zero_fraction"] - columns["zero_fraction_replicated"]).mean()
    )
    for name, column in zip(CELL_COLUMNS, cells, strict=True):
        adata.obs[f"{key_added}_{name}"] = column
    adata.uns[key_added] = {**summary, "num_samples": num_samples, **provenance(model, query.missing_genes, checkpoint)}
    return pd.DataFrame(columns, index=pd.Index(genes[measured.numpy()], name="gene"))


def _replicate(model: VAE, batch: Batch, num_samples: int, keys: np.ndarray) -> Tensor:
    """Draw counts from the posterior predictive distribution of cells, ``[num_samples, batch, genes]``."""
    h = model.networks.encode(batch)

    def draw(part: slice) -> Tensor:
        return model.networks.observation(
            model.networks.sample_posterior(h[part], num_samples), batch.rows(part)
        ).sample()

    return draw_by_key(draw, keys, num_samples)


def _sums(x: Tensor) -> Tensor:
    """Return the sums over cells of counts, their squares and zeros, ``[3, replicates, genes]``."""
    x = x.double()
    return torch.stack([x.sum(1), x.square().sum(1), (x == 0).double().sum(1)])


def _moments(sums: Tensor, cells: int) -> dict[str, np.ndarray]:
    """Return mean, variance (unbiased; 0 of a single cell) and zero fraction, each ``[replicates, genes]``."""
    first, second, zeros = (sums / cells).numpy()
    variance = np.maximum(second - first**2, 0) * cells / max(1, cells - 1)
    return {"mean": first, "variance": variance, "zero_fraction": zeros}
