"""Types and shapes of a cost: precision, conversions and the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal

from vaekit import expectation, importance_weighted_bound
from vaekit.estimators import (
    DisARM,
    Enumerate,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    MovingAverage,
    Pathwise,
    RaoBlackwell,
    ScoreFunction,
    SelfCritic,
    UnorderedSet,
)
from vaekit.exceptions import EstimatorError

BATCH, LOGIT, LARGE = 20_000, 0.3, 1e8
WITHOUT_PATH = {
    "enumerate": Enumerate,
    "score": lambda: ScoreFunction(4, LeaveOneOut()),
    "self_critic": lambda: ScoreFunction(baseline=SelfCritic()),
    "disarm": DisARM,
    "local_expectation": LocalExpectation,
    "measure_valued": MeasureValued,
    "rao_blackwell": RaoBlackwell,
    "unordered_set": UnorderedSet,
}


def gradient(cost: Callable[[Tensor], Any], estimator: Any, batch: int = BATCH) -> Tensor:
    torch.manual_seed(0)
    logits = torch.full((batch,), LOGIT, requires_grad=True)
    expectation(cost, Bernoulli(logits=logits), estimator).sum().backward()
    return logits.grad


@pytest.mark.parametrize("make", WITHOUT_PATH.values(), ids=WITHOUT_PATH)
@pytest.mark.parametrize(
    "convert",
    [
        lambda z: z.numpy().astype(np.float64) - 0.45,
        lambda z: z.numpy().astype(np.longdouble) - 0.45,
        lambda z: (z.numpy().astype(">f8") - 0.45)[::-1][::-1],
    ],
    ids=["float64", "longdouble", "big endian"],
)
def test_numpy_cost_keeps_its_precision(make: Callable, convert: Callable) -> None:
    """In float32 a constant of 1e8 would hide all differences; a float64 tensor has the same gradients."""
    actual = gradient(lambda z: LARGE + convert(z) ** 2, make(), 200)
    expected = gradient(lambda z: LARGE + (z.double() - 0.45) ** 2, make(), 200)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    "cost",
    [
        lambda z: [[LARGE + (v - 0.45) ** 2 for v in row] for row in z.tolist()],
        lambda z: (1e8 + 1000 * z.numpy()).astype(np.int64),
        lambda z: (1e8 + 1000 * z.double()).long(),
        lambda z: 2**24 + z.int(),
    ],
    ids=["lists", "int64", "int64 tensor", "int32 tensor"],
)
def test_lists_and_integers_keep_their_precision(cost: Callable) -> None:
    p = torch.tensor(LOGIT).sigmoid()
    difference = cost(torch.tensor([[0.0, 1.0]]))[0]
    expected = p * (1 - p) * (float(difference[1]) - float(difference[0]))
    torch.testing.assert_close(gradient(cost, Enumerate(), 3), expected.expand(3), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.numpy()], ids=["tensor", "numpy"])
def test_integer_and_bool_costs_are_converted(convert: Callable, dtype: torch.dtype) -> None:
    actual = gradient(lambda z: convert((z < 0.5).to(dtype)), Enumerate(), 3)
    torch.testing.assert_close(actual, gradient(lambda z: (z < 0.5).float(), Enumerate(), 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_cost_is_folded_in_full(dtype: torch.dtype) -> None:
    """Half precision represents the costs 0 and 1 exactly, but not the mean of 4097 of them."""
    q = Bernoulli(logits=torch.tensor(LOGIT))
    total = expectation(lambda z: z.to(dtype), q, ScoreFunction(4097, MovingAverage()))
    assert total.dtype == torch.float32
    assert (total.double() * 4097).sub(round(total.item() * 4097)).abs() < 1e-2


@pytest.mark.parametrize(
    ("cost", "problem"),
    [
        (lambda z: z.byte() - 1, "unsigned type torch.uint8"),
        (lambda z: z.numpy().astype(np.uint8) - 1, "unsigned type uint8"),
        (lambda z: z.numpy().astype(np.uint32), "unsigned type uint32"),
        (lambda z: torch.complex(z, z), "complex"),
        (lambda z: 1j * z.numpy(), "complex64"),
        (lambda z: None, "is a NoneType"),
        (lambda z: ["a"], "is a list"),
    ],
    ids=["uint8", "uint8 numpy", "uint32 numpy", "complex", "complex numpy", "none", "strings"],
)
def test_cost_that_is_rejected(cost: Callable, problem: str) -> None:
    with pytest.raises(EstimatorError, match=f"the cost .*{problem}"):
        gradient(cost, Enumerate(), 3)


def normal(*shape: int) -> Normal:
    return Normal(torch.zeros(shape, requires_grad=True), 1.0)


X = torch.arange(4.0)
SUMMED = {
    "scalar": (lambda z: (z - X).square().sum(), normal(4)),
    "sum of the last": (lambda z: (z - X).square().sum(-1), normal(4)),
    "kept axis": (lambda z: (z - X).square().mean(-1, keepdim=True), normal(4)),
    "one of two axes": (lambda z: z.square().sum(-2, keepdim=True), normal(4, 3)),
    "one of two equal axes": (lambda z: z.square().sum(-1), normal(3, 3)),
    "both axes": (lambda z: z.square().sum((-1, -2), keepdim=True), normal(4, 3)),
    "event and batch": (lambda z: z.sum(-1).sum(-1, keepdim=True), Independent(normal(4, 3), 1)),
}


@pytest.mark.parametrize(("cost", "q"), SUMMED.values(), ids=SUMMED)
@pytest.mark.parametrize("num_samples", [1, 2, 3, 4])
def test_cost_that_is_summed_over_the_batch_is_rejected(cost: Callable, q: Any, num_samples: int) -> None:
    with pytest.raises(EstimatorError, match="the cost"):
        expectation(cost, q, Pathwise(num_samples))
    with pytest.raises(EstimatorError, match="the cost"):
        expectation(cost, q, Pathwise(), num_samples=num_samples)
    with pytest.raises(EstimatorError, match="log_joint"):
        importance_weighted_bound(cost, q, num_samples=num_samples)


@pytest.mark.parametrize(
    "cost",
    [
        lambda z: z.square().sum(-1, keepdim=True),
        lambda z: float(z.detach().square().sum()),
        lambda z: z.detach().numpy().sum(-1),
        lambda: torch.ones(1),
        lambda: torch.ones(()),
        lambda: np.ones(1),
    ],
    ids=["tensor", "number", "numpy", "no node", "no node, scalar", "no node, numpy"],
)
def test_term_that_is_summed_over_the_batch_is_rejected_by_name(cost: Callable) -> None:
    with pytest.raises(EstimatorError, match="cost term 'kl'"):
        expectation({"ok": lambda z: z, "kl": cost}, {"z": normal(4)}, Pathwise())
    with pytest.raises(EstimatorError, match="cost term 'kl'"):  # also with a node that the batch shares
        expectation(
            {"ok": lambda z, g: z + g, "kl": cost}, {"z": normal(4), "g": normal(1)}, {"z": Pathwise(), "g": Pathwise()}
        )


def test_term_of_a_node_that_the_batch_shares_is_repeated() -> None:
    g = torch.ones(1, requires_grad=True)
    q = {"g": Normal(g, 1e-6), "z": lambda g: Normal(g.expand(*g.shape[:-1], 4), 1e-6)}
    total = expectation({"kl": lambda g: 3 * g, "fit": lambda z: z * X}, q, Pathwise(2))
    torch.testing.assert_close(total, 3 + X, atol=1e-4, rtol=0)
    total.sum().backward()
    torch.testing.assert_close(g.grad, torch.tensor([12.0 + 6.0]), atol=1e-4, rtol=0)


def test_number_of_no_node_counts_for_each_entry() -> None:
    total = expectation({"fit": lambda z: z * 0 + X, "constant": lambda: 2.5}, {"z": normal(4)}, Pathwise(2))
    torch.testing.assert_close(total, X.double() + 2.5)  # a Python number has 64 bits


def test_batch_of_one_entry_may_be_summed() -> None:
    torch.testing.assert_close(
        expectation(lambda z: (z * 0).sum(-1, keepdim=True), normal(1), Pathwise(3)), torch.zeros(1)
    )


def test_views_of_arrays_are_copied() -> None:
    """torch rejects negative strides."""
    q = Bernoulli(logits=torch.zeros(3))
    weights = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    actual = expectation(lambda b: weights[:, ::-1], q, ScoreFunction(2))
    torch.testing.assert_close(actual, torch.tensor([3.5, 2.5, 1.5]))


@pytest.mark.parametrize("cost", [np.ma.masked_array([1.0, 2.0], [True, False]), [[1.0], [2.0, 3.0]]])
def test_arrays_with_missing_entries_are_rejected(cost: Any) -> None:
    with pytest.raises(EstimatorError, match=r"the cost is a (MaskedArray|list)"):
        expectation(lambda b: cost, Bernoulli(logits=torch.zeros(2)), ScoreFunction())
