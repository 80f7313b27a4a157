"""Data sets in memory as Lightning datamodules, which know nothing of models."""

from vaekit.data.cells.align import QueryData, query_dataset
from vaekit.data.cells.gene_expression import GeneExpressionData
from vaekit.data.cells.simulate import simulate_counts
from vaekit.data.images.image_data import ImageData

__all__ = ["GeneExpressionData", "ImageData", "QueryData", "query_dataset", "simulate_counts"]
