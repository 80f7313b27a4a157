"""Counts that stay in their files: the same as in memory, in an order that is nearly as random, with bounded memory."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse, stats
from torch.utils.data import DistributedSampler

from vaekit._core import memory_budget
from vaekit.data import GeneExpressionData
from vaekit.data.cells.backed_counts import StoredMatrix
from vaekit.data.cells.sources import open_counts
from vaekit.data.cells.streamed import BlockShuffle, StreamedDataset
from vaekit.data.dataset import BatchIndexSampler
from vaekit.exceptions import DataError

CELLS, GENES = 9000, 12  # three chunks of reading


def cells(seed: int = 0, number: int = CELLS) -> anndata.AnnData:
    generator = np.random.default_rng(seed)
    counts = sparse.csr_matrix(generator.poisson(0.5, (number, GENES)).astype(np.float32))
    adata = anndata.AnnData(counts)
    adata.var_names = [f"g{i}" for i in range(GENES)]
    adata.obs_names = [f"{seed}_{i}" for i in range(number)]
    adata.obs["donor"] = generator.choice(["a", "b", "c"], number)
    adata.obs["depth"] = generator.gamma(5, 1, number)
    adata.obs["type"] = np.sort(generator.choice(["x", "y"], number))
    adata.layers["doubled"] = counts * 2
    return adata


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    adata = cells()
    adata.write_h5ad(folder / "plain.h5ad")
    adata.write_h5ad(folder / "gzip.h5ad", compression="gzip")
    adata.write_zarr(folder / "store.zarr")
    adata[:2000].write_h5ad(folder / "first.h5ad")
    adata[2000:, ::-1].copy().write_h5ad(folder / "second.h5ad")  # genes in another order
    return folder


ARGUMENTS = [
    {},
    {"layer": "doubled", "batch_key": "donor", "label_key": "type", "size_factor_key": "depth"},
    {"n_top_genes": 5, "categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["depth"]},
]
SOURCES = [["plain.h5ad"], ["gzip.h5ad"], ["store.zarr"], ["first.h5ad", "second.h5ad"]]


def data_of(folder: Path, names: list[str], **arguments: object) -> GeneExpressionData:
    paths = [str(folder / name) for name in names]
    return GeneExpressionData(path=paths[0] if len(paths) == 1 else paths, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("names", SOURCES)
def test_streamed_and_resident_data_are_the_same(folder: Path, names: list[str], arguments: dict) -> None:
    resident = data_of(folder, ["plain.h5ad"], mode="in_memory", **arguments)
    streamed = data_of(folder, names, mode="streamed", **arguments)
    assert isinstance(streamed.dataset, StreamedDataset)
    assert not isinstance(resident.dataset, StreamedDataset)
    same = (
        "fingerprint",
        "feature_names",
        "obs_names",
        "label_categories",
        "batch_categories",
        "features",
        "covariates",
    )
    for name in same:
        assert getattr(streamed, name) == getattr(resident, name), name
    for split, rows in resident.split_indices.items():
        assert torch.equal(rows, streamed.split_indices[split])
    for ours, theirs in zip(streamed.statistics[:3], resident.statistics[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    rows = torch.randperm(CELLS)[:300]
    for loaders in [(d.dataset.__getitems__(rows) for d in (resident, streamed))]:
        expected, found = loaders
        for name in ("x", "size_factor", "covariates", "label", "index"):
            a, b = getattr(expected, name), getattr(found, name)
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b), name
        for a, b in zip(expected.nonzero, found.nonzero, strict=True):
            assert torch.equal(a, b)


def test_several_files_in_memory_are_one(folder: Path) -> None:
    one, two = (data_of(folder, names, mode="in_memory") for names in (["plain.h5ad"], ["first.h5ad", "second.h5ad"]))
    assert one.fingerprint == two.fingerprint


def test_each_cell_once_an_epoch(folder: Path) -> None:
    data = data_of(folder, ["plain.h5ad"], mode="streamed")
    epochs = [torch.cat([batch.index for batch in data.train_dataloader()]) for _ in range(2)]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, data.split_indices["train"])
    assert not torch.equal(*epochs)
    assert torch.equal(torch.cat([batch.index for batch in data.val_dataloader()]), data.split_indices["val"])


def test_memory_holds_a_pool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of(folder, ["plain.h5ad"], mode="streamed")
    dataset = data.dataset
    assert isinstance(dataset, StreamedDataset)
    reads = []
    read = dataset.source.rows
    monkeypatch.setattr(dataset.source, "rows", lambda index: reads.append(tuple(index)) or read(index))
    dataset.block, dataset.pool = 16, 8
    for _ in data.train_dataloader():
        assert len(dataset._blocks) <= 8 + 24  # those of a pool, and of a batch
    assert len(reads) == len(set(reads)) == -(-CELLS // 16)  # each block once


def test_scattered_cells_need_one_block_at_a_time(folder: Path) -> None:
    source = open_counts(str(folder / "plain.h5ad"), None, None, "backed")
    dataset = source.dataset(ordered=True, covariates=None, label=None, size_factor=torch.ones(CELLS, 1))
    assert isinstance(dataset, StreamedDataset)
    dataset.block = 16
    rows = torch.randperm(CELLS)[:200]
    found = dataset.__getitems__(rows).x
    assert len(dataset._blocks) == 1
    np.testing.assert_array_equal(found.numpy(), source.rows(np.arange(CELLS))[rows.numpy()].toarray())


def test_order_is_uniform_within_a_pool() -> None:
    """Chi-square of where each of 4 rows goes, over 6000 orders; false alarm 1e-4."""
    torch.manual_seed(0)
    sampler = BlockShuffle(torch.tensor([0, 3, 4, 9]), block=2, pool=5)
    table = np.zeros((4, 4))
    for _ in range(6000):
        table[np.arange(4), list(sampler)] += 1
    assert stats.chisquare(table.ravel(), ddof=6).pvalue > 1e-4


def test_pools_take_blocks_whole() -> None:
    torch.manual_seed(0)
    order = torch.tensor(list(BlockShuffle(torch.arange(100), block=5, pool=4)))
    assert torch.equal(order.sort().values, torch.arange(100))
    for pool in order.split(20):
        assert len(torch.unique(pool // 5)) == 4
        assert not torch.equal(pool, pool.sort().values)


def test_auto_goes_by_size_and_form(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**33))  # of others, it changes
    path = [str(folder / "plain.h5ad")]
    source = open_counts(path)
    assert source.in_memory
    assert re.search(r"in memory \(mode=auto: .* takes [\d.]+ MB, and 8\.6 GB are free\)", source.storage)
    assert source.storage in GeneExpressionData(path=path[0]).description
    assert open_counts(path, mode="in_memory").storage == "in memory"
    assert open_counts(path, mode="backed").storage == "streamed from disk"
    monkeypatch.setattr(memory_budget, "LOADING_COPIES", 10**9)
    data = GeneExpressionData(path=path[0])
    assert re.search(r"streamed from disk \(mode=auto: .* takes [\d.]+ TB, and 8\.6 GB are free\)", data.description)
    dense = cells(number=50)
    dense.X = dense.X.toarray()
    dense.write_h5ad(tmp_path / "dense.h5ad")
    for mode in ("auto", "backed"):
        source = open_counts(tmp_path / "dense.h5ad", mode=mode)  # type: ignore[arg-type]
        assert source.in_memory
        assert "counts that are not stored as CSR cannot stay in their files" in source.storage


def test_state_goes_from_one_mode_to_the_other(folder: Path) -> None:
    resident = data_of(folder, ["plain.h5ad"], mode="in_memory", seed=3, n_top_genes=4, batch_key="donor")
    streamed = data_of(folder, ["gzip.h5ad"], mode="streamed", seed=5, n_top_genes=7, batch_key="donor")
    streamed.load_state_dict(resident.state_dict())
    assert streamed.feature_names == resident.feature_names
    assert torch.equal(streamed.split_indices["test"], resident.split_indices["test"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda adata: setattr(adata, "X", adata.X.toarray()), "is stored as array, but only CSR .*in_memory"),
        (lambda adata: setattr(adata, "X", adata.X.tocsc()), "stored as csc_matrix"),
        (lambda adata: setattr(adata, "X", -adata.X), "negative, the first"),
        (lambda adata: setattr(adata, "X", adata.X * 0.5), r"not whole.* row 4"),
        (lambda adata: setattr(adata, "var_names", ["g0"] * GENES), "1 gene name occurs more than once"),
    ],
)
def test_what_cannot_be_streamed_is_named(tmp_path: Path, change, message: str) -> None:
    adata = cells(number=5000)
    if "row 4" in message:  # the value that is wrong stands in the second chunk
        values = adata.X.tolil()
        values[4500, 3] = 0.5
        adata.X = values.tocsr()
        message = r"not whole, the first 0.5 in cell '0_4500' \(row 4500\), gene 'g3'"
    else:
        change(adata)
    adata.write_h5ad(tmp_path / "odd.h5ad")
    with pytest.raises(DataError, match=message):
        GeneExpressionData(path=str(tmp_path / "odd.h5ad"), mode="streamed").setup()


def test_arguments_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(DataError, match="mode='stream'"):
        GeneExpressionData(mode="stream")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="requires path"):
        GeneExpressionData(cells(), mode="streamed")
    with pytest.raises(DataError, match="must name at least one file"):
        GeneExpressionData(path=[])
    with pytest.raises(DataError, match="layer='nothing'"):
        data_of(folder, ["plain.h5ad"], mode="streamed", layer="nothing").setup()
    with pytest.raises(DataError, match="is a directory"):
        GeneExpressionData(path=str(folder), mode="streamed").setup()


def test_files_with_different_genes(folder: Path, tmp_path: Path) -> None:
    cells()[:, :7].copy().write_h5ad(tmp_path / "fewer.h5ad")
    paths = [str(folder / "plain.h5ad"), str(tmp_path / "fewer.h5ad")]
    for mode in ("in_memory", "streamed"):
        with pytest.raises(DataError, match=r"5 are in one of them only, such as g10, g11, g7, g8, g9"):
            GeneExpressionData(path=paths, mode=mode).setup()  # type: ignore[arg-type]


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "junk.h5ad").write_bytes(b"junk" * 1000)
    with pytest.raises(DataError, match="cannot be read"):
        StoredMatrix(str(tmp_path / "junk.h5ad"), None)


def test_two_processes_have_each_cell_once(folder: Path) -> None:
    """As Lightning does it: the batches' sampler is made again with torch's ``DistributedSampler``."""
    data = data_of(folder, ["plain.h5ad"], mode="streamed", batch_size=100)
    rows = data.split_indices["train"]
    for epoch in range(2):
        shares = []
        for rank in range(2):
            torch.manual_seed(rank)  # each process has a state of its own
            loader = data.train_dataloader()
            sampler = DistributedSampler(loader.dataset, num_replicas=2, rank=rank, shuffle=True, seed=3)
            sampler.set_epoch(epoch)
            made = loader.batch_sampler
            batches = BatchIndexSampler(sampler, made.batch_size, made.drop_last, even=made.even, order=made.order)
            shares.append([loader.dataset.__getitems__(batch).index for batch in batches])
        assert len(shares[0]) == len(shares[1])
        assert torch.equal(torch.cat([part for share in shares for part in share]).sort().values, rows)
