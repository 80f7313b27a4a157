"""Damaged sparse matrices end in an error that names the place and the value, and not in a crash or in wrong counts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from vaekit.data.cells.count_checks import check_structure
from vaekit.exceptions import DataError

from .damage import CELLS, DAMAGES, GENES, cells
from .reading import read_counts


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The message of each trial of damage.py, by part; a separate process, which a fault would end."""
    directory = tmp_path_factory.mktemp("damage")
    command = [sys.executable, str(Path(__file__).with_name("damage.py")), str(directory)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, (process.returncode, process.stdout[-500:], process.stderr[-3000:])
    assert "Traceback" not in process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.exhaustive
def test_each_damage_in_each_place(messages: dict[str, dict[str, str]]) -> None:
    assert len(messages["cases"]) == len(DAMAGES) * 31
    for trial, message in messages["cases"].items():
        assert re.search(DAMAGES[trial.split(",")[0]][2], message), (trial, message)
        assert "in memory" in message or "cells.h5ad" in message, (trial, message)


@pytest.mark.exhaustive
def test_any_damage(messages: dict[str, dict[str, str]]) -> None:
    assert len(messages["fuzz"]) >= 100
    for message in messages["fuzz"].values():
        assert "\n" not in message
        assert message == "READ" or len(message) > 20


@pytest.mark.exhaustive
def test_files_that_claim_more_than_there_is(messages: dict[str, dict[str, str]]) -> None:
    for trial, message in messages["claims"].items():
        assert re.search(r"claims .* are free|as csc_matrix|as array", message), (trial, message)


@pytest.mark.exhaustive
def test_commands(messages: dict[str, dict[str, str]]) -> None:
    assert len(messages["commands"]) == 2 * 3 * 5
    assert set(messages["commands"].values()) == {"2"}


def test_coordinates() -> None:
    matrix = sparse.coo_matrix(np.eye(3, dtype=np.float32))
    check_structure(matrix, "file")
    matrix.coords[0][1] = 7
    with pytest.raises(DataError, match=r"file is not a complete COO matrix: .*7.*3"):
        check_structure(matrix, "file")


def test_what_is_no_fault() -> None:
    """Rows that are not sorted, values given twice, and values behind the last row's."""
    adata = cells("csr")
    wanted = adata.X.toarray()
    adata.X.indices[:] = np.concatenate([part[::-1] for part in np.split(adata.X.indices, adata.X.indptr[1:-1])])
    adata.X.data[:] = np.concatenate([part[::-1] for part in np.split(adata.X.data, adata.X.indptr[1:-1])])
    adata.X.has_sorted_indices = True  # which is wrong, and not believed
    found, _ = read_counts(adata, None, "file")
    np.testing.assert_array_equal(found.toarray(), wanted)
    assert found.has_canonical_format
    adata.X = sparse.csr_matrix((np.ones(4), [2, 2, 0, 5], [0, 2, *[3] * (CELLS - 1)]), (CELLS, GENES))
    found, _ = read_counts(adata, None, "file")
    assert found[0, 2] == 2
    assert found.sum() == 3
