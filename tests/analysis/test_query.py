"""Cells that stay in their file give a model what the same cells in memory give it."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from vaekit import GaussianVAE
from vaekit._core.memory_budget import CHUNK_CELLS
from vaekit.analysis import differential_expression, latent_fields, normalized_expression, prepare_query
from vaekit.analysis.model_source import open_cells
from vaekit.data import GeneExpressionData
from vaekit.data.cells.streamed import StreamedDataset
from vaekit.exceptions import CheckpointError, DataError
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE

GENES, CELLS = 20, 2 * CHUNK_CELLS + 700  # three chunks


def cells() -> AnnData:
    generator = np.random.default_rng(0)
    counts = generator.poisson(0.4, (CELLS, GENES)).astype(np.float32)
    counts[5] = 0  # a cell without counts
    adata = AnnData(sparse.csr_matrix(counts))
    adata.var_names = [f"g{i}" for i in range(GENES)]
    adata.obs["donor"] = generator.choice(["a", "b"], CELLS)
    adata.obs["depth"] = generator.gamma(5, 1, CELLS)
    adata.obs["kind"] = np.where(np.arange(CELLS) % 50 == 0, "rare", "common")
    adata.layers["umi"] = adata.X * 2
    adata.raw = adata[:, ::-1].copy()
    return adata


def trained(adata: AnnData, **arguments: object) -> VAE:
    """A model that knows its data; its weights are of no concern."""
    data = GeneExpressionData(adata, **arguments)  # type: ignore[arg-type]
    model = GaussianVAE(data.features, NegativeBinomial(), data.covariates, latent_dim=2, hidden=(4,))
    model.data_registry = data.state_dict()
    return model.eval()


@pytest.fixture(scope="module")
def adata() -> AnnData:
    with pytest.warns(UserWarning, match="1 of 8892 cells have no counts"):
        trained(cells())
    return cells()


ARGUMENTS = {
    "plain": {},
    "columns": {"batch_key": "donor", "continuous_covariate_keys": ["depth"], "label_key": "kind"},
    "size factors": {"size_factor_key": "depth", "layer": "umi"},
    "raw": {"layer": "raw"},
}
CHANGES = {
    "as they are": lambda adata: adata,
    "other order": lambda adata: adata[:, np.random.default_rng(1).permutation(GENES)].copy(),
    "fewer genes": lambda adata: adata[:, 4:].copy(),
}


@pytest.mark.filterwarnings("ignore:.*no counts:UserWarning", "ignore:.*lacks 4:UserWarning")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_the_same_batches(adata: AnnData, tmp_path: Path, arguments: str, change: str) -> None:
    model, changed = trained(adata, **ARGUMENTS[arguments]), CHANGES[change](adata)
    changed.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    label_key = "kind" if arguments == "columns" else None
    inside, outside = (
        prepare_query(model, where, None, None, label_key) for where in (changed, tmp_path / "cells.h5ad")
    )
    assert isinstance(outside.dataset, StreamedDataset)
    assert outside.adata.X is None
    assert outside.obs_names == inside.obs_names
    assert outside.missing_genes == inside.missing_genes
    assert outside.labels.tolist() == inside.labels.tolist()
    assert outside.source == str(tmp_path / "cells.h5ad")
    generator = torch.Generator().manual_seed(2)
    for rows in (
        torch.arange(CHUNK_CELLS - 3, CHUNK_CELLS + 5),  # across a border
        torch.arange(0, CELLS, 50),  # a few of every chunk
        torch.randint(CELLS, (64,), generator=generator),  # any order, twice the same
        torch.tensor([5]),
    ):
        first, second = inside.dataset.__getitems__(rows), outside.dataset.__getitems__(rows)
        for one, other in zip(first.nonzero, second.nonzero, strict=True):
            assert torch.equal(one, other)
        for name in set(first._fields) - {"nonzero"}:
            one, other = getattr(first, name), getattr(second, name)
            assert (one is None) == (other is None), name
            assert one is None or torch.equal(one, other), name


@pytest.mark.filterwarnings("ignore:.*no counts:UserWarning")
def test_the_same_results(adata: AnnData, tmp_path: Path) -> None:
    adata.write_zarr(tmp_path / "cells.zarr")
    model = trained(adata, batch_key="donor")
    files = [adata.copy(), tmp_path / "cells.zarr"]
    latents = [latent_fields(prepare_query(model, source, None, None), model)["obsm"]["X_vaekit"] for source in files]
    np.testing.assert_array_equal(*latents)
    tables = [differential_expression(source, model, "kind", "rare") for source in files]
    assert tables[0].equals(tables[1])
    assert len(tables[0]) == GENES


def test_only_a_chunk_is_in_memory(adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model = trained(adata)
    for reader in ("read_h5ad", "read_zarr"):
        monkeypatch.setattr(anndata, reader, lambda *_: pytest.fail("the file is read whole"))
    with pytest.warns(UserWarning, match="no counts"):
        query = prepare_query(model, tmp_path / "cells.h5ad", None, None)
    longest = 0
    read = query.dataset.source.rows  # type: ignore[attr-defined]

    def watched(index: np.ndarray) -> sparse.csr_matrix:
        nonlocal longest
        longest = max(longest, len(index))
        return read(index)

    monkeypatch.setattr(query.dataset.source, "rows", watched)  # type: ignore[attr-defined]
    assert len(latent_fields(query, model)["obsm"]["X_vaekit"]) == CELLS
    assert longest == CHUNK_CELLS
    assert len(query.dataset._blocks) == 1  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*no counts:UserWarning")
class TestErrors:
    def test_what_is_wrong_is_told_before_the_counts_are_read(
        self, adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "cells.h5ad"
        model, sized = trained(adata, batch_key="donor"), trained(adata, size_factor_key="depth")
        other = adata.copy()
        other.obs = other.obs.drop(columns=["donor", "depth"])
        other.write_h5ad(file)
        monkeypatch.setattr(
            "vaekit.data.cells.backed_counts.BackedCounts._read", lambda *_: pytest.fail("counts are read")
        )
        for asked, message in ((model, r"batch_key='donor' not found in \.obs of .*cells\.h5ad"), (sized, "'depth'")):
            with pytest.raises(DataError, match=message):
                prepare_query(asked, file, None, None)
        with pytest.raises(DataError, match=r"group1='C' not found in \.obs\['kind'\] of .*cells\.h5ad"):
            differential_expression(file, model, "kind", "C")
        other.var_names = [f"x{name}" for name in other.var_names]
        other.write_h5ad(file)
        with pytest.raises(DataError, match=r"cells\.h5ad has 0 of the checkpoint's 20 genes"):
            prepare_query(trained(adata), file, None, None)

    def test_the_layer_with_the_counts_is_named(self, adata: AnnData, tmp_path: Path) -> None:
        logs, file = adata.copy(), tmp_path / "cells.h5ad"
        logs.X = logs.X.log1p()
        logs.write_h5ad(file)
        with pytest.raises(
            DataError,
            match=r"cells\.h5ad, \.X must hold counts: .*available: pass layer='umi' or pass layer='raw'",
        ):
            prepare_query(trained(adata), file, None, None)
        del logs.raw, logs.layers["umi"]
        logs.write_h5ad(file)
        with pytest.raises(DataError, match="No other matrix"):
            prepare_query(trained(adata), file, None, None)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("indptr", lambda x: np.concatenate([x[:2], x[1:2] - 1, x[3:]])),
            ("indptr", lambda x: x[:-1]),
            ("indptr", lambda x: x + 1),
            ("data", lambda x: x[:-7]),
            ("indices", lambda x: np.concatenate([x[:-1], [GENES]])),
            ("indices", lambda x: np.concatenate([[-1], x[1:]])),
        ],
    )
    def test_damaged_matrices(self, adata: AnnData, tmp_path: Path, name: str, values: object) -> None:
        adata.write_h5ad(tmp_path / "cells.h5ad")
        with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
            found = file["X"][name][:]
            del file["X"][name]
            file["X"][name] = values(found)  # type: ignore[operator]
        with pytest.raises(DataError, match="is not a complete CSR matrix"):
            prepare_query(trained(adata), tmp_path / "cells.h5ad", None, None)

    def test_damaged_tables(self, adata: AnnData, tmp_path: Path) -> None:
        adata.write_h5ad(tmp_path / "cells.h5ad")
        with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
            del file["obs"]["donor"]
        model = trained(adata)
        for reading in (lambda path: open_cells(model, path), lambda path: prepare_query(model, path)):
            with pytest.raises(DataError, match=r"cells\.h5ad cannot be read.*obs"):
                reading(str(tmp_path / "cells.h5ad"))

    def test_a_model_of_images(self, tmp_path: Path) -> None:
        model = GaussianVAE(4, NegativeBinomial(), latent_dim=2, hidden=(4,))
        model.data_registry = {"fingerprint": "0"}
        with pytest.raises(CheckpointError, match="trained on images"):
            prepare_query(model, tmp_path / "none.h5ad", None, None)


def test_a_layer_that_cannot_stay_is_read(adata: AnnData, tmp_path: Path) -> None:
    dense = adata[:50].copy()
    dense.X = dense.X.toarray()
    dense.write_h5ad(tmp_path / "dense.h5ad")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        query = prepare_query(trained(adata), tmp_path / "dense.h5ad", None, None)
    assert not isinstance(query.dataset, StreamedDataset)
    assert query.source == str(tmp_path / "dense.h5ad")
    assert any("no counts" in str(warning.message) for warning in caught)
    assert torch.equal(query.dataset.__getitems__([3]).x, torch.from_numpy(dense.X[3:4]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("as_file", [False, True])
def test_ensembl_identifiers_with_versions(adata: AnnData, tmp_path: Path, as_file: bool) -> None:
    """The same batches, and the columns of what is written are those of the genes."""
    bare = adata[:60].copy()
    bare.var_names = [f"ENSG{number:011d}" for number in range(GENES)]
    del bare.raw
    model = trained(bare)
    versioned = bare[:, ::-1].copy()
    versioned.var_names = [f"{name}.{number}" for number, name in enumerate(versioned.var_names)]
    versioned.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.warns(UserWarning, match=r"20 of the checkpoint's 20 genes were matched without the version"):
        query = prepare_query(model, tmp_path / "cells.h5ad" if as_file else versioned, None, None)
    assert query.missing_genes == []
    rows = torch.arange(60)
    assert torch.equal(
        query.dataset.__getitems__(rows).x, prepare_query(model, bare, None, None).dataset.__getitems__(rows).x
    )
    if not as_file:
        for cells_ in (bare, versioned):
            normalized_expression(cells_, model, key_added="denoised")
        np.testing.assert_allclose(versioned.layers["denoised"], bare.layers["denoised"][:, ::-1], rtol=1e-5)
