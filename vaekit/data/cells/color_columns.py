"""Columns that color cells in figures: columns of ``.obs`` and genes, with the user's colors and stable categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.cells.columns import Column, category_name, match_category, read_column
from vaekit.data.cells.count_source import CountSource
from vaekit.data.figure_columns import FigureColumns, check_color
from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

SCALE, UNIT = 1e4, "log(1 + counts per 10,000)"


def read_color_columns(
    source: CountSource,
    color: Sequence[str] | str | None = None,
    categories: Sequence[str | None] = (),
    known: Mapping[str, Sequence[str]] | None = None,
    trained: Mapping[str, Mapping[str, str]] | None = None,
) -> FigureColumns:
    """Read the values that color cells.

    A column of numbers has a color scale; text, categories and booleans have one color each. A gene has the scale of
    ``log(1 + counts per 10,000)``, over all genes of the matrix. A column hides a gene of the same name.

    Categories have the colors of ``.uns["KEY_colors"]``, as scanpy stores them, or else those of the training data.
    Otherwise a color follows from the position of the category among those that the model knows; new categories come
    after these.

    Parameters
    ----------
    source : CountSource
        Cells.
    color : sequence of str, str or None
        Columns of ``.obs``, or genes.
    categories : sequence of str or None
        Columns, such as batch and label, that come first and are categories even if they are numbers. None and columns
        that do not exist are ignored.
    known : Mapping[str, sequence of str] or None
        Categories that the model knows, by column (:func:`known_categories`).
    trained : Mapping[str, Mapping[str, str]] or None
        Colors of the training data, by column and category.

    Raises
    ------
    DataError
        If a name of ``color`` is neither a column nor a gene, or occurs twice.
    """
    obs = source.obs
    first = [str(key) for key in dict.fromkeys(categories) if key in obs.columns]
    keys = [key for key in check_color(color) if key not in first]
    genes = [key for key in keys if key not in obs.columns]
    if unknown := [key for key in genes if key not in source.all_genes]:
        raise DataError(
            f"color={unknown[0]!r} not found among the columns of .obs and the genes of {source.name}. "
            f"{did_you_mean(unknown[0], [*map(str, obs.columns), *source.all_genes])}"
        )
    expression = _log_expression(source, genes)
    result = FigureColumns({}, {}, dict.fromkeys(genes, UNIT))
    for key in [*first, *keys]:
        if key in expression:
            result.values[key] = expression[key]
        elif key not in first and _is_numeric(obs[key]):
            result.values[key] = obs[key].to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            column, names = read_column(obs, key, "color", source.name), (known or {}).get(key, ())
            result.values[key] = _categorical(column, names)
            stored = {match_category(name, names): color for name, color in stored_colors(source, key).items()}
            if chosen := {**(trained or {}).get(key, {}), **stored}:
                result.palettes[key] = chosen
    return result


def known_categories(registry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the categories that a model knows from its training data and mapped cells, by column."""
    arguments = registry["config"]["init_args"]
    known = {key: list(names) for key, names in registry.get("categorical_covariate_keys", {}).items()}
    for key in (registry.get("query_batch_key"), arguments.get("batch_key")):
        if key is not None:
            known[key] = list(registry["batch_categories"])
    if arguments.get("label_key") is not None:
        known[arguments["label_key"]] = list(registry["label_categories"])
    return known


def _categorical(column: Column, known: Sequence[str]) -> pd.Categorical:
    """Return a column whose categories begin with the known ones; 1.0 is the known category "1"."""
    import pandas as pd

    column = Column(column.codes, [match_category(name, known) for name in column.categories])
    names = list(dict.fromkeys([*known, *column.categories]))
    return pd.Categorical.from_codes(column.recode(names).codes, names)


def _is_numeric(values: Any) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return values.ndim == 1 and is_numeric_dtype(values.dtype) and not is_bool_dtype(values.dtype)


def stored_colors(source: CountSource, key: str) -> dict[str, str]:
    """Return the colors in ``.uns`` by category; empty if they are missing, or fewer than the categories."""
    colors = np.ravel(source.adata.uns.get(f"{key}_colors", ()))
    names = source.obs[key].astype("category").cat.categories if len(colors) else []
    return dict(zip(map(category_name, names), map(str, colors), strict=False)) if len(colors) >= len(names) else {}


def _log_expression(source: CountSource, genes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return log(1 + counts per 10,000) of each cell, by gene."""
    if not genes:
        return {}
    columns = [source.all_genes.index(gene) for gene in genes]
    parts = []
    for _, counts in source.chunks("reading genes"):
        totals = np.maximum(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), 1)
        parts.append(np.log1p(counts[:, columns].toarray() * (SCALE / totals[:, None])))
    return dict(zip(genes, np.concatenate(parts).T, strict=True))
