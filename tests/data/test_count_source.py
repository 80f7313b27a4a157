"""Sources of counts: any storage returns the same rows for any cells and genes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from vaekit.data.cells.sources import open_counts

COUNTS = np.random.default_rng(0).poisson(0.7, (90, 12)).astype(np.float32)


def cells(rows: slice = slice(None), form: Callable = sparse.csr_matrix) -> AnnData:
    adata = AnnData(form(COUNTS[rows]))
    adata.var_names = [f"g{index}" for index in range(12)]
    adata.obs_names = [f"c{index}" for index in range(90)[rows]]
    return adata


def write(adata: AnnData, path: Path) -> Path:
    (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)
    return path


SOURCES: dict[str, Callable[[Path], Any]] = {
    "CSR": lambda _: cells(),
    "CSC": lambda _: cells(form=sparse.csc_matrix),
    "dense": lambda _: cells(form=np.asarray),
    "h5ad": lambda path: write(cells(), path / "a.h5ad"),
    "zarr": lambda path: write(cells(), path / "a.zarr"),
    "dense h5ad": lambda path: write(cells(form=np.asarray), path / "a.h5ad"),
    "two files": lambda path: [
        write(cells(slice(40)), path / "a.h5ad"),
        write(cells(slice(40, None))[:, ::-1].copy(), path / "b.h5ad"),
    ],
}


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("mode", ["in_memory", "backed"])
@pytest.mark.parametrize("name", SOURCES)
def test_rows_of_any_cells_and_genes(tmp_path: Path, name: str, mode: Any) -> None:
    source = open_counts(SOURCES[name](tmp_path), mode=mode)
    assert source.in_memory == (mode == "in_memory" or name not in ("h5ad", "zarr", "two files"))
    assert list(source.obs.index) == [f"c{index}" for index in range(90)]
    selected = source.select_genes(["g7", "other", "g2"])
    expected = np.stack([COUNTS[:, 7], np.zeros(90), COUNTS[:, 2]], 1)
    for index in (np.arange(30, 60), np.array([5]), np.array([80, 3, 4, 5, 5, 39, 40, 41, 0])):
        rows = source.rows(index)
        assert rows.dtype == np.float32
        assert rows.has_canonical_format
        np.testing.assert_array_equal(rows.toarray(), COUNTS[index])
        np.testing.assert_array_equal(selected.rows(index).toarray(), expected[index])
    np.testing.assert_array_equal(source.totals(), COUNTS.sum(1))
    totals, mean, mean_log1p = selected.statistics(np.arange(0, 90, 7))
    np.testing.assert_array_equal(totals, expected.sum(1))
    np.testing.assert_allclose(mean, expected[::7].mean(0))
    np.testing.assert_allclose(mean_log1p, np.log1p(expected[::7]).mean(0), rtol=1e-6)
    identity, sample = source.fingerprint(np.array([2, 50]))
    np.testing.assert_array_equal(sample.toarray(), COUNTS[[2, 50]])
    assert identity == open_counts(cells()).fingerprint()[0]
    columns = {"covariates": None, "label": None, "size_factor": torch.ones(90, 1)}
    for dataset in (selected.dataset(**columns), selected.dataset(ordered=True, **columns)):
        np.testing.assert_array_equal(dataset.__getitems__([4, 2, 70]).x.numpy(), expected[[4, 2, 70]])
