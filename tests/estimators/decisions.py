"""A chain of four binary decisions, small enough to enumerate: exact gradients, exact values, exact lambda-returns.

Decision k is 1 with the log-odds ``offset[k] + link[k] (2 z[k-1] - 1)``. Each step has a cost, and the last one also
depends on all decisions. The expected gradient for every lambda is computed from the recursion of the lambda-return
over the 16 trajectories, without vaekit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

from vaekit.estimators import Baseline, Critic, ScoreFunction
from vaekit.graph.dependencies import NodeFunction

STEPS = 4
NAMES = [f"z{k}" for k in range(STEPS)]
OFFSET = torch.tensor([0.3, -0.5, 0.2, 0.6], dtype=torch.float64)
LINK = torch.tensor([0.0, 1.1, -0.8, 0.9], dtype=torch.float64)
OWN, JOINED = (1.0, -2.0, 1.5, 0.7), (0.0, 2.0, -1.0, 1.2)
STATES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=STEPS)), dtype=torch.float64)


def step_cost(k: int, values: list[Tensor]) -> Tensor:
    """Return the cost of step k, which depends on decisions k and k - 1, and at the last step on all."""
    cost = OWN[k] * values[k]
    if k:
        cost = cost + JOINED[k] * values[k] * values[k - 1]
    return cost if k < STEPS - 1 else cost + 1.5 * (sum(values) - 1.5) ** 2


def log_odds(k: int, before: list[Tensor], offset: Tensor, link: Tensor) -> Tensor:
    """Return the log-odds of decision k; parameters ``[*batch, STEPS]``."""
    return offset[..., k] + link[..., k] * (2 * before[k - 1] - 1 if k else 0)


def graph(offset: Tensor, link: Tensor) -> tuple[dict, dict]:
    """Return cost terms and nodes for ``vaekit.expectation``, with the batch dimensions of the parameters."""

    def conditional(k: int) -> NodeFunction:
        parents = NAMES[max(0, k - 1) : k]
        return NodeFunction(
            lambda **z: Bernoulli(logits=log_odds(k, [z.get(n) for n in NAMES[:k]], offset, link), validate_args=False),
            tuple(parents),
        )

    def cost(k: int) -> NodeFunction:
        seen = NAMES[: k + 1] if k == STEPS - 1 else NAMES[max(0, k - 1) : k + 1]
        return NodeFunction(lambda **z: step_cost(k, [z.get(n) for n in NAMES[: k + 1]]), tuple(seen))

    first = {NAMES[0]: Bernoulli(logits=offset[..., 0], validate_args=False)}
    return {f"step{k}": cost(k) for k in range(STEPS)}, first | {NAMES[k]: conditional(k) for k in range(1, STEPS)}


def trajectories(offset: Tensor, link: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of the decisions and costs of the steps, both ``[16, STEPS]``."""
    columns = list(STATES.T)
    odds = torch.stack([log_odds(k, columns, offset, link).expand(16) for k in range(STEPS)], 1)
    return Bernoulli(logits=odds).log_prob(STATES), torch.stack([step_cost(k, columns) for k in range(STEPS)], 1)


def true_values() -> list[Tensor]:
    """Return the expected cost-to-go of each step given the earlier decisions, ``[16]``: one per trajectory."""
    log_prob, costs = trajectories(OFFSET, LINK)
    values = []
    for k in range(STEPS):
        weight = log_prob[:, k:].sum(1).exp() * costs[:, k:].sum(1)
        same = (STATES[:, None, :k] == STATES[None, :, :k]).all(-1).double()
        values.append(same @ weight)
    return values


def exact_gradient() -> Tensor:
    """Return the gradient of the expected cost with respect to offset and link, ``[2 STEPS]``."""
    leaves = OFFSET.clone().requires_grad_(), LINK.clone().requires_grad_()
    log_prob, costs = trajectories(*leaves)
    return torch.cat(torch.autograd.grad((log_prob.sum(1).exp() * costs.sum(1)).sum(), leaves))


def expected_gradient(predictions: list[Tensor], lam: float) -> Tensor:
    """Return the expected estimate of the score function with critics, whose predictions are ``[16]`` per step."""
    leaves = OFFSET.clone().requires_grad_(), LINK.clone().requires_grad_()
    log_prob, costs = trajectories(*leaves)
    weight = log_prob.sum(1).exp().detach()
    surrogate, following = torch.zeros(()), torch.zeros(16, dtype=torch.float64)
    for k in reversed(range(STEPS)):
        following = costs[:, k] + following
        surrogate = surrogate + (weight * log_prob[:, k] * (following - predictions[k])).sum()
        following = (1 - lam) * predictions[k] + lam * following
    return torch.cat(torch.autograd.grad(surrogate, leaves))


class Table(nn.Module):
    """A critic's network that is a table of predictions, indexed by the earlier decisions."""

    def __init__(self, predictions: Tensor) -> None:
        super().__init__()
        self.predictions = nn.Parameter(predictions.clone())

    def forward(self, seen: Tensor) -> Tensor:
        """Return ``[...]`` from ``[..., k]`` decisions."""
        places = 2 ** torch.arange(STEPS - 1, STEPS - 1 - seen.shape[-1], -1)
        return self.predictions[(seen @ places.to(seen)).long()]


def wrong(predictions: list[Tensor]) -> list[Tensor]:
    """Return the predictions of imperfect critics: scaled, shifted, and biased by the latest decision."""
    return [0.6 * v + 0.4 + (0.8 * STATES[:, k - 1] if k else 0) for k, v in enumerate(predictions)]


def estimators(
    predictions: list[Tensor], lam: float, baseline: Callable[[], Baseline | None] = lambda: None, **options: int
) -> dict[str, ScoreFunction]:
    """Return one estimator per node, with a critic that has these predictions and does not learn."""
    result = {
        name: ScoreFunction(baseline=baseline(), critic=Critic(Table(value)), lam=lam, **options)
        for name, value in zip(NAMES, predictions, strict=True)
    }
    for estimator in result.values():
        estimator.eval()
    return result
