"""A ``layer`` argument means one matrix, the same in memory, in a file, in several, and in a query."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from vaekit import GaussianVAE
from vaekit.analysis import prepare_query
from vaekit.data import GeneExpressionData
from vaekit.data.cells.matrices import find_matrix, layer_name
from vaekit.exceptions import DataError
from vaekit.likelihoods import Poisson
from vaekit.models import VAE

COUNTS = np.random.default_rng(0).poisson(1.0, (30, 6)).astype(np.float32)
COUNTS[:, 0] += 1
FACTORS = {"/X": 1, "/layers/X": 2, "/raw/X": 3, "/layers/raw": 4, "/layers/counts": 5}


def cells(*places: str) -> anndata.AnnData:
    """Cells whose matrices differ by a factor each; .raw has its genes in another order."""
    adata = anndata.AnnData(sparse.csr_matrix(COUNTS))
    adata.var_names = [f"g{number}" for number in range(6)]
    if "/raw/X" in places:
        adata.raw = anndata.AnnData(sparse.csr_matrix(COUNTS * 3), var=adata.var)[:, ::-1].copy()
    for place in places:
        if place.startswith("/layers/"):
            adata.layers[place.removeprefix("/layers/")] = sparse.csr_matrix(COUNTS * FACTORS[place])
    return adata


def factor(dataset: object, genes: list[str]) -> float:
    """Return which matrix was read."""
    found = dataset.__getitems__(list(range(30))).x.numpy()  # type: ignore[attr-defined]
    found = found[:, [genes.index(f"g{number}") for number in range(6)]]
    np.testing.assert_array_equal(found, COUNTS * (value := found[0, 0] / COUNTS[0, 0]))
    return float(value)


MEANINGS = [
    (None, (), "/X"),
    (None, ("/layers/X",), "/X"),
    ("X", ("/layers/counts",), "/X"),
    ("X", ("/layers/X",), "/layers/X"),
    ("/X", ("/layers/X",), "/X"),
    ("/layers/X", ("/layers/X",), "/layers/X"),
    ("raw", ("/raw/X",), "/raw/X"),
    ("raw", ("/layers/raw",), "/layers/raw"),
    ("raw", ("/layers/raw", "/raw/X"), "/layers/raw"),
    ("/raw/X", ("/layers/raw", "/raw/X"), "/raw/X"),
    ("/layers/raw", ("/layers/raw", "/raw/X"), "/layers/raw"),
    ("counts", ("/layers/counts", "/raw/X"), "/layers/counts"),
    ("/layers/counts", ("/layers/counts",), "/layers/counts"),
]


@pytest.mark.filterwarnings("ignore:.*the layer is read")
@pytest.mark.parametrize("where", ["memory", "backed", "in_memory", "streamed", "two files", "zarr"])
@pytest.mark.parametrize(("layer", "places", "right"), MEANINGS)
def test_one_meaning_everywhere(
    tmp_path: Path, layer: str | None, places: tuple[str, ...], right: str, where: str
) -> None:
    adata = cells(*places)
    paths = [str(tmp_path / "a.h5ad")]
    if where == "zarr":
        paths = [str(tmp_path / "a.zarr")]
        adata.write_zarr(paths[0])
    elif where == "two files":
        paths = [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]
        adata[:10].write_h5ad(paths[0])
        adata[10:, ::-1].write_h5ad(paths[1])
    elif where != "memory":
        adata.write_h5ad(paths[0])
    source = {"path": paths} if where != "memory" else {"adata": adata}
    if where == "backed":
        source = {"adata": anndata.read_h5ad(paths[0], backed="r")}
    mode = where if where in ("in_memory", "streamed") else "auto"
    data = GeneExpressionData(**source, layer=layer, mode=mode)  # type: ignore[arg-type]
    assert factor(data.dataset, data.feature_names) == FACTORS[right]
    assert data.state_dict()["matrix"] == right


def trained(adata: anndata.AnnData, layer: str | None) -> VAE:
    data = GeneExpressionData(adata, layer=layer)
    model = GaussianVAE(data.features, Poisson(), data.covariates, latent_dim=2, hidden=(4,))
    model.data_registry = data.state_dict()
    return model.eval()


@pytest.mark.filterwarnings("ignore:.*the layer is read")
@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(("layer", "places", "right"), MEANINGS)
def test_a_query_reads_what_the_model_was_trained_on(
    tmp_path: Path, layer: str | None, places: tuple[str, ...], right: str, as_file: bool
) -> None:
    model, full = trained(cells(*places), layer), cells(*FACTORS)
    source = tmp_path / "full.h5ad" if as_file else full
    if as_file:
        full.write_h5ad(source)
    query = prepare_query(model, source, None, None)
    assert factor(query.dataset, model.data_registry["feature_names"]) == FACTORS[right]
    query = prepare_query(model, source, "/layers/counts", None)
    assert factor(query.dataset, model.data_registry["feature_names"]) == 5


@pytest.mark.parametrize("as_file", [False, True])
def test_a_query_without_it_is_told_what_there_is(tmp_path: Path, as_file: bool) -> None:
    for places, layer, others, message in (
        (("/raw/X",), "raw", ("/layers/raw",), r"layer='/raw/X' not found in .*'raw'"),
        (("/layers/raw",), "raw", ("/raw/X",), r"layer='/layers/raw' not found in .*'raw', 'X'"),
        (("/layers/counts",), "counts", ("/layers/raw",), r"layer='counts' not found in .*'raw', 'X'"),
    ):
        adata = cells(*others)
        source = tmp_path / "other.h5ad" if as_file else adata
        if as_file:
            adata.write_h5ad(source)
        with pytest.raises(DataError, match=message):
            prepare_query(trained(cells(*places), layer), source, None, None)


def test_a_name_of_two_is_warned_of() -> None:
    for layer, places in (("raw", ("/raw/X", "/layers/raw")), ("X", ("/layers/X",))):
        with pytest.warns(UserWarning, match=rf"layer='{layer}': .*\.layers\['{layer}'\] and \.{layer}; the layer is"):
            GeneExpressionData(cells(*places), layer=layer).setup()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GeneExpressionData(cells("/raw/X", "/layers/raw"), layer="/raw/X").setup()
        GeneExpressionData(cells("/layers/raw"), layer="raw").setup()


@pytest.mark.parametrize("layer", ["/raw", "/layers/", "/nowhere", "/layers/none", "layers/raw", "none", ""])
def test_no_such_matrix(layer: str) -> None:
    with pytest.raises(DataError, match=r"not found in file. ([Aa]vailable|[Dd]id you)"):
        find_matrix(layer, ["raw", "counts"], False, "file")


@pytest.mark.parametrize("path", FACTORS)
def test_names_lead_back(path: str) -> None:
    for layers in (["raw", "X", "counts"], ["counts", *([path.rpartition("/")[2]] if "layers" in path else [])]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert find_matrix(layer_name(path, layers), layers, True, "file") == path


@pytest.mark.parametrize("as_file", [False, True])
def test_the_matrix_with_the_counts_is_named(tmp_path: Path, as_file: bool) -> None:
    adata = cells("/layers/raw", "/raw/X")
    model = trained(adata, None)
    adata.X = adata.X.log1p()
    source = tmp_path / "a.h5ad" if as_file else adata
    if as_file:
        adata.write_h5ad(source)
    with pytest.raises(DataError, match=r"pass layer='raw' or pass layer='/raw/X'\.$"):
        prepare_query(model, source, None, None)
    with pytest.raises(DataError, match=r"pass layer='raw' or pass layer='/raw/X'\.$"):
        GeneExpressionData(adata).setup()
