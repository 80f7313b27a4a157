"""Every form of file is read as the same cells; files that are not one of them are rejected with a remedy."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata import AnnData

from vaekit.data import GeneExpressionData, open_counts, read_cells
from vaekit.exceptions import DataError, MissingPackageError

from .format_files import FORMATS, write_10x_directory, write_10x_h5, write_10x_h5_v2, write_h5mu, write_loom

pytest.importorskip("loompy")
pytest.importorskip("mudata")


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_gives_the_same_cells(form: str, make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    expected = make_adata()
    path = FORMATS[form](expected, tmp_path)
    cells = read_cells(path)
    assert list(cells.obs_names) == list(expected.obs_names)
    assert list(cells.var_names) == list(expected.var_names)
    np.testing.assert_array_equal(cells.to_df(), expected.to_df())
    source = open_counts(str(path))
    np.testing.assert_array_equal(source.rows(np.array([3, 7])).toarray(), expected.X[[3, 7]].toarray())
    assert source.name == str(path)
    assert source.in_memory
    cells.write_h5ad(tmp_path / "copy.h5ad")
    same, direct = (GeneExpressionData(path=str(file), batch_size=8) for file in (tmp_path / "copy.h5ad", path))
    assert same.state_dict()["fingerprint"] == direct.state_dict()["fingerprint"]
    assert str(path) in direct.description


def test_columns_of_cells_and_genes(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    cells = make_adata()
    loom, h5mu = read_cells(write_loom(cells, tmp_path)), read_cells(write_h5mu(cells, tmp_path))
    for read in (loom, h5mu):
        assert list(read.obs["cell_type"]) == list(cells.obs["cell_type"])
        assert list(read.obs["batch"]) == list(cells.obs["batch"])
    assert list(h5mu.obs["donor"][:3]) == ["d1", "d2", "d1"]  # of the file's own table
    assert loom.var["Accession"].iloc[1] == "ENSG00000000001"
    assert read_cells(write_10x_h5(cells, tmp_path)).var["gene_ids"].iloc[1] == "ENSG00000000001"
    assert read_cells(write_10x_directory(cells, tmp_path)).var["gene_ids"].iloc[1] == "ENSG00000000001"
    data = GeneExpressionData(path=str(tmp_path / "cells.loom"), batch_key="batch", label_key="cell_type")
    assert data.batch_categories == ["b1", "b2"]


def test_several_files_of_different_forms(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    cells = make_adata()
    cells[:20].copy().write_h5ad(tmp_path / "first.h5ad")
    other = write_10x_h5(cells[20:, ::-1].copy(), tmp_path)
    counts = open_counts([tmp_path / "first.h5ad", other])
    np.testing.assert_array_equal(counts.rows(np.arange(60)).toarray(), cells.X.toarray())


@pytest.mark.parametrize("write", [write_10x_h5, write_10x_directory])
def test_other_features_of_10x_are_omitted(write: Callable, make_adata: Callable, tmp_path: Path) -> None:
    cells = make_adata()
    cells.var["feature_types"] = ["Gene Expression"] * 17 + ["Antibody Capture"] * 2 + ["CRISPR Guide Capture"]
    with pytest.warns(UserWarning, match=r"3 other features \(Antibody Capture, CRISPR Guide Capture\) are omitted"):
        assert list(read_cells(write(cells, tmp_path)).var_names) == list(cells.var_names[:17])


def test_10x_without_gene_expression(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    cells = make_adata()
    cells.var["feature_types"] = "Peaks"
    with pytest.raises(DataError, match=r"has no features of type 'Gene Expression', only Peaks\. Pass the matrix"):
        read_cells(write_10x_h5(cells, tmp_path))


@pytest.mark.parametrize("write", [write_10x_h5, write_10x_h5_v2, write_10x_directory])
def test_repeated_symbols_of_10x(write: Callable, make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    cells = make_adata()
    cells.var_names = ["TBCE", "CD3D", "TBCE", *cells.var_names[3:]]
    with pytest.warns(UserWarning, match=r"1 gene symbols occur more than once \(TBCE\).*such as ENSG00000000000"):
        read = read_cells(write(cells, tmp_path))
    assert list(read.var_names[:4]) == ["ENSG00000000000", "CD3D", "ENSG00000000002", "gene3"]
    assert list(read.var["gene_symbols"][:3]) == ["TBCE", "CD3D", "TBCE"]
    with pytest.warns(UserWarning, match="occur more than once"):
        source = open_counts(tmp_path / read_name(tmp_path), gene_name_key="gene_ids")
    assert source.genes[:2] == ["ENSG00000000000", "ENSG00000000001"]


def read_name(directory: Path) -> str:
    return next(path.name for path in directory.iterdir())


def test_genomes_of_cell_ranger_2(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path = write_10x_h5_v2(make_adata(), tmp_path, ("hg19", "mm10"))
    with pytest.raises(DataError, match=r"genomes hg19, mm10\. Read one with scanpy\.read_10x_h5\(.*genome='hg19'"):
        read_cells(path)


def test_one_modality(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    cells, proteins = make_adata(), make_adata(genes=4, seed=1)
    proteins.var_names = [f"protein{i}" for i in range(4)]
    path = write_h5mu(cells, tmp_path, prot=proteins)
    assert read_cells(path).n_vars == 20  # rna
    assert list(read_cells(path, "prot").var_names) == list(proteins.var_names)
    with pytest.raises(DataError, match=r"genes_in='pro' not found in the modalities of .*Did you mean 'prot'"):
        read_cells(path, "pro")
    with h5py.File(path, "r+") as file:
        file["mod"].move("rna", "gex")
    with pytest.raises(DataError, match=r"modalities 'gex', 'prot'.* Pass the name .* genes_in='gex' \(--genes_in"):
        open_counts(path)
    assert GeneExpressionData(path=str(path), genes_in="gex").num_cells == 60
    with h5py.File(path, "r+") as file:
        del file["mod/prot"]
    assert read_cells(path).n_vars == 20  # the only one


def test_files_with_the_ending_h5(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    """The content decides: an AnnData, a .loom or .h5mu file may have this ending, too."""
    cells = make_adata()
    cells.write_h5ad(tmp_path / "adata.h5")
    write_loom(cells, tmp_path).rename(tmp_path / "loom.h5")
    write_h5mu(cells, tmp_path).rename(tmp_path / "mudata.h5")
    for name in ("adata.h5", "loom.h5", "mudata.h5"):
        assert read_cells(tmp_path / name).shape == cells.shape
    assert not open_counts(tmp_path / "adata.h5", mode="backed").in_memory
    with h5py.File(tmp_path / "molecule_info.h5", "w") as file:
        file["barcode_idx"], file["umi"] = np.arange(3), np.arange(3)
    with pytest.raises(DataError, match=r"does not hold a count matrix .*; it holds 'barcode_idx', 'umi'\. Pass"):
        read_cells(tmp_path / "molecule_info.h5")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cells.rds", r"holds an object of R\. Convert it there: zellkonverter::writeH5AD\("),
        ("cells.RData", r"holds an object of R"),
        ("cells.h5Seurat", r"SeuratDisk::Convert\("),
        ("cells.xlsx", r"is a spreadsheet\. Save the sheet with the counts as \.csv"),
        ("cells.tar.gz", r"is an archive\. Unpack it"),
        ("cells.h5ad.gz", r"is compressed\. Unpack it: gunzip .*cells\.h5ad\.gz"),
        ("matrix.mtx.gz", r"is one file of three\. Pass the directory"),
        ("cells.h5", r"cannot be read as 10x \.h5; it is truncated or was not written by Cell Ranger"),
        ("cells.loom", r"cannot be read as \.loom; it is truncated"),
        ("cells.h5mu", r"cannot be read as \.h5mu; it is truncated"),
        ("cells.what", r"cannot be read as \.h5ad; it is truncated or was not written by AnnData"),
    ],
)
def test_foreign_files(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not what its ending says")
    for read in (read_cells, open_counts, lambda path: GeneExpressionData(path=str(path)).setup()):
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMATS)
def test_truncated_files(form: str, make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path = FORMATS[form](make_adata(), tmp_path)
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        if form.startswith("csv"):  # ends anywhere in a row: the counts that are missing are NaN
            with pytest.raises(DataError, match=r"has no value|names do not show"):
                GeneExpressionData(path=str(path)).setup()
            return
        with pytest.raises(DataError, match=str(path)):
            read_cells(path)
        file.write_bytes(content)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("missing", ["barcodes.tsv", "features.tsv"])
def test_incomplete_directory(ending: str, missing: str, make_adata: Callable, tmp_path: Path) -> None:
    path = write_10x_directory(make_adata(), tmp_path, ending)
    (path / f"{missing}{ending}").unlink()
    with pytest.raises(DataError, match=rf"has matrix\.mtx, but not {missing}.*\(or \.gz\)\. Copy all three"):
        read_cells(path)


def test_the_wrong_directory_names_the_right_one(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    (tmp_path / "run/outs").mkdir(parents=True)
    write_10x_directory(make_adata(), tmp_path / "run/outs")
    with pytest.raises(DataError, match=r"It contains outs/filtered_feature_bc_matrix: pass the path of one"):
        read_cells(tmp_path / "run")
    with pytest.raises(DataError, match=r"outs is a directory.*It contains filtered_feature_bc_matrix"):
        open_counts(str(tmp_path / "run/outs"))
    write_10x_h5(make_adata(), tmp_path / "run/outs")
    with pytest.raises(DataError, match=r"filtered_feature_bc_matrix, filtered_feature_bc_matrix\.h5: pass"):
        read_cells(tmp_path / "run/outs")


def test_two_matrices_in_a_directory(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path = write_10x_directory(make_adata(), tmp_path, prefix="a_")
    (path / "b_matrix.mtx.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"several matrices: a_matrix\.mtx\.gz, b_matrix\.mtx\.gz\. Move each"):
        read_cells(path)


def test_names_that_do_not_fit_the_matrix(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path = write_10x_directory(make_adata(), tmp_path, "")
    (path / "barcodes.tsv").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"matrix\.mtx has 60 cells and 20 genes, but barcodes\.tsv has 2 lines"):
        read_cells(path)


def test_without_loompy(make_adata: Callable[..., AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_loom(make_adata(), tmp_path)
    monkeypatch.setattr("vaekit.data.cells.hdf5_formats.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'which loompy reads\. Install it: pip install "vaekit\[formats\]"'):
        open_counts(path)


def test_loom_without_gene_names(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path = write_loom(make_adata(), tmp_path)
    with h5py.File(path, "r+") as file:
        del file["row_attrs/Gene"]
    with pytest.raises(DataError, match=r"no row attribute 'Gene' with the names of the genes, only 'Accession'"):
        read_cells(path)


def test_loom_of_anndata(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    cells = make_adata()
    cells.layers["spliced"] = cells.X * 2
    anndata.io.write_h5ad(tmp_path / "cells.h5ad", cells)
    cells.write_loom(tmp_path / "cells.loom")
    read = read_cells(tmp_path / "cells.loom")
    np.testing.assert_array_equal(read.to_df(), cells.to_df())  # not the layer "spliced"
    np.testing.assert_array_equal(read.to_df("spliced"), cells.to_df("spliced"))


def test_a_flag_without_effect(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path = write_10x_h5(make_adata(), tmp_path)
    with pytest.raises(DataError, match=r"genes_in='rows' is for \.csv, \.tsv and \.h5mu files, but not for .*h5\."):
        read_cells(path, "rows")


def test_streamed_files_are_h5ad_or_zarr(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path = write_10x_h5(make_adata(), tmp_path)
    with pytest.raises(DataError, match=r"mode='streamed' is for \.h5ad files and zarr .*Omit mode, or convert it"):
        GeneExpressionData(path=str(path), mode="streamed").setup()


@pytest.mark.parametrize("form", ["loom", "h5mu"])
def test_values_that_are_not_counts(form: str, make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    cells = make_adata()
    cells.X = cells.X * 0.37
    path = FORMATS[form](cells, tmp_path)
    with pytest.raises(DataError, match=rf"{path.name}, \.X must hold counts: .* not whole"):
        GeneExpressionData(path=str(path)).setup()


# Content from others: data outside the file, files that claim or inflate to more than there is, damaged index arrays.


@pytest.mark.parametrize("form", ["10x .h5", "10x .h5, version 2", "loom", "h5mu"])
@pytest.mark.parametrize("kind", ["link", "external storage"])
def test_data_of_other_files(form: str, kind: str, make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path, other = FORMATS[form](make_adata(), tmp_path), tmp_path / "private"
    other.write_bytes(b"PRIVATE-CONTENT" * 100)
    with h5py.File(path, "r+") as file:
        if kind == "link":
            file["extra"] = h5py.ExternalLink(str(other), "/X")
        else:
            file.create_dataset("extra", (40,), dtype="u1", external=[(str(other), 0, 40)])
    with pytest.raises(DataError, match=r"/extra .*another file.* It was not read"):
        read_cells(path)


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_that_leave_a_directory(name: str, kind: str, make_adata: Callable, tmp_path: Path) -> None:
    path = write_10x_directory(make_adata(), tmp_path)
    (path / name).rename(tmp_path / name)
    if kind == "link":
        (path / name).symlink_to(tmp_path / name)
    else:
        os.mkfifo(path / name)
    with pytest.raises(DataError, match=r"leads out of the directory|is a named pipe"):
        read_cells(path)
    link = tmp_path / "link"
    (path / name).unlink()
    (tmp_path / name).rename(path / name)
    link.symlink_to(path)
    assert read_cells(link).n_obs == 60  # a link to the whole directory is no fault


@pytest.mark.parametrize("form", ["10x .h5", "loom", "h5mu"])
def test_files_that_claim_terabytes(form: str, make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path = FORMATS[form](make_adata(), tmp_path)
    place = {"10x .h5": "matrix/more", "loom": "row_attrs/more", "h5mu": "mod/rna/uns/more"}[form]
    with h5py.File(path, "r+") as file:
        file.create_dataset(place, (10**12,), dtype="f8", chunks=(1000,))
    with pytest.raises(DataError, match=r"claims .* TB, but .* are free"):
        read_cells(path)


def test_a_matrix_that_claims_terabytes(make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path = write_10x_directory(make_adata(), tmp_path)
    header = b"%%MatrixMarket matrix coordinate integer general\n% a comment\n"
    (path / "matrix.mtx.gz").write_bytes(gzip.compress(header + b"20 60 1000000000000\n1 1 1\n"))
    with pytest.raises(DataError, match=r"matrix\.mtx\.gz claims 24\.0 TB"):
        read_cells(path)


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz"])
def test_text_that_inflates(name: str, make_adata: Callable[..., AnnData], tmp_path: Path) -> None:
    path = write_10x_directory(make_adata(), tmp_path)
    content = gzip.decompress((path / name).read_bytes())
    (path / name).write_bytes(gzip.compress(content + b"A" * 10**7))
    with pytest.raises(DataError, match=rf"{name} is longer than its \d+ lines can be"):
        read_cells(path)


@pytest.mark.parametrize("form", ["10x .h5", "10x .h5, version 2"])
@pytest.mark.parametrize(("array", "value"), [("indices", 2_000_000_000), ("indices", -1), ("indptr", 10**8)])
def test_damaged_index_arrays(form: str, array: str, value: int, make_adata: Callable, tmp_path: Path) -> None:
    path = FORMATS[form](make_adata(), tmp_path)
    with h5py.File(path, "r+") as file:
        file[f"{next(iter(file))}/{array}"][5] = value
    with pytest.raises(DataError, match=r"is not a complete CSR matrix|cannot be read as 10x \.h5"):
        read_cells(path)
