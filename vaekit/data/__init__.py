"""Data sets in memory as Lightning datamodules, which know nothing of models."""

from vaekit.data.align import QueryData, query_dataset
from vaekit.data.gene_expression import GeneExpressionData
from vaekit.data.images import ImageData
from vaekit.data.simulate import simulate_counts

__all__ = ["GeneExpressionData", "ImageData", "QueryData", "query_dataset", "simulate_counts"]
