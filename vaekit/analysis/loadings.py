"""Genes of each unit of a decoder that one can read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.analysis.covariate_values import CovariateColumns
from vaekit.analysis.decoding import evaluating
from vaekit.analysis.embed import summarize_cells
from vaekit.analysis.fields import check_free
from vaekit.analysis.markers import PSEUDO_FRACTION
from vaekit.analysis.model_source import (
    get_count_registry,
    prepare_query,
    provenance,
    resolve_model,
    writable_adata,
)
from vaekit.analysis.unit_effects import UnitEffect, unit_effects
from vaekit.data.cells.query import QueryData
from vaekit.diagnostics import sample_prior
from vaekit.exceptions import CheckpointError, DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

NUM_PRIOR_SAMPLES = 10_000


def loadings(
    model: VAE | str | Path,
    adata: AnnData | str | Path | Sequence[str | Path] | None = None,
    *,
    n_genes: int | None = None,
    pseudo_fraction: float = PSEUDO_FRACTION,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_loadings",
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    r"""List the genes of each unit of a model with a linear or additive decoder.

    A unit is a dimension, a category, a bit or a topic. Its effect on gene g is the change of the log expression from a
    reference to the unit's value u, while all other units stay at the reference r:

    .. math:: \Delta_g(u) = \log_2 (\rho_g(u, r) + \epsilon) - \log_2 (\rho_g(r) + \epsilon)

    with the composition :math:`\rho`. The pseudo-fraction :math:`\epsilon` prevents large ratios of genes with low
    expression everywhere. The reference has the median of each dimension, the most frequent categories, the mean
    proportions of topics, and the mean of the covariates. In these decoders, no other unit and no covariate changes the
    effect, apart from the sum of the composition to 1.

    - The *log2 fold change* of a dimension has two directions, ``"+"`` to its quantile .999 over the cells and ``"-"``
      to its quantile .001. That of a category, bit or topic compares it with the other ones of its variable, weighted
      by their usage, as :func:`vaekit.analysis.markers` does.
    - The *loading* of a gene is the standard deviation over the cells of :math:`\Delta_g`. It has the sign of the
      correlation with the unit. With a linear decoder it is close to the weight of the gene, centered and multiplied by
      the standard deviation of the unit.
    - The *strength* of a unit is the root mean square of its loadings, weighted by the composition: the typical change
      per molecule, which can be compared between units, latents and decoders. It is nearly 0 for an inactive unit.

    Parameters
    ----------
    model : VAE or path
        Trained model with the decoder :class:`vaekit.networks.Linear` or :class:`vaekit.networks.Additive`, or its
        checkpoint.
    adata : AnnData, path, sequence of paths or None
        Cells with counts, which determine the range of the units. An AnnData changes in ``.uns`` only; files do not
        change. None means the range of the prior: units that the cells do not use are not recognized then.
    n_genes : int, optional
        Number of genes per unit and direction: those that rise most. None means all genes.
    pseudo_fraction : float
        Fraction added to the compositions, at least 0 and below 1. The default is one count in 10,000.
    layer, batch_key, batch_size, progress
        As in :func:`vaekit.analysis.embed`.
    key_added : str
        Key in ``.uns``.
    seed : int
        Seed of the samples of the prior; not used for cells.

    Returns
    -------
    pandas.DataFrame
        A row per unit, direction and gene, in descending order of the strength of the units, then of the fold change.
        The columns are ``latent``, ``unit``, ``direction``, ``strength``, ``gene``, ``log2_fold_change`` and
        ``loading``. States with a usage below 0.01 do not have rows.

    Sets the following field of an AnnData:

    ``adata.uns[key_added]``
        The table as ``"table"``, and its provenance.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, its decoder is not additive, or its likelihood does not have a
        composition.
    DataError
        If the cells do not fit the model, a number is invalid, or ``key_added`` is taken.

    Notes
    -----
    Svensson, Gayoso, Yosef and Pachter (2020), Interpretable factor models of single-cell RNA-seq via variational
    autoencoders; Moinfar and Theis (2024), Unsupervised deep disentangled representation of single-cell omics.

    Examples
    --------
    >>> import vaekit
    >>> latents, decoder = {"z": vaekit.latents.Gaussian(2)}, vaekit.networks.Linear()
    >>> linear = vaekit.VAE(60, vaekit.networks.MLP([16]), latents, decoder, vaekit.likelihoods.NegativeBinomial(), 2)
    >>> data = vaekit.data.GeneExpressionData(adata, batch_key="batch")
    >>> import pytorch_lightning as pl
    >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    >>> pl.Trainer(max_epochs=2, **quiet).fit(linear, datamodule=data)
    >>> table = vaekit.analysis.loadings(linear, adata, n_genes=5)
    >>> len(table), table.columns[:4].tolist()  # 2 units, 2 directions, 5 genes
    (20, ['latent', 'unit', 'direction', 'strength'])
    """
    model, checkpoint = resolve_model(model)
    writable = writable_adata(adata) if adata is not None else None
    check_readable(model)
    _check(n_genes, pseudo_fraction, batch_size)
    missing_genes: list[str] = []
    if writable is not None:
        check_free(writable, key_added, {}, key_added)
    if adata is None:
        summaries, covariates = prior_summaries(model, seed)
    else:
        query = prepare_query(model, adata, layer, batch_key)
        missing_genes = query.missing_genes
        summaries, covariates = summarize_cells(model, query, batch_size, progress), mean_covariates(query)
    table = loadings_table(model, summaries, covariates, n_genes, pseudo_fraction)
    if writable is not None:
        writable.uns[key_added] = {
            "table": table.copy(),
            "pseudo_fraction": pseudo_fraction,
            **provenance(model, missing_genes, checkpoint),
        }
    return table


def check_readable(model: VAE) -> None:
    """Raise a CheckpointError if a model does not have an additive decoder of compositions."""
    get_count_registry(model)
    decoder = model.networks.decoder
    if not decoder.is_additive:
        raise CheckpointError(
            f"The decoder {type(decoder).__name__} mixes the units, so that the genes of a unit depend on the others. "
            "Train with the decoder Linear or Additive (vaekit fit --config pbmc_additive), or compare groups of cells "
            "by vaekit.analysis.differential_expression, and codes by vaekit.analysis.markers."
        )


def loadings_table(
    model: VAE,
    summaries: dict[str, Tensor],
    covariates: Tensor | None,
    n_genes: int | None = None,
    pseudo_fraction: float = PSEUDO_FRACTION,
) -> pd.DataFrame:
    """Return the table of :func:`loadings` from summaries of the latents.

    Parameters
    ----------
    model : VAE
        Trained model with an additive decoder.
    summaries, covariates
        As in :func:`vaekit.analysis.unit_effects.unit_effects`.
    n_genes, pseudo_fraction
        As in :func:`loadings`.

    Raises
    ------
    DataError
        If no unit is in use.
    """
    import pandas as pd

    with evaluating(model):
        effects = sorted(unit_effects(model, summaries, covariates, pseudo_fraction), key=lambda part: -part.strength)
    if not effects:
        raise DataError("loadings: each variable has a single state in use, so there is nothing to compare.")
    genes = get_count_registry(model)["feature_names"]
    tables = [_rows(effect, direction, genes, n_genes) for effect in effects for direction in effect.changes]
    return pd.concat(tables, ignore_index=True)


def _rows(effect: UnitEffect, direction: str, genes: Sequence[str], n_genes: int | None) -> pd.DataFrame:
    """Return the rows of one direction of a unit."""
    import numpy as np
    import pandas as pd

    change = effect.changes[direction]
    order = np.argsort(-change, kind="stable")[:n_genes]
    names = {"latent": effect.latent, "unit": effect.unit, "direction": direction, "strength": effect.strength}
    columns = {"gene": np.array(genes)[order], "log2_fold_change": change[order], "loading": effect.loadings[order]}
    return pd.DataFrame({**names, **columns})


def mean_covariates(query: QueryData) -> Tensor | None:
    """Return the mean covariates of cells, ``[1, width]``."""
    covariates = query.dataset.covariates
    return None if covariates is None else covariates.double().mean(0, keepdim=True).float()


def prior_summaries(model: VAE, seed: int) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return samples of the prior as the decoder sees them, and covariates with equal weights of the categories."""
    with evaluating(model, seed):
        values = sample_prior(model, NUM_PRIOR_SAMPLES)
    summaries = {name: model.latents[name].flatten(value).cpu() for name, value in values.items()}
    columns = CovariateColumns.of_model(model)
    if not columns.names:
        return summaries, None
    weights = [1 / len(names) for names in columns.categories.values() for _ in names]
    return summaries, torch.tensor([weights + [0.0] * len(columns.moments)])


def _check(n_genes: int | None, pseudo_fraction: float, batch_size: int) -> None:
    """Raise an error if a number of :func:`loadings` is invalid."""
    for name, value in (("n_genes", n_genes), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise DataError(f"loadings: {name}={value} must be at least 1.")
    if not 0 <= pseudo_fraction < 1:
        raise DataError(f"loadings: pseudo_fraction={pseudo_fraction} must be at least 0 and below 1, such as 1e-4.")
