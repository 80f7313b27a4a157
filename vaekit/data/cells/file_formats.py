"""Forms of files with cells: AnnData, zarr, 10x Cell Ranger, loom, MuData and tables of text, read into an AnnData."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vaekit._core.urls import as_path, is_url
from vaekit.data.cells.hdf5_formats import read_h5mu, read_loom
from vaekit.data.cells.not_cells import check_no_checkpoint
from vaekit.data.cells.stores import check_path, describe_paths, is_zarr, open_store, read_store
from vaekit.data.cells.tenx import find_matrix_files, is_10x_h5, read_10x_directory, read_10x_h5
from vaekit.data.cells.text_tables import read_text_table
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData

SUPPORTED = (
    "Files of cells are .h5ad, zarr, 10x .h5, 10x directories such as filtered_feature_bc_matrix, .loom, .h5mu, and "
    ".csv or .tsv (also .gz)."
)
_IN_R = (
    "holds an object of R. Convert it there: zellkonverter::writeH5AD(x, 'cells.h5ad') for a SingleCellExperiment x, "
    "or zellkonverter::writeH5AD(Seurat::as.SingleCellExperiment(x), 'cells.h5ad') for a Seurat object x."
)
_ARCHIVE = "is an archive. Unpack it, then pass the path of its content."
_SPREADSHEET = "is a spreadsheet. Save the sheet with the counts as .csv."
ADVICE = {  # by the ending of forms that are not read
    **dict.fromkeys((".rds", ".rdata", ".rda", ".robj", ".qs", ".qs2"), _IN_R),
    ".h5seurat": "holds a Seurat object. Convert it in R: SeuratDisk::Convert('cells.h5seurat', dest = 'h5ad').",
    **dict.fromkeys((".tar", ".tgz", ".zip", ".bz2", ".xz", ".7z"), _ARCHIVE),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), _SPREADSHEET),
    ".mtx": "is one file of three. Pass the directory with matrix.mtx, barcodes.tsv and features.tsv (or genes.tsv).",
}


class Format(NamedTuple):
    """Form of files with cells.

    Attributes
    ----------
    read : callable
        Function that returns the cells of a file as an AnnData.
    is_ambiguous : bool
        Whether the function accepts ``genes_in``.
    """

    read: Callable[..., AnnData]
    is_ambiguous: bool = False


STORE = Format(read_store)  # .h5ad files and zarr stores
TENX_H5, TENX_DIRECTORY, LOOM = Format(read_10x_h5), Format(read_10x_directory), Format(read_loom)
H5MU, TEXT = Format(read_h5mu, True), Format(read_text_table, True)
FORMATS = {".loom": LOOM, ".h5mu": H5MU, **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), TEXT)}  # by ending


def read_cells(path: str | Path, genes_in: str | None = None) -> AnnData:
    r"""Read the cells of a file into memory, by the form of the file.

    These forms can be read: ``.h5ad`` files and zarr stores; ``.h5`` files and directories of 10x Cell Ranger, such as
    ``filtered_feature_bc_matrix``; ``.loom`` files; one modality of ``.h5mu`` files; and ``.csv`` or ``.tsv`` tables of
    counts, also compressed as ``.gz``. All functions and commands that accept the path of an ``.h5ad`` file accept
    these, too. Counts of ``.h5ad`` files and zarr stores can stay there; all others are read into memory.

    ``.h5ad`` files and zarr stores may be at a URL that begins with ``s3://``, ``gs://``, ``https://`` or ``http://``.
    Credentials come from the environment. A web server must support range requests for ``.h5ad`` files, and zarr stores
    on it need consolidated metadata, which ``AnnData.write_zarr`` writes. User name, password and query of a URL are
    used for requests only and stored nowhere.

    Parameters
    ----------
    path : str or Path
        File, zarr store or directory, or the URL of an ``.h5ad`` file or zarr store.
    genes_in : str, optional
        Place of the genes. For a table: "rows" or "columns"; None means that the names of its rows and columns decide.
        For an ``.h5mu`` file: the name of a modality; None means the only one, or "rna".

    Returns
    -------
    AnnData
        All cells. Gene symbols of 10x files that occur more than once are replaced by the identifiers of the genes.

    Warns
    -----
    UserWarning
        If a 10x file has features that are not gene expression, which are omitted, or repeated gene symbols.

    Raises
    ------
    DataError
        If the file cannot be read, has another form, or does not show where its genes are.
    MissingPackageError
        If the file is a .loom file and loompy is not installed, or a URL needs a package of the extra ``cloud``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "counts.csv"
    >>> _ = path.write_text("gene,cell1,cell2\nCD3D,0,2\nMS4A1,5,0\nLYZ,1,1\n")
    >>> read_cells(path).to_df()
           CD3D  MS4A1  LYZ
    cell1   0.0    5.0  1.0
    cell2   2.0    0.0  1.0
    """
    return read_files([path], genes_in)[0]


def read_files(paths: Sequence[str | Path], genes_in: str | None = None) -> list[AnnData]:
    """Read the cells of several files, each by its form; ``genes_in`` is for those that need it."""
    if genes_in is not None and not accept_genes_in(paths):
        files = describe_paths(paths)
        raise DataError(f"genes_in={genes_in!r} is for .csv, .tsv and .h5mu files, but not for {files}. Omit it.")
    paths = [as_path(path) for path in paths]
    formats = [find_format(path) for path in paths]
    return [
        form.read(path, genes_in) if form.is_ambiguous else form.read(path)
        for form, path in zip(formats, paths, strict=True)
    ]


def are_stores(paths: Sequence[str | Path]) -> bool:
    """Return whether all files are .h5ad files or zarr stores, whose counts can stay there."""
    return all(find_format(path) is STORE for path in paths)


def accept_genes_in(paths: Sequence[str | Path]) -> bool:
    """Return whether the form of one of the files does not determine where its genes are."""
    return any(find_format(path).is_ambiguous for path in paths)


def find_format(path: str | Path) -> Format:
    """Return the form of a file.

    Raises
    ------
    DataError
        If it does not exist, or has another form.
    """
    if is_url(path):
        from vaekit.data.cells.remote_stores import is_remote_zarr  # needs zarr, which is slow to import

        check_no_checkpoint(path, "path")
        is_remote_zarr(as_path(path))
        return STORE
    file = check_path(path)
    if file.is_dir():
        return _directory_format(file, path)
    name = file.name.lower().removesuffix(".gz")
    ending = Path(name).suffix
    if ending in (".h5", ".hdf5") and name == file.name.lower():
        return _hdf5_format(path)
    if ending in ADVICE:
        raise DataError(f"{path} {ADVICE[ending]}")
    if name != file.name.lower() and FORMATS.get(ending) is not TEXT:
        raise DataError(f"{path} is compressed. Unpack it: gunzip {path}")
    return FORMATS.get(ending, STORE)


def _hdf5_format(path: str | Path) -> Format:
    """Return the form of a file with the ending .h5, by its content."""
    file = open_store(path)
    if "obs" in file and "var" in file:
        return H5MU if "mod" in file else STORE
    if "row_attrs" in file and "matrix" in file:
        return LOOM
    if is_10x_h5(file):
        return TENX_H5
    raise DataError(
        f"{path} is an HDF5 file, but does not hold a count matrix of 10x Cell Ranger or an AnnData; it holds "
        f"{', '.join(map(repr, sorted(file))) or 'nothing'}. Pass filtered_feature_bc_matrix.h5 of Cell Ranger."
    )


def _directory_format(directory: Path, path: str | Path) -> Format:
    """Return the form of a directory: a zarr store, or that of 10x.

    Raises
    ------
    DataError
        If it is neither. The message names its members that can be read.
    """
    if is_zarr(directory):
        return STORE
    if find_matrix_files(directory):
        return TENX_DIRECTORY
    parts = sorted(part for pattern in ("*", "*/*") for part in directory.glob(pattern))
    readable = [
        str(part.relative_to(directory))
        for part in parts
        if (part.is_dir() and (is_zarr(part) or find_matrix_files(part)))
        or (part.is_file() and part.suffix.lower() in (".h5ad", ".h5", *FORMATS) and part.parent == directory)
    ]
    inside = f"It contains {', '.join(readable[:5])}: pass the path of one." if readable else ""
    raise DataError(
        f"{path} is a directory, but not a zarr store or 10x directory (matrix.mtx, barcodes.tsv, features.tsv). "
        + (inside or SUPPORTED)
    )
