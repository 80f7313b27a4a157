"""Compositions of components over genes, and marker genes of the states at every level of a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.covariate_values import set_batch
from vaekit.analysis.decoding import composition
from vaekit.analysis.group_sums import DECODED_BATCHES
from vaekit.analysis.markers import compare_compositions
from vaekit.analysis.model_source import get_data_registry
from vaekit.analysis.state_tree import StateTree
from vaekit.batch import Batch
from vaekit.data.cells.count_dataset import CellDataset
from vaekit.models import VAE
from vaekit.models.evaluation_mode import evaluation_mode

if TYPE_CHECKING:
    import pandas as pd


def component_compositions(
    model: VAE,
    dataset: CellDataset,
    index: np.ndarray,
    keys: np.ndarray,
    probabilities: np.ndarray,
    batch_size: int,
    progress: bool = False,
) -> np.ndarray:
    """Return the mean composition of the cells of each component, ``[components, genes]``.

    Parameters
    ----------
    model : VAE
        Model that decodes the posterior means of the cells, averaged over up to ``DECODED_BATCHES`` of its batches.
    dataset : CellDataset
        Cells in the form of the model.
    index, keys : ndarray, shape (cells,)
        Indices of the cells to decode, and the keys of their content, which select the batches.
    probabilities : ndarray, shape (cells, components)
        Probabilities of the components.
    batch_size, progress
        Cells per mini-batch, and whether to show a progress bar.
    """
    from tqdm.auto import tqdm

    total = np.zeros((probabilities.shape[1], model.features))
    order = np.argsort(index)  # of a file, which is read once, a chunk of cells at a time
    index, keys, probabilities = index[order], keys[order], probabilities[order]
    starts = tqdm(range(0, len(index), batch_size), "decoding states", unit="batch", disable=not progress)
    with evaluation_mode(model):
        for start in starts:
            part = slice(start, start + batch_size)
            batch = dataset.__getitems__(torch.from_numpy(index[part])).to(model.device)
            total += probabilities[part].T @ _mean_composition(model, batch, keys[part]).double().cpu().numpy()
    return total / np.maximum(probabilities.sum(0), np.finfo(float).tiny)[:, None]


def level_markers(tree: StateTree, compositions: np.ndarray, genes: Sequence[str], n_genes: int) -> pd.DataFrame:
    """Return the genes with the highest log ratio of each state to the others, at every level with several states.

    Parameters
    ----------
    tree : StateTree
        Tree of the components.
    compositions : ndarray, shape (components, genes)
        Mean composition of each component.
    genes : sequence of str
        Names of the genes.
    n_genes : int
        Number of genes per state.

    Returns
    -------
    pandas.DataFrame
        Columns ``num_states`` (the level), ``state`` (its number there), ``components`` (``"0+3"``), ``gene``,
        ``log2_fold_change``, ``scale`` and ``scale_others`` (both compositions).
    """
    import pandas as pd

    names, tables = np.asarray(genes), []
    for num_states in range(2, tree.num_components + 1):
        scales = tree.state_means(compositions, num_states)
        others, ratios = compare_compositions(scales, tree.weights @ tree.membership(num_states))
        for state, components in enumerate(tree.states_at(num_states)):
            top = np.argsort(-ratios[state], kind="stable")[:n_genes]
            columns = {
                "num_states": num_states,
                "state": state,
                "components": component_name(components),
                "gene": names[top],
                "log2_fold_change": ratios[state][top],
                "scale": scales[state][top],
                "scale_others": others[state][top],
            }
            tables.append(pd.DataFrame(columns))
    empty = ["num_states", "state", "components", "gene", "log2_fold_change", "scale", "scale_others"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=empty)


def component_name(components: Sequence[int]) -> str:
    """Return the name of a set of components.

    Examples
    --------
    >>> component_name((0, 3, 11))
    '0+3+11'
    """
    return "+".join(map(str, components))


def _mean_composition(model: VAE, batch: Batch, keys: np.ndarray) -> Tensor:
    """Return the composition at the posterior means, averaged over equally spaced batches, ``[cells, genes]``."""
    latents = {name: model.latents[name].point_estimate(q)[None] for name, q in model.posteriors(batch).items()}
    num_batches = len(get_data_registry(model)["batch_categories"])
    if not num_batches:
        return composition(model, latents, batch)[0]
    num_decoded = min(num_batches, DECODED_BATCHES)
    first = torch.from_numpy((keys % np.uint64(num_batches)).astype(np.int64)).to(model.device)
    moved = [
        set_batch(batch, (first + k * num_batches // num_decoded) % num_batches, num_batches)
        for k in range(num_decoded)
    ]
    return torch.stack([composition(model, latents, cells)[0] for cells in moved]).mean(0)
