"""Data sets as Lightning data modules, independent of models."""

from vaekit.data.cells.count_source import CountSource
from vaekit.data.cells.file_formats import read_cells
from vaekit.data.cells.gene_expression import GeneExpressionData
from vaekit.data.cells.query import QueryData, prepare_query
from vaekit.data.cells.simulate import simulate_counts
from vaekit.data.cells.sources import open_counts
from vaekit.data.images.image_data import ImageData

__all__ = [
    "CountSource",
    "GeneExpressionData",
    "ImageData",
    "QueryData",
    "open_counts",
    "prepare_query",
    "read_cells",
    "simulate_counts",
]
