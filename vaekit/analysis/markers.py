"""Marker genes of discrete codes and topics, from the model's compositions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.covariate_values import set_batch
from vaekit.analysis.decoding import composition, evaluating
from vaekit.analysis.embed import summarize_cells
from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import (
    get_data_registry,
    prepare_query,
    provenance,
    resolve_model,
    writable_adata,
)
from vaekit.analysis.prior_samples import Code, sample_given_code
from vaekit.data.cells.count_dataset import CellDataset
from vaekit.diagnostics.keyed_noise import observation_keys
from vaekit.exceptions import DataError, did_you_mean
from vaekit.latents.activity import ACTIVE_PROBABILITY
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

PSEUDO_FRACTION = 1e-4  # one count in 10,000


def markers(
    adata: AnnData | str | Path | Sequence[str | Path],
    model: VAE | str | Path,
    latent: str | None = None,
    *,
    n_genes: int = 20,
    pseudo_fraction: float = PSEUDO_FRACTION,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_markers",
    num_samples: int = 200,
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    r"""List the genes that distinguish each code of a discrete latent, or each topic, in the model's composition.

    .. math::
        \log_2 \frac{\rho_g(c) + \epsilon}{\bar\rho_g(c) + \epsilon}, \qquad
        \bar\rho_g(c) = \frac{\sum_{c' \ne c} u_{c'}\, \rho_g(c')}{\sum_{c' \ne c} u_{c'}}, \qquad
        \rho_g(c) = E_{p(\mathrm{others} | c)}[\rho_g]

    with the usage u of the codes, their mean posterior probability over the cells. The pseudo-fraction
    :math:`\epsilon` prevents large ratios of genes with low expression everywhere.

    The other latents are sampled from their joint prior given the code. Other variables of the same latent are sampled
    by their usage. Batches alternate, and the cells provide the other covariates. For a Dirichlet latent, each topic
    counts as a code. Its usage is the mean proportion, and its composition is computed for a cell with this topic only.

    Parameters
    ----------
    adata : AnnData, path or sequence of paths
        Cells with counts, which determine the usage of the codes. An AnnData changes in ``.uns`` only; files do not
        change.
    model : VAE or path
        Trained model, or its checkpoint.
    latent : str, optional
        Name of a discrete or Dirichlet latent. None means the only one.
    n_genes : int
        Number of genes per code: those with the highest log ratio.
    pseudo_fraction : float
        Fraction added to both compositions, at least 0 and below 1. The default is one count in 10,000.
    layer, batch_key, batch_size, progress
        As in :func:`vaekit.analysis.embed`.
    key_added : str
        Key in ``.uns``.
    num_samples, seed : int
        Samples of the other latents per code, and their seed.

    Returns
    -------
    pandas.DataFrame
        ``n_genes`` rows for each code with a usage above 0.01, in descending order of usage. The columns are ``code``
        (``"3"``; or ``"1:3"`` for state 3 of variable 1, and for bits), ``usage``, ``n_cells`` (cells with this most
        probable code or largest topic), ``gene``, ``log2_fold_change``, and ``scale`` and ``scale_others`` (both
        compositions, without the pseudo-fraction).

    Sets the following field of an AnnData:

    ``adata.uns[key_added]``
        The table as ``"table"``, and its provenance.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, or its likelihood does not have a composition.
    DataError
        If the latent is not found, is neither discrete nor Dirichlet, is None although there are several, or has a
        single code in use; if a number is invalid, the cells do not fit the model, or ``key_added`` is taken.

    Examples
    --------
    >>> import vaekit
    >>> table = vaekit.analysis.markers(adata, model, n_genes=2)
    >>> sorted(table["code"].unique()), len(table)
    (['0', '1', '2'], 6)
    >>> bool((table["log2_fold_change"] > 0).all())
    True
    """
    writable = writable_adata(adata)
    model, checkpoint = resolve_model(model)
    latent = find_latent_with_states(model, latent)
    _check(n_genes, num_samples, pseudo_fraction)
    if writable is not None:
        check_free(writable, key_added, {}, key_added)
    query = prepare_query(model, adata, layer, batch_key)
    with evaluating(model, seed):
        summaries = summarize_cells(model, query, batch_size, progress)
    table = code_markers(
        model, latent, summaries[latent], query.dataset, n_genes, pseudo_fraction, num_samples, seed, batch_size
    )
    if writable is not None:
        writable.uns[key_added] = {
            "table": table.copy(),
            "latent": latent,
            "pseudo_fraction": pseudo_fraction,
            **provenance(model, query.missing_genes, checkpoint),
        }
    return table


def code_markers(
    model: VAE,
    latent: str,
    summary: Tensor,
    dataset: CellDataset,
    n_genes: int,
    pseudo_fraction: float = PSEUDO_FRACTION,
    num_samples: int = 200,
    seed: int = 0,
    batch_size: int = 1024,
) -> pd.DataFrame:
    """Return the table of :func:`markers` for cells in the form of the model's training data.

    Parameters
    ----------
    model : VAE
        Trained model of gene expression.
    latent : str
        Name of a discrete or Dirichlet latent.
    summary : Tensor, shape (cells, size)
        Its part of :func:`vaekit.diagnostics.posterior_summaries`.
    dataset : CellDataset
        The cells.
    n_genes, pseudo_fraction, num_samples, seed, batch_size
        As in :func:`markers`.

    Raises
    ------
    DataError
        If a single code is in use.
    """
    import pandas as pd

    registry = get_data_registry(model)
    genes, num_batches = np.array(registry["feature_names"]), len(registry["batch_categories"])
    probabilities = model.latents[latent].state_probabilities(summary)
    usage = probabilities.mean(0)
    n_cells = torch.nn.functional.one_hot(probabilities.argmax(-1), usage.shape[-1]).sum(0)
    tables = []
    with evaluating(model, seed):
        index = _select_cells(dataset, num_samples, batch_size, seed)
        cells = dataset.__getitems__(index).to(model.device)
        if num_batches:
            cells = set_batch(cells, torch.arange(num_samples, device=model.device) % num_batches, num_batches)
        for variable, probability in enumerate(usage):
            codes = [Code(latent, variable, int(state)) for state in torch.nonzero(probability > ACTIVE_PROBABILITY)]
            if len(codes) < 2:
                continue
            latents = [sample_given_code(model, code, usage, cells.x) for code in codes]
            scales = np.array([composition(model, values, cells).double().mean(0).cpu().numpy() for values in latents])
            weights = probability[[code.state for code in codes]].double().numpy()
            others, ratios = compare_compositions(scales, weights, pseudo_fraction)
            for code, scale, other, ratio in zip(codes, scales, others, ratios, strict=True):
                top = np.argsort(-ratio, kind="stable")[:n_genes]
                columns = {
                    "code": model.latents[latent].state_name(variable, code.state),
                    "usage": float(probability[code.state]),
                    "n_cells": int(n_cells[variable, code.state]),
                    "gene": genes[top],
                    "log2_fold_change": ratio[top],
                    "scale": scale[top],
                    "scale_others": other[top],
                }
                tables.append(pd.DataFrame(columns))
    if not tables:
        raise DataError(f"latent={latent!r}: a single code is in use, and there is no other one to compare it with.")
    return pd.concat(sorted(tables, key=lambda part: -part["usage"].iloc[0]), ignore_index=True)


def find_latent_with_states(model: VAE, latent: str | None) -> str:
    """Return the name of a discrete or Dirichlet latent; None means the only one.

    Raises
    ------
    DataError
        If it is not found or has no states, or if it is None and the model does not have exactly one.
    """
    with_states = [name for name, candidate in model.latents.items() if candidate.state_shape]
    if latent is None and len(with_states) == 1:
        return with_states[0]
    if not with_states:
        raise DataError(
            f"latent={latent!r}: the model does not have a discrete or Dirichlet latent; its latents are "
            f"{', '.join(model.latents)}. Pass the checkpoint of a MixedVAE or DiscreteVAE."
        )
    if latent is None:
        raise DataError(f"latent=None: the model has several latents with codes. Pass one of {', '.join(with_states)}.")
    if latent not in with_states:
        problem = "must be discrete or Dirichlet" if latent in model.latents else "not found in the model"
        raise DataError(f"latent={latent!r} {problem}. {did_you_mean(latent, with_states)}")
    return latent


def compare_compositions(
    scales: np.ndarray, weights: np.ndarray, pseudo_fraction: float = PSEUDO_FRACTION
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean composition of the other codes, and the log2 ratio to it, each ``[codes, genes]``."""
    others = np.empty_like(scales)
    for position in range(len(weights)):
        other_weights = np.where(np.arange(len(weights)) == position, 0, weights)
        others[position] = other_weights @ scales / other_weights.sum()
    with np.errstate(divide="ignore", invalid="ignore"):  # log 0 without a pseudo-fraction
        return others, np.log2(scales + pseudo_fraction) - np.log2(others + pseudo_fraction)


def _select_cells(dataset: CellDataset, count: int, batch_size: int, seed: int) -> Tensor:
    """Return the indices of ``count`` cells, equally spaced in an order that follows from the cells' content."""
    order = torch.arange(len(dataset))
    if dataset.covariates is not None:  # otherwise only the number of cells matters
        keys = [observation_keys(dataset.__getitems__(part), seed) for part in order.split(batch_size)]
        order = torch.from_numpy(np.concatenate(keys).argsort(kind="stable"))
    return order[torch.linspace(0, len(order) - 1, count).long()]


def _check(n_genes: int, num_samples: int, pseudo_fraction: float) -> None:
    """Raise an error if a number of :func:`markers` is invalid."""
    for name, value in (("n_genes", n_genes), ("num_samples", num_samples)):
        if value < 1:
            raise DataError(f"markers: {name}={value} must be at least 1.")
    if not 0 <= pseudo_fraction < 1:
        raise DataError(f"markers: pseudo_fraction={pseudo_fraction} must be at least 0 and below 1, such as 1e-4.")
