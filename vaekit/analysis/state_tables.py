"""The result of a search for states, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.analysis.state_markers import component_name
from vaekit.analysis.state_tree import StateTree
from vaekit.plotting.embedding_figures import NO_PALETTES, NO_UNITS
from vaekit.plotting.state_figures import NO_COLUMNS, plot_states

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.plotting.figure_files import Figure

TABLES = ("states", "tree", "agreement", "bic", "markers", "compositions")


@dataclass(frozen=True)
class States:
    """States of cells, from :func:`vaekit.analysis.states`.

    Attributes
    ----------
    codes : pandas.Categorical
        State of each cell, ``"0"``, ``"1"``, ... by decreasing weight.
    probabilities : ndarray, shape (cells, states)
        Probabilities of the states.
    states : pandas.DataFrame
        A row per state, with its name as the index: ``components`` of the mixture that it merges (``"0+3"``),
        ``n_cells``, ``usage`` (mean probability) and ``stability``, the mean Jaccard index with the cells of the same
        state in each model alone (NaN for a single model).
    tree : pandas.DataFrame
        A row per merge: ``num_states`` after it, ``first`` and ``second`` (the components of the two states) and
        ``misclassification``, the larger probability that a cell of one is assigned to the other.
    agreement : pandas.DataFrame
        A row per number of states: ``num_states``, ``agreement`` (mean pairwise adjusted Rand index of the models) and
        ``chosen``.
    bic : pandas.DataFrame
        A row per number of components: ``num_components`` and ``bic``.
    markers : pandas.DataFrame
        Marker genes of each state at every level of the tree, as of
        :func:`vaekit.analysis.state_markers.level_markers`.
    compositions : pandas.DataFrame
        Mean composition of the cells of each state: a row per gene, a column per state.
    latents : ndarray, shape (cells, dimensions)
        Posterior means of the model that agrees best with the states.
    reference : dict
        The mixture and the states as plain data, for :func:`vaekit.analysis.assign_states`.

    Examples
    --------
    >>> import vaekit
    >>> found = vaekit.analysis.states(adata, models, num_states=2)
    >>> found.states["n_cells"].tolist(), found.probabilities.shape
    ([197, 103], (300, 2))
    """

    codes: pd.Categorical
    probabilities: np.ndarray
    states: pd.DataFrame
    tree: pd.DataFrame
    agreement: pd.DataFrame
    bic: pd.DataFrame
    markers: pd.DataFrame
    compositions: pd.DataFrame
    latents: np.ndarray
    reference: dict[str, Any]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return copies of the tables by name."""
        return {name: getattr(self, name).copy() for name in TABLES}

    def fields(self, key_added: str) -> dict[str, dict[str, Any]]:
        """Return the fields per cell of an AnnData, by attribute and key."""
        return {"obs": {key_added: self.codes}, "obsm": {f"{key_added}_probabilities": self.probabilities}}

    def plot(
        self,
        title: str = "",
        columns: Mapping[str, pd.Categorical | np.ndarray] = NO_COLUMNS,
        palettes: Mapping[str, Mapping[str, str]] = NO_PALETTES,
        units: Mapping[str, str] = NO_UNITS,
    ) -> Figure:
        """Return a figure of the tree, the agreement of the models, a UMAP and marker genes.

        Parameters
        ----------
        title : str
            Title of the figure.
        columns : Mapping[str, pandas.Categorical or array]
            Further columns of the cells that color the UMAP, by the title of the panel.
        palettes : Mapping[str, Mapping[str, str]]
            Colors of categories by the title of the panel.
        units : Mapping[str, str]
            Units of numbers by the title of the panel.
        """
        return plot_states(
            self.latents, self.codes, self.states, self.tree, self.agreement, self.markers, self.compositions, title,
            columns, palettes, units,
        )  # fmt: skip


def to_categorical(codes: np.ndarray, num_states: int) -> pd.Categorical:
    """Return numbers of states as a categorical, in numerical order."""
    import pandas as pd

    return pd.Categorical.from_codes(codes, [str(state) for state in range(num_states)])


def state_table(tree: StateTree, codes: np.ndarray, probabilities: np.ndarray, stability: np.ndarray) -> pd.DataFrame:
    """Return the table of the states of one level."""
    import pandas as pd

    num_states = probabilities.shape[1]
    columns = {
        "components": [component_name(components) for components in tree.states_at(num_states)],
        "n_cells": np.bincount(codes, minlength=num_states),
        "usage": probabilities.mean(0),
        "stability": stability,
    }
    return pd.DataFrame(columns, index=pd.Index([str(state) for state in range(num_states)], name="state"))


def tree_table(tree: StateTree) -> pd.DataFrame:
    """Return the table of merges."""
    import pandas as pd

    rows = [
        (merge.num_states, component_name(merge.first), component_name(merge.second), merge.misclassification)
        for merge in tree.merges
    ]
    return pd.DataFrame(rows, columns=["num_states", "first", "second", "misclassification"])


def agreement_table(agreement: Sequence[float], chosen: int) -> pd.DataFrame:
    """Return the table of the agreement at 1, 2, ... states."""
    import pandas as pd

    numbers = np.arange(1, len(agreement) + 1)
    return pd.DataFrame({"num_states": numbers, "agreement": np.array(agreement), "chosen": numbers == chosen})


def bic_table(criteria: Mapping[int, float]) -> pd.DataFrame:
    """Return the table of the BIC by number of components."""
    import pandas as pd

    return pd.DataFrame({"num_components": list(criteria), "bic": list(criteria.values())})


def composition_table(tree: StateTree, compositions: np.ndarray, genes: Sequence[str], num_states: int) -> pd.DataFrame:
    """Return the mean composition of each state of a level, from that of each component."""
    import pandas as pd

    values = tree.state_means(compositions, num_states).T
    return pd.DataFrame(values, index=pd.Index(list(genes), name="gene"), columns=[str(k) for k in range(num_states)])
