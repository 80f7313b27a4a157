"""Values that are not whole: each kind has its message, and estimated counts are rounded if that is declared."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from vaekit._core import memory_budget
from vaekit.data import GeneExpressionData, prepare_query
from vaekit.data.cells.count_checks import check_values
from vaekit.data.cells.estimated_counts import Rounding
from vaekit.data.cells.sources import open_counts
from vaekit.exceptions import DataError

CELLS, GENES = 300, 60


def whole_counts(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.4, 4.0, GENES) * rng.gamma(4.0, 0.25, (CELLS, 1))
    counts = rng.poisson(mean)
    counts[:, 0] += 1  # no cell is empty
    return counts.astype(np.float64)


def soupx(counts: np.ndarray, contamination: float = 0.05) -> np.ndarray:
    """Return counts less their expected contamination, as SoupX's method "subtraction" without rounding."""
    profile = counts.sum(0) / counts.sum()
    return np.maximum(counts - contamination * counts.sum(1, keepdims=True) * profile, 0)


def rsem(counts: np.ndarray) -> np.ndarray:
    """Return expected counts: some of the reads are shared with other genes."""
    shared = np.random.default_rng(1).uniform(size=counts.shape) < 0.3
    return np.where(shared & (counts > 0), counts + np.random.default_rng(2).uniform(-0.5, 0.5, counts.shape), counts)


def normalized(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum(1, keepdims=True) * 1e4


def adata(values: np.ndarray) -> AnnData:
    cells = AnnData(sparse.csr_matrix(values))
    cells.var_names = [f"g{index}" for index in range(cells.n_vars)]
    cells.obs_names = [f"c{index}" for index in range(cells.n_obs)]
    return cells


def scaled(counts: np.ndarray) -> np.ndarray:
    cells = adata(np.log1p(normalized(counts)))
    sc.pp.scale(cells)
    return np.asarray(cells.X)


ESTIMATED = {
    "SoupX": (soupx, "most are near whole numbers, like counts that SoupX or DecontX have corrected"),
    "RSEM": (rsem, "other values are whole. They look like estimated counts, such as those of RSEM"),
    "rounding error": (lambda x: np.expm1(np.log1p(x)) + 1e-7 * (x > 0), "differ from whole numbers by .* a rounding"),
}
TRANSFORMED = {
    "log1p of counts": (np.log1p, "look log-transformed"),
    "log-normalized": (lambda x: np.log1p(normalized(x)), r"log1p of counts scaled to 1e\+04 per cell"),
    "log-normalized, fewer genes": (lambda x: np.log1p(normalized(x))[:, :30], "look log-normalized. Pass the counts"),
    "log2-normalized, fewer genes": (lambda x: np.log2(1 + normalized(x))[:, :30], "look log-normalized. Pass"),
    "normalized": (normalized, "look normalized: counts times a factor per cell"),
    "normalized, fewer genes": (lambda x: normalized(x)[:, :30], "look normalized: counts times a factor per cell"),
    "log-normalized after SoupX": (lambda x: np.log1p(normalized(soupx(x)))[:, :30], "look log-normalized"),
    "square roots": (np.sqrt, "look like square roots"),
    "scaled": (scaled, "look scaled or batch-corrected"),
}


@pytest.mark.parametrize("kind", ESTIMATED)
def test_estimated_counts_are_rejected_with_the_remedy(kind: str) -> None:
    function, message = ESTIMATED[kind]
    remedy = r"Pass round_counts=True \(--data.round_counts true\) to round estimated"
    with pytest.raises(DataError, match=f"{message}.* {remedy}"):
        GeneExpressionData(adata(function(whole_counts()))).setup()


@pytest.mark.parametrize("round_counts", [False, True])
@pytest.mark.parametrize("kind", TRANSFORMED)
def test_transformed_values_are_always_rejected(kind: str, round_counts: bool) -> None:
    function, message = TRANSFORMED[kind]
    with pytest.raises(DataError, match=message) as error:
        GeneExpressionData(adata(function(whole_counts())), round_counts=round_counts).setup()
    assert "round_counts" not in str(error.value)


@pytest.mark.parametrize("mode", ["in_memory", "streamed"])
@pytest.mark.parametrize("chunk", [None, 70])
@pytest.mark.parametrize("kind", ESTIMATED)
def test_estimated_counts_are_rounded_with_a_note(
    tmp_path: Path, kind: str, mode: Any, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk is not None:
        monkeypatch.setattr(memory_budget, "CHUNK_CELLS", chunk)
    values = ESTIMATED[kind][0](whole_counts())
    values[: chunk or 0] = np.rint(values[: chunk or 0])  # nothing to round in the first chunk
    path = tmp_path / "cells.h5ad"
    adata(values).write_h5ad(path)
    data = GeneExpressionData(path=str(path), mode=mode, round_counts=True)
    expected = np.rint(values)
    changed, change = values != expected, expected.sum() / values.sum() - 1
    with pytest.warns(UserWarning, match="round_counts=True rounded") as notes:
        data.setup()
    x = data.dataset.__getitems__(list(range(CELLS))).x.numpy()
    (note,) = [str(note.message) for note in notes if "round_counts" in str(note.message)]
    assert f"rounded {changed.sum()} of {(values != 0).sum()} values" in note
    assert f"the total count changes by {change:+.2%}." in note
    np.testing.assert_array_equal(x, expected)


def test_whole_counts_are_accepted_without_a_note() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for round_counts in (False, True):  # CellBender writes whole counts
            GeneExpressionData(adata(whole_counts()), round_counts=round_counts).setup()


def test_rounding_equals_rounded_data() -> None:
    values = soupx(whole_counts())
    rounded = GeneExpressionData(adata(values), round_counts=True, n_top_genes=20)
    with pytest.warns(UserWarning, match="round_counts=True"):
        rounded.setup()
    before = GeneExpressionData(adata(np.rint(values)), n_top_genes=20)
    assert rounded.fingerprint == before.fingerprint
    assert rounded.feature_names == before.feature_names
    assert rounded.mean.equal(before.mean)


def test_a_query_is_treated_like_the_training_data() -> None:
    values = soupx(whole_counts(1))
    data = GeneExpressionData(adata(soupx(whole_counts())), round_counts=True)
    with pytest.warns(UserWarning, match="round_counts=True"):
        registry = data.state_dict()
    with pytest.warns(UserWarning, match="AnnData in memory, .X: round_counts=True rounded"):
        query = prepare_query(open_counts(adata(values)), registry)
    np.testing.assert_array_equal(query.dataset.__getitems__(list(range(CELLS))).x.numpy(), np.rint(values))
    registry = GeneExpressionData(adata(whole_counts())).state_dict()
    with pytest.raises(DataError, match=r"SoupX or .*trained on counts without rounding .*numpy\.rint"):
        prepare_query(open_counts(adata(values)), registry)


def test_few_values_are_no_evidence_against_a_declaration(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0.2, 3.0, (400, 20)) * (np.arange(20) < 4)
    values[:, 0] = 50 + np.arange(400) % 7  # no logarithm
    adata(values).write_h5ad(tmp_path / "cells.h5ad")
    source = open_counts(tmp_path / "cells.h5ad", mode="backed").round_counts(True)
    for index in ([3], [5, 17], list(range(40, 90))):
        np.testing.assert_array_equal(source.rows(np.array(index)).toarray(), np.rint(values[index]))


def test_a_small_part_of_accepted_values_is_not_judged_again(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0.2, 9, (CELLS, GENES)).astype(np.float32)
    values[0, 0] = 50.4  # the other cells alone look log-normalized
    path = tmp_path / "cells.h5ad"
    adata(values).write_h5ad(path)
    data = GeneExpressionData(path=str(path), mode="streamed", round_counts=True)
    with pytest.warns(UserWarning, match="round_counts=True rounded"):
        data.setup()
    data.dataset.block = 64
    batch = data.dataset.__getitems__(range(100, 200))
    np.testing.assert_array_equal(batch.x.numpy(), np.rint(values[100:200]))


def test_the_message_names_the_row_of_the_file() -> None:
    counts = sparse.csr_matrix(np.array([[3.0, 1.5], [1.0, 2.0**24 + 1]]))
    with pytest.raises(DataError, match=r"cell 'b' \(row 101\)"):
        check_values(counts, "cells", ["a", "b"], ["g", "h"], 100, Rounding())
