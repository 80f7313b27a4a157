"""The exact value and gradient of a graph's expected cost: sums over states times Gauss-Hermite quadrature.

The densities are computed from their definitions, without vaekit and torch.distributions.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .graphs import ENTRIES, SHIFTS, SUMMARY, Graph, Node, cost, location

POINTS = 24


def exact(graph: Graph, points: int = POINTS, shift: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
    """Return E[cost] and its gradient with respect to each parameter, at the cost's offset plus ``shift``."""
    parameters = {name: value.requires_grad_() for name, value in graph.parameters().items()}
    value = expected_cost(graph, parameters, points, shift)
    return value.detach(), dict(zip(parameters, torch.autograd.grad(value, list(parameters.values())), strict=True))


def expected_cost(graph: Graph, parameters: dict[str, Tensor], points: int = POINTS, shift: float = 0.0) -> Tensor:
    """Return E[cost] as a differentiable function of the parameters."""
    values: dict[str, Tensor] = {}
    weight = torch.ones(1, dtype=torch.float64)
    for node in graph.sorted:
        new, fraction = _grid(
            graph, node, parameters, values, len(weight), points
        )  # [points, states, *event], [points, states]
        values = {name: value.repeat(len(fraction), *[1] * (value.dim() - 1)) for name, value in values.items()}
        values[node.name] = new.flatten(0, 1)
        weight = (fraction * weight).flatten()
    shifted = {**parameters, "cost.offset": parameters["cost.offset"] + shift}
    return (weight * cost(graph, shifted, values)).sum()


def exact_over_a_batch(graph: Graph) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the expected loss of a batch that shares a node, and its gradient: the expectation is linear."""
    entries = [exact(graph, shift=shift) for shift in SHIFTS.tolist()]
    value = sum(weight * value for weight, (value, _) in zip(ENTRIES, entries, strict=True))
    names = entries[0][1]
    return value, {n: sum(w * gradient[n] for w, (_, gradient) in zip(ENTRIES, entries, strict=True)) for n in names}


def _grid(
    graph: Graph, node: Node, parameters: dict[str, Tensor], values: dict[str, Tensor], rows: int, points: int
) -> tuple[Tensor, Tensor]:
    at = location(graph, node, parameters, values)
    shape = SUMMARY[node.kind].shape
    at = at.expand(rows, *shape)
    variables = shape[0] if node.kind.endswith("vector") else 1
    flat = at.reshape(rows, variables, -1)  # [states, variables, 1 or K]
    if node.kind.startswith("normal"):
        x, w = np.polynomial.hermite_e.hermegauss(points)
        scale = parameters[f"{node.name}.log_scale"].exp().reshape(variables, 1)
        weights = torch.from_numpy(w / w.sum())[:, None, None].expand(-1, rows, variables)
        grid = [(flat + scale * float(t), fraction) for t, fraction in zip(x, weights, strict=True)]
    elif node.kind.startswith("bernoulli"):
        one = torch.sigmoid(flat[..., 0])
        grid = [(torch.zeros_like(flat), 1 - one), (torch.ones_like(flat), one)]
    else:
        prob = flat.exp() / flat.exp().sum(-1, keepdim=True)
        k = shape[-1]
        grid = [(F.one_hot(torch.tensor(i), k).double().expand(rows, variables, k), prob[..., i]) for i in range(k)]
    new, fraction = [], []
    for choice in itertools.product(grid, repeat=variables):  # the grid point of each variable
        new.append(torch.stack([choice[v][0][:, v] for v in range(variables)], 1).reshape(rows, *shape))
        fraction.append(torch.stack([choice[v][1][:, v] for v in range(variables)], 1).prod(1))
    return torch.stack(new), torch.stack(fraction)
