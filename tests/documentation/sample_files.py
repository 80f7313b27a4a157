"""Small simulated files under the names that the documentation uses, and a trained run in ``RUN``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image

from vaekit.data import simulate_counts

CELL_TYPES = ("B cell", "T cell", "NK cell", "monocyte")
GENES = ("CD3D", "MS4A1", "LYZ", "NKG7", "GNLY", "CD8A", "CD4", "CD14", "CD79A", "FCGR3A", "IL7R", "ISG15", "PPBP")
RUN_COMMAND = ["fit", "--config", "pbmc_mixed", "--data.path", "cells.h5ad", "--data.label_key", "cell_type",
               "--data.batch_key", "donor", "--trainer.default_root_dir", "RUN"]  # fmt: skip


def simulated_cells(num_cells: int, donors: tuple[str, ...], seed: int) -> AnnData:
    """Return cells of four types with columns of every kind that the pages name."""
    adata = simulate_counts(num_cells, 2100, clusters=len(CELL_TYPES), library_size=2000.0, seed=0)
    generator = np.random.default_rng(seed)
    adata.obs_names = [f"cell{seed}_{index}" for index in range(num_cells)]
    adata.var_names = [*GENES, *(f"Gene{index}" for index in range(adata.n_vars - len(GENES)))]
    adata.var = pd.DataFrame({"gene_ids": [f"ENSG{i:011d}" for i in range(adata.n_vars)]}, index=adata.var_names)
    types = adata.obs["cluster"].astype("category").cat.codes.to_numpy()
    index = generator.permutation(np.arange(num_cells) % len(donors))
    adata.obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.asarray(CELL_TYPES)[types]),
            "donor": pd.Categorical(np.asarray(donors)[index]),
            "batch": pd.Categorical(np.asarray(["batch1", "batch2"])[generator.integers(2, size=num_cells)]),
            "condition": pd.Categorical(np.asarray(["control", "stimulated"])[index % 2]),
            "sex": pd.Categorical(np.asarray(["female", "male"])[index // 2 % 2]),
            "age": 30.0 + 5 * index,
            "depth": np.asarray(adata.X.sum(1)).ravel(),
        },
        index=adata.obs_names,
    )
    return AnnData(adata.X, obs=adata.obs, var=adata.var, layers={"counts": adata.X.copy()})


def write_samples(directory: Path) -> None:
    """Write all files but the trained run."""
    cells = simulated_cells(240, ("donor1", "donor2", "donor3", "donor4"), seed=0)
    cells.write_h5ad(directory / "cells.h5ad")
    cells.write_zarr(directory / "cells.zarr")
    for name, donors in {"new_cells": ("donor1", "donor2"), "new1": ("donor5",), "new2": ("donor6",)}.items():
        simulated_cells(120, donors, seed=len(name) + ord(name[-1])).write_h5ad(directory / f"{name}.h5ad")
    images = directory / "images"
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 32), dtype=np.uint8)
    for index, values in enumerate(pixels):
        Image.fromarray(values).save(images / f"{index}.png")
