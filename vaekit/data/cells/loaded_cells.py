"""Loaded data of single cells."""

from __future__ import annotations

from dataclasses import dataclass

from vaekit.batch import DataStatistics
from vaekit.data.cells.covariates import Covariates
from vaekit.data.loaded_data import LoadedData


@dataclass(frozen=True)
class LoadedCells(LoadedData):
    """:class:`LoadedData` with the names of cells and genes, and the columns of the cells.

    Attributes
    ----------
    columns : Covariates
        Covariates.
    size_factor_scale : float or None
        Factor by which the size factors of a column were multiplied; None for total counts.
    colors : dict[str, dict[str, str]]
        Colors in ``.uns`` of the categories of batch, label and categorical covariates, by column.
    storage, matrix : str
        Where the counts are, for people, and the path of their matrix, such as "/layers/counts".
    """

    obs_names: list[str]
    feature_names: list[str]
    columns: Covariates
    size_factor_scale: float | None
    statistics: DataStatistics
    colors: dict[str, dict[str, str]]
    storage: str
    matrix: str
