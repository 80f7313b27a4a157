"""Counts in tables of text (.csv, .tsv, .txt, each also .gz), with genes in rows or in columns."""

from __future__ import annotations

import csv
import gzip
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from vaekit._core.memory_budget import check_memory
from vaekit.data.cells.count_checks import single_precision
from vaekit.data.cells.stores import FILE_REMEDY, GENES_IN_FLAGS, translate_read_errors
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

SEPARATORS = "\t,;"  # without them, spaces separate
CHUNK_VALUES = 2**22  # read at once
MAX_LINE = 2**28  # bytes: a small .gz file can hold a line of terabytes
VALUE_BYTES = 24  # of a value of the table while it is read
GENES = re.compile(  # whole names: samples may be named by a gene, such as RPS6_KO1
    r"(ens[a-z]*g|fbgn|wbgene)\d{6,}([._|].*)?|mt-(nd|co|cy|atp|rnr|t)\w{0,3}|rp[ls]\d+[a-z]{0,2}\d?"
    r"|actb|gapdh|malat1|b2m|eef1a1|tmsb4x|gene[ _.-]?\d+",
    re.IGNORECASE,
)
CELLS = re.compile(r"(.*[^a-z])?[acgtn]{10,}([^a-z].*)?$|cell[ _.-]?\d|[acgt]{8,}-\d+$", re.IGNORECASE)
DESCRIPTIONS = re.compile(  # of genes or cells in a table of counts
    r"(gene|transcript)?_?length|start|end|strand|chr|n_?(genes|cells|counts|umis?|features?)|total_?(counts|umis?)"
    r"|n(count|feature)_rna|(percent|pct)[._].*|pct_counts_.*|__\w+",
    re.IGNORECASE,
)
CORNERS = {  # place of the genes by the first field of the header
    **dict.fromkeys(("gene", "genes", "geneid", "genename", "genesymbol", "symbol", "feature", "features"), "rows"),
    **dict.fromkeys(("cell", "cells", "cellid", "cellname", "barcode", "barcodes", "cellbarcode"), "columns"),
}


def read_text_table(path: str | Path, genes_in: str | None = None) -> AnnData:
    """Read a table of counts whose first row and column hold the names of cells and genes.

    The fields are separated by tabs, commas, semicolons, or else spaces. The first row may lack its first field, as R
    writes it. Comments before it, lines that begin with ``# `` or ``##``, are skipped.

    Parameters
    ----------
    path : str or Path
        File, compressed if it ends in .gz.
    genes_in : str, optional
        "rows" or "columns". None: as the names show, by gene symbols, Ensembl identifiers, barcodes, or the first field
        of the table, such as "gene".

    Raises
    ------
    DataError
        If the file is empty or damaged, has other columns than numbers, lacks names or values, describes genes or
        cells besides the counts, or does not show where the genes are.
    """
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    if genes_in not in (None, "rows", "columns"):
        raise DataError(f"genes_in={genes_in!r} must be 'rows' or 'columns' for {path}.")
    file = Path(path).expanduser()
    with translate_read_errors(path), _open_lines(file, path) as lines, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Variable|Observation) names are not unique")  # checked later
        header, separator, ends_open = _read_header(lines, path)
        parts, rows = [], []
        for names, counts in _read_rows(lines, header, separator, ends_open, path):
            rows += names
            parts.append(counts)
        if not parts:
            raise DataError(f"{path} has a header, but no further rows.")
        counts = sparse.vstack(parts, format="csr")
        corner = header[0] if len(header) > counts.shape[1] else ""
        columns = header[-counts.shape[1] :]
        _check_names(columns, "first row", path)
        _check_names(rows, "first column", path)
        if (genes_in or _find_genes(rows, columns, corner, path)) == "rows":
            rows, columns, counts = columns, rows, counts.T.tocsr()
        return AnnData(single_precision(counts), obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=columns))


class _BoundedLines(io.TextIOWrapper):
    """Text file that raises a DataError if a line is too long for the memory."""

    def __init__(self, stream: Any, path: str | Path) -> None:
        super().__init__(stream, encoding="utf-8-sig", errors="replace", newline=None)
        self._path, self._length = path, 0

    def read(self, size: int | None = -1) -> str:
        """Read characters, and measure the current line."""
        text = super().read(size)
        end = text.rfind("\n")
        self._length = self._length + len(text) if end < 0 else len(text) - end
        if self._length > MAX_LINE:
            raise DataError(f"{self._path} has a line of more than {MAX_LINE} characters. It is not a table of counts.")
        return text


def _open_lines(file: Path, path: str | Path) -> _BoundedLines:
    return _BoundedLines(gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb"), path)


def _read_header(lines: _BoundedLines, path: str | Path) -> tuple[list[str], str, bool]:
    """Return the fields of the header, the separator, and whether the line ends with it; skip comments before it."""
    line = "\n"
    while line == "\n" or line.startswith(("# ", "##")):
        line = lines.readline(MAX_LINE)
    if not line.strip() or "\0" in line:
        raise DataError(f"{path} is empty." if not line.strip() else f"{path} is not a text file.")
    line = line.rstrip("\n")
    separator = max(SEPARATORS, key=line.count) if any(each in line for each in SEPARATORS) else " "
    header = [field.strip() for field in next(csv.reader([line], delimiter=separator))]
    if len(header) == 1 and separator not in line:
        raise DataError(f"{path} has a single column. Separate names and counts by commas (.csv) or tabs (.tsv).")
    ends_open = len(header) > 1 and not header[-1]
    return header[:-1] if ends_open else header, separator, ends_open


def _read_rows(
    lines: _BoundedLines, header: list[str], separator: str, ends_open: bool, path: str | Path
) -> Iterator[tuple[list[str], sparse.csr_matrix]]:
    """Yield the names of rows, and their values, in chunks."""
    import pandas as pd
    from scipy import sparse

    num_rows = max(1, CHUNK_VALUES // len(header))
    try:
        reader = pd.read_csv(
            lines, sep=r"\s+" if separator == " " else separator, header=None, converters={0: str}, chunksize=num_rows,
            low_memory=False, skipinitialspace=True,
        )  # fmt: skip
    except pd.errors.EmptyDataError:
        return
    with reader, tqdm(desc=f"reading {Path(path).name}", unit="rows", delay=1) as bar:
        for chunk in reader:
            names = chunk.pop(0).str.strip()
            if ends_open and chunk.shape[1] >= len(header):
                unnamed = chunk.pop(chunk.columns[-1])
                if unnamed.notna().any():
                    raise DataError(f"{path}: the last column has no name. Write it to the first row.")
            if chunk.shape[1] not in (len(header), len(header) - 1):
                raise DataError(
                    f"{path}: the first row has {len(header)} fields, but the second one has {chunk.shape[1] + 1}. "
                    "The first row must name all columns."
                )
            check_memory(VALUE_BYTES * chunk.size, f"{path}", FILE_REMEDY)
            _check_numbers(chunk.set_axis(names), header[-chunk.shape[1] :], path)
            yield list(names), sparse.csr_matrix(chunk.to_numpy())
            bar.update(len(chunk))


def _check_numbers(chunk: pd.DataFrame, columns: Sequence[str], path: str | Path) -> None:
    """Raise a DataError if a column holds text, or lacks a value."""
    for name, (_, values) in zip(columns, chunk.items(), strict=True):
        if values.dtype.kind not in "iuf":
            first = [isinstance(value, str | bool) for value in values].index(True)
            text, row = str(values.iloc[first]), str(values.index[first])
            raise DataError(
                f"{path}: column {name!r} holds {text!r} (row {row!r}), but a table of counts holds numbers only. "
                "Remove descriptions of cells and genes, or store them in .obs and .var of an .h5ad file."
            )
        if values.isna().any():
            row = str(values.index[values.isna().argmax()])
            raise DataError(
                f"{path}: column {name!r} has no value in row {row!r}. Write 0 for no count. If the file ends there, "
                "it is truncated: copy it again."
            )


def _check_names(names: Sequence[str], place: str, path: str | Path) -> None:
    """Raise a DataError if the names are counts of a table without names, empty, or those of descriptions."""
    if "" in names:
        raise DataError(f"{path}: the {place} has an empty name. Write the names of cells and genes to it.")
    if described := [name for name in names if DESCRIPTIONS.fullmatch(name)]:
        raise DataError(
            f"{path}: {described[0]!r} in the {place} is a description, not a cell or gene. Remove it, or store it in "
            ".obs or .var of an .h5ad file."
        )
    if len(set(names)) < len(names) and all(re.fullmatch(r"[-+.\deE]+", name) for name in names):
        raise DataError(
            f"{path}: the {place} holds numbers instead of names. Write the names of cells and genes to it."
        )


def _find_genes(rows: Sequence[str], columns: Sequence[str], corner: str, path: str | Path) -> str:
    """Return "rows" or "columns", the place of the genes, by the names.

    Raises
    ------
    DataError
        If the names show neither, or both.
    """
    label = CORNERS.get(re.sub(r"[^a-z]", "", corner.lower()))
    in_rows = _are_genes(rows) or _are_cells(columns) or label == "rows"
    in_columns = _are_genes(columns) or _are_cells(rows) or label == "columns"
    if in_rows == in_columns:
        raise DataError(
            f"{path}: the names do not show whether genes are in rows or columns (first row {rows[0]!r}, first column "
            f"{columns[0]!r}). Pass genes_in='rows' or genes_in='columns' ({GENES_IN_FLAGS})."
        )
    return "rows" if in_rows else "columns"


def _are_genes(names: Sequence[str]) -> bool:
    """Return whether some of the names look like genes."""
    return any(GENES.fullmatch(name) for name in names)


def _are_cells(names: Sequence[str]) -> bool:
    """Return whether most of the names are barcodes or numbered cells."""
    return sum(CELLS.match(name) is not None for name in names) > len(names) / 2
