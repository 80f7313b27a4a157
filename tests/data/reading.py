"""Shortcuts of the tests: counts and queries read through a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from vaekit.data import QueryData, prepare_query
from vaekit.data.cells.in_memory_counts import InMemoryCounts
from vaekit.data.cells.sources import open_counts


def read_counts(adata: AnnData, layer: str | None, name: str) -> tuple[sparse.csr_matrix, list[str]]:
    """Return all counts of an AnnData in memory, and the names of its genes."""
    source = InMemoryCounts(adata, name, layer)
    parts = [counts for _, counts in source.chunks("reading counts")]
    return sparse.vstack(parts, format="csr"), source.genes


def read_query(
    cells: AnnData | str | Path | Sequence[str | Path],
    registry: Mapping[str, Any],
    layer: str | None = None,
    gene_name_key: str | None = None,
    **arguments: Any,
) -> QueryData:
    """Return cells in the form of a registry; the counts of files stay there if they are stored as CSR."""
    key = gene_name_key or registry.get("gene_name_key")
    return prepare_query(open_counts(cells, layer, key, "backed", gene_name_key is None), registry, **arguments)


def all_rows(dataset: Any) -> Any:
    """Return all observations of a data set as one batch."""
    return dataset.__getitems__(np.arange(len(dataset)))
