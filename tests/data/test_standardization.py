"""Numbers of cells keep their meaning in any unit and far from zero: covariates, size factors, and those of queries."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from vaekit.data import GeneExpressionData
from vaekit.exceptions import DataError

from .reading import read_query

CELLS = 200
ORDER = np.random.default_rng(1).permutation(CELLS).astype(np.float64)


def cells(**columns: object) -> AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (CELLS, 8)).astype(np.float32)
    counts[:, 0] += 1
    return AnnData(counts, obs=pd.DataFrame(columns, index=[f"c{number}" for number in range(CELLS)]))


def covariate(values: object) -> tuple[np.ndarray, GeneExpressionData]:
    data = GeneExpressionData(cells(t=values), continuous_covariate_keys=["t"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.setup()
    return data.dataset.__getitems__(list(range(CELLS))).covariates.numpy().ravel(), data


COLUMNS = {
    "seconds": ORDER * 10,
    "unix seconds": 1.7e9 + ORDER * 10,
    "unix nanoseconds": (1.7e18 + ORDER * 1e10).astype(np.int64),
    "identifiers": 10_000_000_000_000 + ORDER.astype(np.int64),
    "far away": 1e13 + ORDER,
    "negative and far": -1.7e9 - ORDER[::-1] * 10,
    "grams": ORDER * 1e-9,
    "tiny": ORDER * 1e-302,
    "squares vanish": ORDER * 1e-200,
    "squares overflow": ORDER * 1e200,
    "huge": ORDER * 1e305,
    "both signs": (ORDER - 100) * 1e305,
    "narrow": 1 + ORDER * 1e-10,
    "float32": (ORDER * 1e30).astype(np.float32),
    "float16": (ORDER / 4).astype(np.float16),
    "big-endian": (1.7e9 + ORDER).astype(">f8"),
    "unsigned": ORDER.astype(np.uint8),
    "nullable": pd.array(ORDER.astype(np.int64), dtype="Int64"),
    "nullable float": pd.array(ORDER * 1e-9, dtype="Float64"),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_every_unit_gives_the_same_covariate(column: str, tmp_path: Path) -> None:
    found, data = covariate(COLUMNS[column])
    order = ORDER if column != "negative and far" else -ORDER[::-1]
    train = data.split_indices["train"].numpy()
    right = (order - order[train].mean()) / order[train].std()
    np.testing.assert_allclose(found, right, atol=2e-3 if column == "far away" else 2e-5)
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    query = read_query(data.adata[5:9].copy(), state)
    np.testing.assert_array_equal(query.dataset.covariates.numpy().ravel(), found[5:9])


def test_booleans() -> None:
    for values in (ORDER > 99, pd.array(ORDER > 99, dtype="boolean")):
        found, _ = covariate(values)
        assert np.unique(found).size == 2
        assert found.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("value", [0.0, 3.7, 1.7e9, 1e300, -1e-300])
@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_constants(value: float, noise: float) -> None:
    """Those that differ by rounding are constant, too; other cells then have 0 as well."""
    values = value * (1 + noise * np.sign(ORDER - 99))
    data = GeneExpressionData(cells(t=values), continuous_covariate_keys=["t"])
    with pytest.warns(UserWarning, match=r"all training cells .* have the value"):
        data.setup()
    assert (data.dataset.__getitems__(list(range(CELLS))).covariates == 0).all()
    assert (read_query(cells(t=ORDER), data.state_dict()).dataset.covariates == 0).all()


def test_what_float32_cannot_hold_is_rejected() -> None:
    _, data = covariate(ORDER * 1e-30)
    with pytest.raises(DataError, match=r"='t': 199 of 200 cells .* too far from the mean of the training cells"):
        read_query(cells(t=ORDER * 1e20), data.state_dict())


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (pd.Timestamp("2024-01-01") + pd.to_timedelta(ORDER, unit="D"), r"dt\.total_seconds\(\) gives the time"),
        (pd.to_timedelta(ORDER, unit="D"), r"obs\['t'\]\.dt\.total_seconds\(\)"),
        (pd.Categorical(ORDER.astype(int)), r"astype\(float\)"),
        (ORDER.astype(str), r"astype\(float\)"),
        (ORDER + 1j, "must be numbers"),
        (pd.array([None, *ORDER[1:]], dtype="Float64"), r"1 of 200 cells .* NaN, the first nan in cell 'c0'"),
    ],
)
def test_what_is_not_a_number(values: object, hint: str) -> None:
    adata = cells(t=values)
    for arguments in ({"continuous_covariate_keys": ["t"]}, {"size_factor_key": "t"}):
        with pytest.raises(DataError, match=hint):
            GeneExpressionData(adata, **arguments).setup()  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", [1.0, 1e-300, 1e-30, 1e30, 1e305])
def test_size_factors_in_any_unit(unit: float) -> None:
    depth = 1 + ORDER % 7
    plain = GeneExpressionData(cells(depth=depth), size_factor_key="depth")
    data = GeneExpressionData(cells(depth=depth * unit), size_factor_key="depth")
    torch.testing.assert_close(data.dataset.size_factor, plain.dataset.size_factor)
    query = read_query(cells(depth=depth * unit)[3:9].copy(), data.state_dict())
    torch.testing.assert_close(query.dataset.size_factor, plain.dataset.size_factor[3:9])


def test_size_factors_that_vanish() -> None:
    depth = np.where(ORDER == 5, 1e-60, 1.0)
    with pytest.raises(DataError, match=r"size_factor_key='depth': 1 of 200 cells .* too far .* first 1e-60 in cell"):
        GeneExpressionData(cells(depth=depth), size_factor_key="depth").setup()
    state = GeneExpressionData(cells(depth=1 + ORDER), size_factor_key="depth").state_dict()
    with pytest.raises(DataError, match=r"size_factor_key='depth': 200 of 200 cells"):
        read_query(cells(depth=np.full(CELLS, 1e300)), state)
