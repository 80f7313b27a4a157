import numpy as np
import pytest
import torch

from vaekit.data.splits import SPLITS, split_rows
from vaekit.exceptions import DataError

FRACTIONS = (0.8, 0.1, 0.1)


def test_parts_are_disjoint_sorted_and_complete():
    parts = split_rows(101, FRACTIONS, seed=3)
    assert [len(parts[name]) for name in SPLITS] == [81, 10, 10]
    assert torch.cat(list(parts.values())).sort().values.equal(torch.arange(101))
    for rows in parts.values():
        assert rows.dtype == torch.int64
        assert rows.equal(rows.sort().values)


def test_seed_alone_decides():
    first = split_rows(100, FRACTIONS, seed=1)
    torch.rand(3)
    np.random.rand(3)
    assert all(first[name].equal(split_rows(100, FRACTIONS, seed=1)[name]) for name in SPLITS)
    assert not first["test"].equal(split_rows(100, FRACTIONS, seed=2)["test"])


def test_global_generators_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    split_rows(50, FRACTIONS, seed=0, codes=np.arange(50) % 2)
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_classes_keep_their_shares():
    codes = np.repeat([0, 1, 2, -1], [500, 300, 150, 50])
    for rows in split_rows(1000, FRACTIONS, seed=0, codes=codes).values():
        shares = [(codes[rows.numpy()] == code).mean() for code in (0, 1, 2, -1)]
        np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.011)


@pytest.mark.parametrize("sizes", [[1], [30, 1], [30, 1, 1], [30, 2, 1], [5] * 6, [1] * 30, [3, 1] * 10, [40, 3, 3, 3]])
def test_small_classes_do_not_fail(sizes):
    codes = np.repeat(np.arange(len(sizes)), sizes)
    if len(codes) < 30:
        codes = np.concatenate([codes, np.full(30 - len(codes), 99)])
    for seed in range(5):
        parts = split_rows(len(codes), FRACTIONS, seed, codes)
        assert torch.cat(list(parts.values())).sort().values.equal(torch.arange(len(codes)))


@pytest.mark.parametrize("fractions", [(0.8, 0.2), (0.8, 0.2, 0.0), (0.8, 0.3, -0.1), (0.8, 0.1, 0.2)])
def test_fractions_that_do_not_work(fractions):
    with pytest.raises(DataError, match=r"three positive fractions that sum to 1"):
        split_rows(100, fractions, seed=0)


@pytest.mark.parametrize("num_rows", [0, 1, 2, 4])
def test_too_few_rows(num_rows):
    with pytest.raises(DataError, match=rf"split=\(0.8, 0.1, 0.1\) of {num_rows} observations leaves"):
        split_rows(num_rows, FRACTIONS, seed=0)
