"""Tree over the codes of a discrete latent, merged by their probabilities of misclassification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vaekit.analysis.embed import summarize_cells
from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import check_in_memory, prepare_query, provenance, resolve_model
from vaekit.analysis.state_tables import to_categorical, tree_table
from vaekit.analysis.state_tree import merge_states
from vaekit.exceptions import DataError, did_you_mean
from vaekit.latents import Latent
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MAX_CODES = 2000  # time grows with the cube
MAX_VALUES = 2**22  # cells times codes at once


def code_tree(
    adata: AnnData,
    model: VAE | str | Path,
    latent: str = "y",
    *,
    num_states: int,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_code_states",
    batch_size: int = 1024,
    progress: bool = False,
) -> pd.DataFrame:
    r"""Merge the codes of a discrete latent into a few states, by a tree.

    A latent of several variables has one code per combination, more than there are kinds of cells: 10 variables of 8
    categories give some 1,600 codes for 2,600 blood cells. The tree merges the two codes, or groups of codes, with the
    largest probability of misclassification,

    .. math:: \max(C_{ab} / C_{a \cdot},\; C_{ba} / C_{b \cdot}), \qquad
              C_{ab} = \frac{1}{n} \sum_i q(y = a | x_i)\, q(y = b | x_i)

    until one is left. Codes that are not the most probable one of any cell are ignored. For states with a number that
    follows from the data and a known stability, use :func:`vaekit.analysis.states` with Gaussian latents.

    Parameters
    ----------
    adata : AnnData
        Cells with counts; changed as below.
    model : VAE or path
        Trained model, or its checkpoint.
    latent : str
        Name of a discrete latent.
    num_states : int
        Number of states.
    layer, batch_key, batch_size, progress
        As in :func:`vaekit.analysis.embed`.
    key_added : str
        Name in ``.obs`` and ``.uns``.

    Returns
    -------
    pandas.DataFrame
        A row per merge: ``num_states`` after it, ``first`` and ``second`` (the codes of the two groups, joined by "+",
        numbered as in ``uns``), and ``misclassification``.

    Sets the following fields, for the ``key_added`` ``vaekit_code_states``:

    ``adata.obs["vaekit_code_states"]``
        State of each cell, a categorical ``"0"``, ``"1"``, ... by decreasing weight.
    ``adata.uns["vaekit_code_states"]``
        The table as ``"tree"``, the names of the codes by number as ``"codes"``, and the provenance.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If the latent is not found or not discrete, there are more than 2,000 codes or fewer than ``num_states``, the
        cells do not fit the model, or a field is taken.

    Notes
    -----
    Hennig (2010), Methods for merging Gaussian mixture components.

    Examples
    --------
    >>> import vaekit
    >>> tree = vaekit.analysis.code_tree(adata, model, num_states=2)
    >>> tree["num_states"].tolist()
    [2, 1]
    >>> adata.obs["vaekit_code_states"].nunique()
    2
    """
    check_in_memory(adata)
    loaded, checkpoint = resolve_model(model)
    discrete = [name for name, candidate in loaded.latents.items() if candidate.discrete]
    if latent not in discrete:
        problem = "must be discrete" if latent in loaded.latents else "not found in the model"
        raise DataError(f"latent={latent!r} {problem}. {did_you_mean(latent, discrete)}")
    check_free(adata, key_added, {"obs": [key_added]}, key_added)
    query = prepare_query(loaded, adata, layer, batch_key)
    summary = summarize_cells(loaded, query, batch_size, progress)[latent]
    codes = np.unique(loaded.latents[latent].codes(summary).numpy(), axis=0)
    if not 1 <= num_states <= len(codes) <= MAX_CODES:
        raise DataError(
            f"code_tree: num_states={num_states} must be at least 1 and at most the number of codes in use, which is "
            f"{len(codes)} and must be at most {MAX_CODES}."
        )
    parts = summary.split(max(1, MAX_VALUES // len(codes)))
    confusion = np.zeros((len(codes), len(codes)))
    for part in parts:
        probabilities = _joint_probabilities(loaded.latents[latent], part, codes)
        confusion += probabilities.T @ probabilities
    tree = merge_states(confusion / len(summary))
    table, membership = tree_table(tree), tree.membership(num_states)
    states = [(_joint_probabilities(loaded.latents[latent], part, codes) @ membership).argmax(1) for part in parts]
    adata.obs[key_added] = to_categorical(np.concatenate(states), num_states)
    adata.uns[key_added] = {
        "tree": table.copy(),
        "codes": np.array(["-".join(map(str, code)) for code in codes], dtype=str),
        **provenance(loaded, query.missing_genes, checkpoint),
    }
    return table


def _joint_probabilities(latent: Latent, summary: torch.Tensor, codes: np.ndarray) -> np.ndarray:
    """Return the probabilities of codes ``[codes, variables]`` among these, ``[cells, codes]``."""
    log_probabilities = latent.state_probabilities(summary).double().clamp_min(1e-30).log().numpy()
    scores = np.zeros((len(summary), len(codes)))
    for variable in range(codes.shape[1]):
        scores += log_probabilities[:, variable, codes[:, variable]]
    probabilities = np.exp(scores - scores.max(1, keepdims=True))
    return probabilities / probabilities.sum(1, keepdims=True)
