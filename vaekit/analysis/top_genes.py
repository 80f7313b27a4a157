"""Top genes of each group: a table, a dot plot and a heat map of differential expression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vaekit._core.memory_budget import CHUNK_CELLS
from vaekit.analysis.groups import REST
from vaekit.analysis.model_source import get_count_registry, open_cells, resolve_model
from vaekit.data.cells.columns import read_column
from vaekit.data.cells.query import prepare_query
from vaekit.exceptions import DataError, did_you_mean
from vaekit.models import VAE
from vaekit.plotting.analysis_figures import decision_column
from vaekit.plotting.expression_figures import plot_cells, plot_dots
from vaekit.plotting.table_argument import check_table

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from vaekit.plotting.figure_files import Figure

SHOWN = [
    *("proba_up", "lfc_mean", "raw_normalized_mean1", "raw_normalized_mean2"),
    *("non_zeros_proportion1", "non_zeros_proportion2"),
]


def top_genes(table: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """Return the called genes of each comparison that are most surely higher in group 1.

    Parameters
    ----------
    table : pandas.DataFrame
        Result of :func:`vaekit.analysis.differential_expression`.
    n : int
        Largest number of genes per comparison.

    Returns
    -------
    pandas.DataFrame
        One row for each gene of a comparison, by ``proba_up``, then by ``lfc_mean`` and mean count. The columns are
        ``comparison``, ``group1``, ``group2``, ``rank`` (from 1) and ``gene``, and of the table ``proba_up``,
        ``lfc_mean``, ``raw_normalized_mean1``, ``raw_normalized_mean2``, ``non_zeros_proportion1`` and
        ``non_zeros_proportion2``. A comparison without such genes does not have a row.

    Raises
    ------
    DataError
        If ``n`` is not positive, or the table is another one.

    Examples
    --------
    >>> import pandas as pd
    >>> columns = {"proba_up": [0.9, 1.0, 0.0], "proba_down": [0.0, 0.0, 1.0], "lfc_mean": [2.0, 1.0, -3.0]}
    >>> numbers = dict.fromkeys(["raw_mean1", *SHOWN[2:]], 1.0)
    >>> names = {"comparison": "B vs Rest", "group1": "B", "group2": "Rest", "is_de_fdr_0.05": True}
    >>> table = pd.DataFrame({**columns, **numbers, **names}, index=["CD37", "CD79A", "CD3E"])
    >>> top_genes(table, n=2)[["group1", "rank", "gene"]].to_numpy().tolist()
    [['B', 1, 'CD79A'], ['B', 2, 'CD37']]
    """
    import pandas as pd

    if n < 1:
        raise DataError(f"top_genes: n={n} must be at least 1.")
    check_table(table, ["comparison", "proba_up"], "differential_expression")
    called = table[table[decision_column(table)].to_numpy(bool) & (table["proba_up"] > table["proba_down"]).to_numpy()]
    keys = ["comparison", "group1", "group2", "rank", "gene"]
    parts = []
    for _, part in called.groupby("comparison", sort=False):
        order = np.lexsort((-part["raw_mean1"], -part["lfc_mean"].round(6), -part["proba_up"]))[:n]
        part = part.iloc[order]
        parts.append(part.assign(rank=np.arange(1, len(part) + 1), gene=part.index.astype(str))[keys + SHOWN])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=keys + SHOWN)


def plot_dotplot(table: pd.DataFrame, n: int = 5, title: str = "") -> Figure:
    """Plot the mean expression and the fraction of cells with a count of each group's top genes as dots.

    The color is the mean of the counts scaled to 10,000 per cell, relative to the gene's largest. A second group that
    all comparisons share has a row, too.

    Parameters
    ----------
    table : pandas.DataFrame
        Result of :func:`vaekit.analysis.differential_expression` for several groups.
    n : int
        Largest number of genes per group (:func:`top_genes`).
    title : str
        Title of the figure.

    Raises
    ------
    DataError
        If no gene is called in any comparison.

    Examples
    --------
    >>> import vaekit
    >>> table = vaekit.analysis.differential_expression(adata, model, "cluster")
    >>> figure = vaekit.analysis.plot_dotplot(table, n=3)
    >>> figure.savefig("dots.png")
    """
    import pandas as pd

    genes = _genes_by_group(table, n)
    names = list(dict.fromkeys(gene for group in genes.values() for gene in group))
    rows = [(str(name), "1", part) for name, part in table.groupby("group1", sort=False)]
    others = table["group2"].unique()
    if len(others) == 1 and (len(rows) == 1 or others[0] != REST):
        rows.append((str(others[0]), "2", rows[0][2]))
    mean, fraction = (
        pd.DataFrame({name: part[f"{column}{number}"].reindex(names) for name, number, part in rows}).T
        for column in ("raw_normalized_mean", "non_zeros_proportion")
    )
    return plot_dots(mean / mean.max().clip(lower=np.finfo(float).tiny), fraction, genes, title)


def plot_heatmap(
    adata: AnnData | str | Path | Sequence[str | Path],
    model: VAE | str | Path,
    table: pd.DataFrame,
    groupby: str,
    n: int = 5,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    title: str = "",
) -> Figure:
    """Plot the expression of each group's top genes in each cell as a heat map.

    The color is log1p of the counts scaled to 10,000 per cell, over the genes of the model.

    Parameters
    ----------
    adata : AnnData, path or sequence of paths
        Cells with counts, not changed.
    model : VAE or path
        Trained model, or its checkpoint.
    table : pandas.DataFrame
        Result of :func:`vaekit.analysis.differential_expression` by ``groupby``.
    groupby : str
        Column of ``.obs`` with the groups. Cells of groups that are not in the table are omitted, unless a group is
        compared with all other cells.
    n : int
        Largest number of genes per group (:func:`top_genes`).
    layer, batch_key : str or None
        As in :func:`vaekit.analysis.embed`.
    title : str
        Title of the figure.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If no gene is called, the cells do not fit the model, or the column does not have the groups.

    Examples
    --------
    >>> import vaekit
    >>> table = vaekit.analysis.differential_expression(adata, model, "cluster")
    >>> figure = vaekit.analysis.plot_heatmap(adata, model, table, "cluster", n=3)
    >>> figure.savefig("heatmap.png")
    """
    import pandas as pd

    genes = _genes_by_group(table, n)
    model = resolve_model(model)[0]
    source = open_cells(model, adata, layer)
    column = read_column(source.obs, groupby, "groupby", source.name)
    shown = list(dict.fromkeys([*table["group1"], *table["group2"]]))
    if REST in shown and REST not in column.categories:
        shown = [*(name for name in shown if name != REST), *(c for c in column.categories if c not in shown)]
    if missing := [name for name in shown if name not in column.categories]:
        raise DataError(
            f"groupby={groupby!r}: {missing[0]!r} of the table not found in .obs[{groupby!r}] of {source.name}. "
            f"{did_you_mean(missing[0], column.categories)}"
        )
    registry = get_count_registry(model)
    query = prepare_query(source, registry, batch_key)
    codes = column.recode(shown).codes
    names = list(dict.fromkeys(gene for group in genes.values() for gene in group))
    columns = [list(registry["feature_names"]).index(gene) for gene in names]
    values = []
    for part in torch.from_numpy(np.flatnonzero(codes >= 0)).split(CHUNK_CELLS):
        x = query.dataset.__getitems__(part).x.double()
        values.append((x[:, columns] * (1e4 / x.sum(1, keepdim=True).clamp_min(1))).log1p().float().numpy())
    groups = pd.Categorical.from_codes(codes[codes >= 0], shown)
    return plot_cells(pd.DataFrame(np.concatenate(values), columns=names), groups, genes, groupby, title)


def _genes_by_group(table: pd.DataFrame, n: int) -> dict[str, list[str]]:
    """Return the top genes of each group that has some."""
    top = top_genes(table, n)
    if top.empty:
        raise DataError(
            f"No gene of the table is called ({decision_column(table)}) and higher in group 1. Compare other groups, "
            "or pass a larger fdr or a smaller delta to differential_expression."
        )
    return {str(name): part["gene"].tolist() for name, part in top.groupby("group1", sort=False)}
