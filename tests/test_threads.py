"""Work on torch's own threads: each part once, errors not lost, and the same results as on one thread."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from vaekit import threads
from vaekit.batch import Batch
from vaekit.likelihoods import sparse


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 101])
@pytest.mark.parametrize("smallest", [0, 1, 40])
def test_each_part_is_done_once(two_threads, count, smallest):
    done = np.zeros(count, int)
    calls = []

    def work(first: int, last: int) -> None:
        done[first:last] += 1
        calls.append((first, last))

    threads.in_parts(work, count, smallest)
    assert (done == 1).all()
    assert all(last - first >= smallest for first, last in calls) or len(calls) == 1


def test_the_parts_are_side_by_side(two_threads):
    if threads._openmp() is None:
        pytest.skip("torch does not run on GNU's OpenMP here")
    both = threading.Barrier(2, timeout=30)  # that neither passes alone
    threads.in_parts(lambda first, last: both.wait(), 2)


def test_without_the_library_there_is_one_part(two_threads, monkeypatch):
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    calls = []
    threads.in_parts(lambda first, last: calls.append((first, last)), 7)
    assert calls == [(0, 7)]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_is_raised(two_threads, kind):
    def fail(first: int, last: int) -> None:
        if last == 8:
            raise kind("the last part")

    with pytest.raises(kind, match="the last part"):
        threads.in_parts(fail, 8)


def test_counts_are_evaluated_the_same_on_one_thread_and_on_two(two_threads, monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    genes, cells = 700, 3 * sparse.SMALLEST // 700
    x = torch.poisson(normal(cells, genes).exp(), generator=generator)
    logits, log_theta, gate = (
        part.requires_grad_() for part in (normal(cells, genes), normal(genes), normal(cells, genes))
    )
    parts = []

    def watched(work, count, smallest):
        threads.in_parts(lambda first, last: (parts.append((first, last)), work(first, last)), count, smallest)

    monkeypatch.setattr(sparse, "in_parts", watched)

    def evaluate() -> list[Tensor]:
        value = sparse.log_prob(logits, Batch(x, x.sum(-1, keepdim=True)), log_theta, gate)
        return [value, *torch.autograd.grad(value.sum(), (logits, log_theta, gate))]

    found = evaluate()
    assert len(parts) == (1 if threads._openmp() is None else 2)
    torch.set_num_threads(1)
    for one, other in zip(found, evaluate(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)  # torch's own sums are divided, too
