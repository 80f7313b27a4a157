"""How processes share rows."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DistributedSampler, RandomSampler

from vaekit.data.dataset import BatchIndexSampler
from vaekit.data.ranks import batches_of_rank, num_batches
from vaekit.exceptions import DataError

SIZES = [(rows, size, processes) for rows in (*range(1, 40), 100) for size in (1, 3, 8) for processes in (1, 2, 3, 5)]


@pytest.mark.parametrize("even", [True, False])
def test_each_row_once(even: bool) -> None:
    for rows, size, processes in SIZES:
        if even and rows < processes:
            continue
        order = torch.randperm(rows)
        shares = [batches_of_rank(order, size, rank, processes, even) for rank in range(processes)]
        assert sorted(torch.cat([batch for share in shares for batch in share]).tolist()) == list(range(rows))
        assert {len(share) for share in shares} == {num_batches(rows, size, processes, even)}


def test_shares_of_a_training_step_differ_by_one_row_at_most() -> None:
    for rows, size, processes in SIZES:
        if rows < processes:
            continue
        shares = (batches_of_rank(torch.arange(rows), size, rank, processes, True) for rank in range(processes))
        steps = zip(*shares, strict=True)
        *whole, last = [[len(share) for share in step] for step in steps]
        assert all(step == [size] * processes for step in whole)
        assert max(last) - min(last) <= 1
        assert 1 <= min(last) <= max(last) <= size + 1


def test_evaluation_has_the_batches_of_one_process() -> None:
    for rows, size, processes in SIZES:
        order = torch.randperm(rows)
        alone = [batch.tolist() for batch in order.split(size)]
        shares = [batches_of_rank(order, size, rank, processes, False) for rank in range(processes)]
        together = [batch.tolist() for turn in zip(*shares, strict=True) for batch in turn]
        assert [batch for batch in together if batch] == alone
        assert together[: len(alone)] == alone


def test_too_few_rows_to_train_on() -> None:
    with pytest.raises(DataError, match="2 training observations cannot be shared by 3 processes"):
        num_batches(2, 8, 3, even=True)


def test_the_order_is_common_and_new_each_epoch() -> None:
    rows = range(50)
    found = []
    for epoch in range(2):
        shares = []
        for rank in range(2):
            torch.manual_seed(rank)  # each process has noise of its own
            sampler: DistributedSampler = DistributedSampler(rows, num_replicas=2, rank=rank, shuffle=True, seed=7)
            batches = BatchIndexSampler(sampler, 10, even=True, order=RandomSampler(rows))
            sampler.set_epoch(epoch)
            before = torch.get_rng_state()
            shares.append(list(batches))
            assert torch.get_rng_state().equal(before)
            assert len(batches) == len(shares[-1]) == 3
        found.append([torch.stack(step, 1).flatten().tolist() for step in zip(*shares, strict=True)])
        assert sorted(row for step in found[-1] for row in step) == list(rows)
    assert found[0] != found[1]
