"""Part (a) of credit_assignment.py: bias and variance of lambda-returns, on a chain that is enumerated.

The chain is the one of tests/estimators/decisions.py: four binary decisions, whose exact gradient, and the mean of the
estimate at every lambda, are sums over 16 trajectories. Critics are small networks, trained a little or long by the
library next to the nodes, then held; a wrong one is far from the truth.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from estimators import decisions
from torch import Tensor, nn
from tqdm.auto import tqdm

import vaekit
from vaekit.estimators import Critic, Estimator, ScoreFunction

LAMBDAS = (0.0, 0.5, 0.9, 0.95, 1.0)
TRAJECTORIES = 100  # of a gradient step, whose mean squared error is requested next to that of one


def trained(steps: int) -> list[Tensor]:
    """Return what critics add_critic_return after training by ``backward`` on expectations of 32 trajectories."""
    nets = [nn.Sequential(nn.Linear(max(k, 1), 16), nn.Tanh(), nn.Linear(16, 1)).double() for k in range(4)]
    chosen: dict[str, Estimator] = {
        name: ScoreFunction(critic=Critic(net)) for name, net in zip(decisions.NAMES, nets, strict=True)
    }
    optimizer = torch.optim.Adam([p for net in nets[1:] for p in net.parameters()], 0.01)
    cost, q = decisions.graph(decisions.OFFSET[None], decisions.LINK[None])
    for _ in range(steps):
        optimizer.zero_grad()
        vaekit.expectation(cost, q, chosen, num_samples=32).sum().backward()
        optimizer.step()
    with torch.no_grad():  # the root's critic sees nothing: its running mean
        return [chosen[name].critic(decisions.STATES[:, :k]) for k, name in enumerate(decisions.NAMES)]


def gradients(chosen: dict[str, Estimator], count: int) -> Tensor:
    """Return ``[count, components]`` independent estimates, each of one trajectory."""
    leaves = [p.expand(count, 4).clone().requires_grad_() for p in (decisions.OFFSET, decisions.LINK)]
    total = vaekit.expectation(*decisions.graph(*leaves), chosen, num_samples=1)
    return torch.cat(torch.autograd.grad(total.sum(), leaves), 1)


def table(replicates: int, few: int, many: int) -> tuple[float, list[dict[str, Any]]]:
    """Return the norm of the exact gradient, and a line for each critic and lambda."""
    values, exact = decisions.true_values(), decisions.exact_gradient()
    critics = {
        "none": None,
        f"trained {few} steps": trained(few),
        f"trained {many} steps": trained(many),
        "wrong": decisions.wrong(values),
        "exact": values,
    }
    lines = []
    for name, foreseen in tqdm(critics.items(), desc="(a)"):
        for lam in LAMBDAS if foreseen is not None else (1.0,):
            if foreseen is None:
                chosen: dict[str, Estimator] = {node: ScoreFunction() for node in decisions.NAMES}
                mean = exact
            else:
                foreseen[0] = torch.zeros(16, dtype=torch.float64)  # of the root: held at 0, it has nothing to see
                chosen = dict(decisions.estimators(foreseen, lam))
                mean = decisions.expected_gradient(foreseen, lam)
            found = gradients(chosen, replicates)
            error = found.std(0) / replicates**0.5
            moving = error > 0
            z = ((found.mean(0) - mean).abs() / error)[moving].max()
            bias, variance = (mean - exact).norm(), found.var(0).sum()
            lines.append(
                {
                    "critic": name,
                    "lam": lam,
                    "bias": bias.item(),
                    "measured_bias": (found.mean(0) - exact).norm().item(),
                    "z": z.item(),
                    "variance": variance.item(),
                    "mse": (bias.square() + variance).item(),
                    f"mse_{TRAJECTORIES}": (bias.square() + variance / TRAJECTORIES).item(),
                }
            )
    return exact.norm().item(), lines
