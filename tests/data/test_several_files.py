"""Several files as one: genes are matched by their names, wherever these are, in memory and from disk alike."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.exceptions import DataError

from .reading import read_query

IDS = [f"id{number}" for number in range(6)]
ORDER = [3, 1, 0, 2, 5, 4]  # of the genes in the second file
COUNTS = np.random.default_rng(0).poisson(2.0, (40, 6)).astype(np.float32)


def write(folder: Path, names: tuple[list[str], list[str]], raw: bool) -> list[str]:
    """Write two files with equal columns of identifiers and the given ``var_names``."""
    paths = []
    for part, rows, order in ((0, slice(25), list(range(6))), (1, slice(25, None), ORDER)):
        adata = anndata.AnnData(sparse.csr_matrix(COUNTS[rows][:, order]))
        adata.obs_names = [f"{part}-{cell}" for cell in range(adata.n_obs)]
        adata.var["ids"] = [IDS[column] for column in order]
        adata.var_names = names[part]
        if raw:
            adata.raw = adata.copy()
            adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray()))
        paths.append(str(folder / f"{part}.h5ad"))
        adata.write_h5ad(paths[-1])
    return paths


NAMES = {
    "names differ": (list("abcdef"), list("uvwxyz")),
    "names of other genes": (list("abcdef"), list("abcdef")),
    "names are not unique": (list("aabcde"), list("aaaxyz")),
}


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("names", NAMES)
def test_genes_are_matched_by_their_column(tmp_path: Path, names: str, raw: bool) -> None:
    paths, layer = write(tmp_path, NAMES[names], raw), "raw" if raw else None
    prints = []
    for mode in ("in_memory", "streamed"):
        data = GeneExpressionData(path=paths, layer=layer, gene_name_key="ids", mode=mode)  # type: ignore[arg-type]
        assert data.feature_names == IDS
        assert np.array_equal(data.dataset.__getitems__(range(40)).x.numpy(), COUNTS)
        prints.append(data.fingerprint)
    assert prints[0] == prints[1]
    table = data.adata.raw.var if raw else data.adata.var
    assert list(table["ids"]) == IDS
    assert list(table.index) == NAMES[names][0]
    query = read_query(paths, data.state_dict(), layer)
    assert not query.missing_genes
    assert np.array_equal(query.dataset.__getitems__(range(40)).x.numpy(), COUNTS)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize("mode", ["in_memory", "streamed"])
@pytest.mark.parametrize("order", [1, -1])
def test_labels_of_some_files(tmp_path: Path, mode: str, order: int) -> None:
    """A reference with labels next to cells without them; numbers that only some files have are no labels."""
    labeled, others = (simulate_counts(100, 20, seed=seed) for seed in (0, 1))
    labeled.obs["known"] = labeled.obs["cluster"].astype(str).to_numpy()
    labeled.obs["score"] = 1.0
    paths = [tmp_path / "labeled.h5ad", tmp_path / "others.h5ad"]
    for cells, path in zip((labeled, others), paths, strict=True):
        cells.write_h5ad(path)
    data = GeneExpressionData(path=paths[::order], observed_key="known", mode=mode)
    assert data.observed_labels is not None
    first = slice(0, 100) if order == 1 else slice(100, 200)
    names = np.array(data.observed_categories["known"])[data.observed_labels[first]]
    np.testing.assert_array_equal(names, labeled.obs["known"])
    assert (data.observed_labels >= 0).sum() == 100
    assert "score" not in data.adata.obs
    with pytest.raises(DataError, match=r"batch_key='known': 100 of 200 cells .* have no batch \(NaN\)"):
        GeneExpressionData(path=paths, batch_key="known", mode=mode).setup()


@pytest.mark.parametrize("mode", ["in_memory", "streamed"])
def test_without_the_column_names_must_agree(tmp_path: Path, mode: str) -> None:
    paths = write(tmp_path, NAMES["names differ"], raw=False)
    with pytest.raises(DataError, match="different genes"):
        GeneExpressionData(path=paths, mode=mode).setup()  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [None, np.nan])
def test_names_must_be_there(missing: object) -> None:
    adata = anndata.AnnData(COUNTS)
    adata.var.index = ["a", "b", missing, "c", "d", "e"]
    with pytest.raises(
        DataError, match=r"var_names: 1 of 6 genes of AnnData in memory have no name \(NaN\), the first is gene 2"
    ):
        GeneExpressionData(adata).setup()
