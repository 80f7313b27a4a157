"""Estimators over sets of states: exact sums over all possible sets, limits, extremes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Independent,
    OneHotCategorical,
    Poisson,
)

import vaekit.estimators.rao_blackwell
import vaekit.estimators.unordered_set
from vaekit import expectation
from vaekit.estimators import Enumerate, Estimator, LeaveOneOut, RaoBlackwell, ScoreFunction, UnorderedSet
from vaekit.estimators.unordered_set import completions
from vaekit.exceptions import EstimatorError

PROB = torch.tensor([0.05, 0.4, 0.2, 0.25, 0.1], dtype=torch.float64)
COST = torch.tensor([3.0, -1.0, 0.5, 2.0, -7.0], dtype=torch.float64)


def one_hot(logits: Tensor) -> Distribution:
    return OneHotCategorical(logits=logits)


def run(q: Distribution, logits: Tensor, estimator: Estimator, cost=None) -> tuple[Tensor, Tensor]:
    total = expectation(cost or (lambda z: (z * COST.to(z.dtype)).sum(-1)), q, estimator)
    return total.detach(), torch.autograd.grad(total.sum(), logits)[0]


def exact() -> tuple[Tensor, Tensor]:
    """Return the expectation and its gradient by the logits, by an explicit sum."""
    mean = (PROB * COST).sum()
    return mean, PROB * (COST - mean)


def force(monkeypatch: pytest.MonkeyPatch, module, scores: Tensor) -> None:
    """Replace the noise by ``scores`` ``[..., states, batch]``, except at excluded states."""
    monkeypatch.setattr(module, "perturb", lambda log_prob: torch.where(log_prob.isfinite(), scores, -math.inf))


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_unordered_set_is_unbiased_summed_over_every_order(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = torch.tensor(list(itertools.permutations(range(5), size)))
    drawn = PROB[orders]
    chance = (drawn / (1 - drawn.cumsum(1) + drawn)).prod(1)
    ranks = torch.arange(size, 0, -1, dtype=torch.float64).expand(orders.shape)
    scores = torch.zeros(len(orders), 5, dtype=torch.float64).scatter(1, orders, ranks).mT
    force(monkeypatch, vaekit.estimators.unordered_set, scores)
    logits = PROB.log().repeat(len(orders), 1).requires_grad_()
    value, gradient = run(one_hot(logits), logits, UnorderedSet(size))
    torch.testing.assert_close(chance.sum(), torch.ones_like(chance[0]))
    torch.testing.assert_close((chance * value).sum(), exact()[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((chance[:, None] * gradient).sum(0), exact()[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("num_exact", "num_samples"), [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (3, 1)])
def test_rao_blackwell_is_unbiased_summed_over_every_sample(
    num_exact: int, num_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = PROB.argsort(descending=True)[num_exact:]
    samples = torch.tensor(list(itertools.product(rest.tolist(), repeat=num_samples)))
    chance = (PROB[samples] / PROB[rest].sum()).prod(1)
    scores = torch.eye(5, dtype=torch.float64)[samples].permute(1, 2, 0)  # [num_samples, states, batch]
    force(monkeypatch, vaekit.estimators.rao_blackwell, scores)
    logits = PROB.log().repeat(len(samples), 1).requires_grad_()
    value, gradient = run(one_hot(logits), logits, RaoBlackwell(num_exact, num_samples))
    torch.testing.assert_close((chance * value).sum(), exact()[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((chance[:, None] * gradient).sum(0), exact()[1], rtol=1e-12, atol=1e-12)


EVERYTHING = {
    "bernoulli": (lambda x: Bernoulli(logits=x), (4,), UnorderedSet(2)),
    "categorical": (lambda x: Categorical(logits=x), (4, 6), UnorderedSet(6)),
    "one_hot": (one_hot, (4, 6), UnorderedSet(8)),
    "binomial": (lambda x: Binomial(5, logits=x), (4,), UnorderedSet(6)),
    "bernoulli_vector": (lambda x: Independent(Bernoulli(logits=x), 1), (4, 3), UnorderedSet(8)),
    "one_state": (one_hot, (4, 1), UnorderedSet(2)),
}


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("method", ["unordered", "all_exact", "one_sampled", "one_exact"])
def test_samples_of_all_states_agree_with_enumeration(name: str, method: str) -> None:
    make, shape, unordered = EVERYTHING[name]
    estimator: Estimator = {
        "unordered": unordered,
        "all_exact": RaoBlackwell(num_exact=100),
        "one_sampled": RaoBlackwell(num_exact=7, num_samples=1),
        "one_exact": RaoBlackwell(num_exact=1, num_samples=7),
    }[method]
    logits = torch.randn(shape, dtype=torch.float64).requires_grad_()

    def cost(z: Tensor) -> Tensor:
        z = z.double().reshape(*z.shape[:2], -1)
        return (1.0 + (z * torch.arange(1, z.shape[-1] + 1)).sum(-1)) ** 2

    expected, actual = (run(make(logits), logits, e, cost) for e in (Enumerate(), estimator))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_completions_are_sums_over_orders(size: int) -> None:
    chosen = torch.tensor([4, 0, 2, 1, 3])[:size]
    prob = torch.cat([PROB * 0.9, torch.tensor([0.1], dtype=torch.float64)])  # a sixth state is outside the set
    outside = 1 - prob[chosen].sum()
    table = completions(prob[chosen].log()[:, None], outside.log()[None])[:, 0].exp()
    for drawn in range(1, 2**size):
        left = [i for i in range(size) if not drawn >> i & 1]
        total = 0.0
        for order in itertools.permutations(left):
            mass, chance = float(outside + prob[chosen[left]].sum()), 1.0
            for i in order:
                chance *= float(prob[chosen[i]]) / mass
                mass -= float(prob[chosen[i]])
            total += chance
        assert math.isclose(table[drawn], total, rel_tol=1e-12)


FITTING = {
    "rao_blackwell": RaoBlackwell(),
    "rao_blackwell_2_2": RaoBlackwell(2, 2),
    "unordered_set": UnorderedSet(),
    "unordered_set_4": UnorderedSet(4),
}
by_estimator = pytest.mark.parametrize("estimator", FITTING.values(), ids=FITTING)


@by_estimator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "extreme",
    [
        [0.0, -200.0, -200.0, -200.0, -200.0],
        [1e30, -1e30, 0.0, 0.0, 1e29],
        [3e37, -3e37, -3e37, -3e37, -3e37],
        [1e30, 1e30, 1e30, -1e30, -1e30],
        [0.0, -math.inf, -math.inf, -math.inf, -math.inf],
        [0.0, 1.0, -math.inf, -math.inf, -200.0],
        [0.0, -17.0, -18.0, -30.0, -90.0],
    ],
)
def test_extreme_logits_give_finite_gradients(estimator: Estimator, extreme: list[float], dtype: torch.dtype) -> None:
    logits = torch.tensor(extreme, dtype=dtype).repeat(50, 1).requires_grad_()
    sample = estimator.sample(one_hot(logits))
    torch.testing.assert_close(sample.weight.sum(0), torch.ones(50, dtype=dtype))
    assert (sample.weight >= 0).all()
    value, gradient = run(one_hot(logits), logits, estimator)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    prob = torch.tensor(extreme, dtype=torch.float64).softmax(-1)
    if prob.max() > 1 - 1e-6:
        assert (value - (prob * COST).sum()).abs().max() < 1e-4
        assert gradient.abs().max() < 1e-4


@by_estimator
def test_extreme_vectors_give_finite_gradients(estimator: Estimator) -> None:
    logits = torch.tensor([1e30, -1e30, 0.3, -200.0, 90.0]).repeat(50, 1).requires_grad_()
    q = Independent(Bernoulli(logits=logits), 1)
    value, gradient = run(q, logits, estimator)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient[:, [0, 1, 3, 4]].abs() < 1e-6).all()
    assert (gradient[:, 2] != 0).all()


@by_estimator
def test_infinite_cost_of_an_impossible_state_does_no_harm(estimator: Estimator) -> None:
    logits = torch.tensor([0.0, -math.inf, -math.inf, -math.inf]).repeat(50, 1).requires_grad_()
    q = Categorical(logits=logits)
    value, gradient = run(q, logits, estimator, lambda z: torch.where(z > 0, math.inf, 2.0))
    assert (value == 2).all()
    assert (gradient == 0).all()


@by_estimator
def test_states_are_distinct_where_they_should_be(estimator: Estimator) -> None:
    sample = estimator.sample(Categorical(probs=PROB.expand(200, 5)))
    distinct = len(sample.value) if isinstance(estimator, UnorderedSet) else estimator.num_exact
    states = sample.value[:distinct].sort(0).values
    assert (states[1:] != states[:-1]).all()
    if isinstance(estimator, RaoBlackwell):
        assert (states == PROB.topk(distinct).indices.sort().values[:, None]).all()
        assert not torch.isin(sample.value[distinct:], states).any()


@by_estimator
@pytest.mark.parametrize("baseline", [None, LeaveOneOut()], ids=["plain", "leave_one_out"])
def test_variance_is_lower_than_that_of_the_score_function(estimator: Estimator, baseline: LeaveOneOut | None) -> None:
    """For equal evaluations, if few states have most of the mass and the mean cost is not 0."""
    logits = torch.tensor([0.9, 0.05, 0.03, 0.01, 0.01]).double().log().repeat(20_000, 1).requires_grad_()
    score = ScoreFunction(estimator.num_evaluations(one_hot(logits)), baseline)
    variances = [
        run(one_hot(logits), logits, e, lambda z: 2 + (z * COST).sum(-1))[1].var(0).sum() for e in (estimator, score)
    ]
    assert variances[0] < 0.5 * variances[1]


def test_more_exact_states_lower_the_variance() -> None:
    logits = PROB.log().repeat(20_000, 1).requires_grad_()
    variances = [run(one_hot(logits), logits, RaoBlackwell(k))[1].var(0).sum() for k in (1, 2, 3, 4)]
    assert variances == sorted(variances, reverse=True)
    assert variances[-1] < 1e-20


@by_estimator
def test_too_many_states_are_rejected_with_an_alternative(estimator: Estimator) -> None:
    name = type(estimator).__name__
    for variables, count in ((13, 8192), (200, 2**200)):
        q = Independent(Bernoulli(logits=torch.zeros(2, variables)), 1)
        match = rf"{name}: Independent\(Bernoulli\) has {count} states.*4096.*LocalExpectation"
        with pytest.raises(EstimatorError, match=match):
            expectation(lambda z: z.sum(-1), q, estimator)
    q = Independent(Bernoulli(logits=torch.zeros(2, 12)), 1)
    assert expectation(lambda z: z.sum(-1), q, estimator).shape == (2,)


@by_estimator
def test_infinite_support_and_joint_samples_are_rejected(estimator: Estimator) -> None:
    with pytest.raises(EstimatorError, match="does not support Poisson"):
        expectation(lambda z: z, Poisson(torch.ones(2)), estimator)
    with pytest.raises(EstimatorError, match="not finite"):
        estimator.sample(Poisson(torch.ones(2)))
    with pytest.raises(EstimatorError, match="joint samples"):
        estimator.sample(Categorical(probs=PROB), torch.Size())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RaoBlackwell(0), "num_exact=0 must"),
        (lambda: RaoBlackwell(1, 0), "num_samples=0 must"),
        (lambda: UnorderedSet(1), "num_samples=1 must be 2 to 8"),
        (lambda: UnorderedSet(9), "num_samples=9 must be 2 to 8.*RaoBlackwell"),
        (lambda: UnorderedSet(0), "num_samples=0 must"),
    ],
)
def test_numbers_out_of_range_are_rejected(make, match: str) -> None:
    with pytest.raises(EstimatorError, match=match):
        make()
