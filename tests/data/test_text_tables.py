"""Tables of text: separators, headers, the place of the genes, and content that is not counts."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from vaekit.data import GeneExpressionData, open_counts, read_cells
from vaekit.data.cells import text_tables
from vaekit.exceptions import DataError

from .format_files import write_text

COUNTS = np.array([[0, 3, 1], [2, 0, 7]])  # two genes, three cells


def table(rows: list[str], columns: list[str], sep: str = ",", corner: str | None = "") -> str:
    """Return COUNTS as text; a ``corner`` of None leaves out the first field, as R does."""
    header = columns if corner is None else [corner, *columns]
    lines = [header, *([name, *map(str, values)] for name, values in zip(rows, COUNTS, strict=True))]
    return "".join(sep.join(line) + "\n" for line in lines)


GENES, CELLS = ["CD3D", "RPL3"], ["AAACCTGAGAAACCAT-1", "AAACCTGAGAAACCGC-1", "s2_AAACCTGAGAAACCTA"]


@pytest.mark.parametrize("sep", [",", "\t", ";", " "])
@pytest.mark.parametrize("corner", ["", "gene", None])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.CSV.GZ", "a.tab.gz"])
def test_separators_and_headers(sep: str, corner: str | None, name: str, tmp_path: Path) -> None:
    text = table(GENES, CELLS, sep, corner)
    if sep == " " and corner == "":
        text = text.replace(" ", '"" ', 1)
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.lower().endswith(".gz") else text.encode())
    cells = read_cells(path)
    np.testing.assert_array_equal(cells.X.toarray(), COUNTS.T)
    assert list(cells.obs_names) == CELLS
    assert list(cells.var_names) == GENES
    assert cells.X.dtype == np.float32


@pytest.mark.parametrize(
    ("rows", "columns", "corner"),
    [
        (["a", "b"], ["AAACCTGAGAAACCAT", "AAACCTGAGAAACCGC", "AAACCTGAGAAACCTA"], ""),
        (["ENSG00000141510.17", "x"], ["a", "b", "c"], ""),
        (["mt-Nd1", "x"], ["a", "b", "c"], ""),
        (["a", "b"], ["c", "d", "e"], "Gene ID"),
        (["gene_1", "gene_2"], ["1", "2", "3"], ""),
        (["a", "b"], ["cell1", "cell2", "cell3"], "index"),
    ],
)
def test_place_of_the_genes(rows: list[str], columns: list[str], corner: str, tmp_path: Path) -> None:
    cells = read_cells(write_text(tmp_path / "a.csv", table(rows, columns, corner=corner)))
    assert list(cells.var_names) == rows
    lines = [line.split(",") for line in table(rows, columns, corner=corner).splitlines()]
    lines[0][0] = {"Gene ID": "Cell"}.get(corner, corner)
    transposed = "".join(",".join(words) + "\n" for words in zip(*lines, strict=True))
    np.testing.assert_array_equal(read_cells(write_text(tmp_path / "b.csv", transposed)).to_df(), cells.to_df())


@pytest.mark.parametrize(
    ("rows", "columns"), [(["a", "b"], ["c", "d", "e"]), (["CD3D", "RPL3"], ["RPS6", "ACTB", "MT-ND1"])]
)
def test_unclear_place_of_the_genes(rows: list[str], columns: list[str], tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", table(rows, columns))
    message = (
        rf"whether genes are in rows or columns \(first row '{rows[0]}', first column '{columns[0]}'\)\. Pass genes_in"
    )
    with pytest.raises(DataError, match=message):
        read_cells(path)
    with pytest.raises(DataError, match=r"--data\.genes_in"):
        GeneExpressionData(path=str(path)).setup()
    assert list(read_cells(path, "rows").var_names) == rows
    assert list(read_cells(path, "columns").var_names) == columns
    with pytest.raises(DataError, match="genes_in='row' must be 'rows' or 'columns'"):
        read_cells(path, "row")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.csv is empty"),
        ("\n\n", r"a\.csv is empty"),
        ("gene,c1,c2\n", r"has a header, but no further rows"),
        ("gene\nCD3D\n", r"has a single column\. Separate"),
        ("0,3,1\n2,0,7\n0,0,0\n1,1,0\n1,2,0\n", r"first column holds numbers instead of names\. Write the names"),
        ("x,3,3\na,0,7\n", r"first row holds numbers instead of names"),
        ("gene,kind,c1\nCD3D,protein coding,3\n", r"column 'kind' holds 'protein coding' \(row 'CD3D'\), but a table"),
        ("gene,c1,c2\nCD3D,1,\nCD8A,0,2\n", r"column 'c2' has no value in row 'CD3D'\. Write 0"),
        ("gene,c1,c2\nCD3D,1.5,2\nCD8A,0,2\n", r"not whole, the first 1\.5 in cell 'c1'.*gene 'CD3D'"),
        ("gene,c1,c2\nCD3D,-1,2\nCD8A,0,2\n", r"negative"),
        ("gene,c1,c2\nCD3D,1,2,3,4\n", r"the first row has 3 fields, but the second one has 5"),
        ("gene,c1,c2\nCD3D,1,2\nCD8A,1,2,3\n", r"cannot be read as a table; it is truncated, or is not text"),
        ("gene,c1,c2\nCD3D,1,2\nCD3D,0,2\n", r"1 gene name occurs more than once, such as CD3D"),
        ("gene,c1\nCD3D,\x00\n", r"column 'c1' has no value in row 'CD3D'"),
        ("gene,c1,c2\nCD3D,NA,2\n", r"column 'c1' has no value in row 'CD3D'"),
        ("gene,length,c1\nCD3D,1500,1\n", r"'length' in the first row is a description"),
        ("cell,n_genes,CD3D\na,100,1\n", r"'n_genes' in the first row is a description"),
        ("gene,c1\nCD3D,1\n__no_feature,9\n", r"'__no_feature' in the first column is a description"),
        ("gene,c1,,c2\nCD3D,1,2,3\n", r"the first row has an empty name"),
        ("gene,c1,c2,\nCD3D,1,2,3\n", r"the last column has no name"),
        (",RPS6_KO1,RPL3_KO2\nFOO,1,2\nBAR,3,4\n", r"whether genes are in rows or columns"),
    ],
)
def test_bad_tables(text: str, message: str, tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", text)
    with pytest.raises(DataError, match=message):
        open_counts(str(path)).totals()


def test_names_that_pandas_would_change(tmp_path: Path) -> None:
    text = "gene,1,1.0,01\nNA,1,0,2\nnan,0,1,0\n1e5,0,0,1\n"
    cells = read_cells(write_text(tmp_path / "a.csv", text))
    assert list(cells.var_names) == ["NA", "nan", "1e5"]
    assert list(cells.obs_names) == ["1", "1.0", "01"]


@pytest.mark.parametrize(
    "text",
    [
        "gene,c 1,c 2\nCD3D,1,2\nCD8A,0,3\n",
        "gene,c 1,c 2,\nCD3D,1,2,\nCD8A,0,3,\n",
        "gene,c 1,c 2,\nCD3D,1,2\nCD8A,0,3\n",
        "gene, c 1, c 2\nCD3D , 1, 2\nCD8A , 0, 3\n",
        "# made by a program\n## 2020\ngene,c 1,c 2\nCD3D,1,2\nCD8A,0,3\n",
    ],
)
def test_spaces_comments_and_separators_at_the_end(text: str, tmp_path: Path) -> None:
    cells = read_cells(write_text(tmp_path / "a.csv", text))
    assert (list(cells.obs_names), list(cells.var_names)) == (["c 1", "c 2"], ["CD3D", "CD8A"])
    np.testing.assert_array_equal(cells.X.toarray(), [[1, 0], [2, 3]])


def test_repeated_cells_stay(tmp_path: Path) -> None:
    cells = read_cells(write_text(tmp_path / "a.csv", "gene,c,c\nCD3D,1,2\n"))
    assert list(cells.obs_names) == ["c", "c"]


def test_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(0).poisson(1.0, (50, 7))
    text = "gene," + ",".join(f"c{i}" for i in range(7)) + "\n"
    text += "".join(f"g{i}," + ",".join(map(str, row)) + "\n" for i, row in enumerate(counts))
    monkeypatch.setattr(text_tables, "CHUNK_VALUES", 30)
    np.testing.assert_array_equal(read_cells(write_text(tmp_path / "a.csv", text)).X.toarray(), counts.T)


def test_large_whole_numbers_are_exact(tmp_path: Path) -> None:
    cells = read_cells(write_text(tmp_path / "a.csv", "gene,c1\nCD3D,16777217\n"))
    assert cells.X[0, 0] == 16777217


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes can be inflated to a line of terabytes."""
    monkeypatch.setattr(text_tables, "MAX_LINE", 10**6)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"gene,c1\nCD3D," + b"0" * 10**7))
    with pytest.raises(DataError, match="has a line of more than 1000000 characters"):
        read_cells(path)
    path.write_bytes(gzip.compress(b"gene," + b"0" * 10**7))
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_cells(path)
