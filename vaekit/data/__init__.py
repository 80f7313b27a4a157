"""Data sets as Lightning data modules, independent of models."""

from vaekit.data.cells.gene_expression import GeneExpressionData
from vaekit.data.cells.query import QueryData, prepare_query
from vaekit.data.cells.simulate import simulate_counts
from vaekit.data.images.image_data import ImageData

__all__ = ["GeneExpressionData", "ImageData", "QueryData", "prepare_query", "simulate_counts"]
