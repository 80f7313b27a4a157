from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse


@pytest.fixture
def make_adata() -> Callable[..., AnnData]:
    """A maker of small AnnData with whole counts, labels and batches."""

    def make(cells: int = 60, genes: int = 20, seed: int = 0, form: Callable = sparse.csr_matrix) -> AnnData:
        rng = np.random.default_rng(seed)
        counts = rng.poisson(rng.gamma(0.5, 2.0, size=genes), size=(cells, genes)).astype(np.float32)
        counts[:, 0] += 1  # no cell is empty
        obs = pd.DataFrame(
            {
                "cell_type": pd.Categorical(np.array(["B", "T", "NK"])[np.arange(cells) % 3]),
                "batch": np.array(["b1", "b2"])[np.arange(cells) % 2],
            },
            index=[f"cell{i}" for i in range(cells)],
        )
        return AnnData(form(counts), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(genes)]))

    return make
