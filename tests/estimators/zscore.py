"""Monte Carlo gradients, one replicate per entry of the batch, compared with exact ones."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.estimators import Estimator
from vaekit.graph.dependencies import parse_graph
from vaekit.graph.expectation import evaluate
from vaekit.graph.sampling import sample_graph

from .conformance import CONTEXT_FEATURES
from .graphs import ENTRIES, Graph, as_expectation, shared_over

PILOT, CHUNK, LIMIT = 10_000, 40_000, 4_000_000
EVALUATIONS = 64 * CHUNK  # maximum number of simultaneous cost evaluations
PRECISION = 0.01  # largest standard error, relative to the norm of the exact gradient
THRESHOLD = 4.0


class Moments(NamedTuple):
    """Mean and standard error of the value ``[]`` and of the gradient ``[components]``; number of replicates."""

    value: Tensor
    value_error: Tensor
    gradient: Tensor
    error: Tensor
    count: int


def _leaves(graph: Graph, batch: int) -> dict[str, Tensor]:
    return {n: p.expand(batch, *p.shape).clone().requires_grad_() for n, p in graph.parameters().items()}


def replicate(
    graph: Graph,
    estimators: dict[str, Estimator],
    batch: int,
    num_samples: int | None = None,
    shared: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return values ``[batch]`` and gradients ``[batch, components]``, with separate leaves for each entry.

    With ``shared``, each entry is a batch whose entries share the samples of the node of that name.
    """
    leaves = _leaves(graph, batch)
    cost, q = as_expectation(graph, leaves if shared is None else shared_over(graph, shared, leaves))
    inner = () if shared is None else (len(ENTRIES),)
    context = torch.randn(batch, *inner, CONTEXT_FEATURES, dtype=torch.float64)
    total = evaluate(cost, q, estimators, num_samples=num_samples, context=context).total
    total = total if shared is None else total @ ENTRIES
    gradients = torch.autograd.grad(total.sum(), list(leaves.values()))
    return total.detach(), torch.cat([g.reshape(batch, -1) for g in gradients], 1)


def warm_up(graph: Graph, estimators: dict[str, Estimator], num_samples: int | None) -> None:
    """Train baselines with a few small calls."""
    networks = [p for e in estimators.values() for p in e.parameters()]
    optimizer = torch.optim.Adam(networks, 0.01) if networks else None
    for _ in range(10):
        cost, q = as_expectation(graph, _leaves(graph, 8))
        context = torch.randn(8, CONTEXT_FEATURES, dtype=torch.float64)
        loss = evaluate(cost, q, estimators, num_samples=num_samples, context=context).total.mean()
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def num_rows(graph: Graph, estimators: dict[str, Estimator], num_samples: int | None = None) -> int:
    """Return the number of cost evaluations per replicate."""
    cost, q = as_expectation(graph, _leaves(graph, 1))
    context = torch.zeros(1, CONTEXT_FEATURES, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        drawn = sample_graph(parse_graph(cost, q)[0], estimators, num_samples=num_samples, context=context)
    return num_samples or math.prod(len(sample.weight) for sample in drawn.samples.values())


def measure(
    graph: Graph,
    estimators: dict[str, Estimator],
    target_error: Tensor,
    num_samples: int | None = None,
    limit: int = LIMIT,
    shared: str | None = None,
    fraction: float = 1.0,
) -> Moments:
    """Sample replicates until the ``target_error`` standard errors; a discarded pilot determines their number.

    The pilot and the chunks have a ``fraction`` of their usual size.

    A rule based on the replicates themselves would stop early if a skewed one is small by chance.
    """
    entries = 1 if shared is None else len(ENTRIES)
    pilot_size, chunk = int(PILOT * fraction), int(CHUNK * fraction)
    size = min(chunk, EVALUATIONS // entries // num_rows(graph, estimators, num_samples))
    pieces = [min(size, pilot_size - start) for start in range(0, pilot_size, size)]
    pilot = torch.cat([replicate(graph, estimators, piece, num_samples, shared)[1] for piece in pieces])
    margin = 1.3 / fraction**0.5  # a small pilot underestimates heavy tails
    needed = int(margin * (pilot.var(0) / target_error.square()).max())
    chunks = max(1, math.ceil(min(max(needed, pilot_size), limit) / size))
    sums, squares = torch.zeros(()), torch.zeros(())
    for _ in range(chunks):
        value, gradient = replicate(graph, estimators, size, num_samples, shared)
        difference = torch.cat([value[:, None], gradient], 1)
        difference[:, 1:] -= pilot.mean(0)  # for numerical precision only
        sums, squares = sums + difference.sum(0), squares + difference.square().sum(0)
    count = chunks * size
    mean = sums / count
    error = ((squares / count - mean.square()).clamp_min(0) / count).sqrt()
    return Moments(mean[0], error[0], mean[1:] + pilot.mean(0), error[1:], count)


def blocks(graph: Graph, gradient: dict[str, Tensor]) -> Tensor:
    """Return for each component the norm of the exact gradient of all parameters of its node, or of the cost."""
    owner = {name: name.split(".")[0] for name in gradient}
    norms = {o: torch.cat([g.flatten() for n, g in gradient.items() if owner[n] == o]).norm() for o in owner.values()}
    return torch.cat([norms[owner[n]].expand(g.numel()) for n, g in gradient.items()])
