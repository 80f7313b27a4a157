"""Gradient paths in autograd's graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vaekit.graph.gradient_path import has_gradient_path


def start() -> Tensor:
    return torch.tensor([0.3, -1.2, 2.1], requires_grad=True) * 1.0


WITH = {
    "the value itself": lambda z: z,
    "square": lambda z: z.square().sum(),
    "zero weights": lambda z: nn.functional.linear(z, torch.zeros(2, 3, requires_grad=True)),
    "times zero": lambda z: z * 0,
    "relu where it is flat": lambda z: torch.relu(z - 100),
    "true division": lambda z: torch.div(z, 2, rounding_mode=None),
    "remainder": lambda z: z % 1,
    "clamp": lambda z: z.clamp(-1, 1),
    "step plus smooth": lambda z: z.sign() + z,
    "smooth behind a branch": lambda z: torch.where(z > 0, z, 0),
    "checkpointed": lambda z: checkpoint(torch.sin, z, use_reentrant=False),
    "in place": lambda z: (z + 1).mul_(2),
    "sorted": lambda z: z.sort().values,
    "a long chain": lambda z: [z := torch.sin(z) for _ in range(3000)][-1],
}
WITHOUT = {
    "sign": torch.sign,
    "sgn": torch.sgn,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "round to decimals": lambda z: z.round(decimals=1),
    "trunc": torch.trunc,
    "fix": torch.fix,
    "floor division": lambda z: z // 1,
    "floor_divide": lambda z: torch.floor_divide(z, torch.ones(3)),
    "rounded division": lambda z: torch.div(z, 2, rounding_mode="floor"),
    "truncated division": lambda z: torch.div(z, 2, rounding_mode="trunc"),
    "heaviside": lambda z: torch.heaviside(z, torch.ones(3)),
    "comparison": lambda z: (z > 0).float(),
    "argmax": lambda z: torch.arange(3.0)[z.argmax()],
    "branch": lambda z: torch.where(z > 0, 1.0, 0.0),
    "buckets": lambda z: torch.bucketize(z, torch.zeros(1)).float(),
    "detached": lambda z: z.detach().square(),
    "integers": lambda z: z.int().float(),
    "a function of the sign": lambda z: torch.sin(z.sign()) ** 2 + z.floor(),
    "a constant": lambda z: torch.ones(3),
}


@pytest.mark.parametrize("function", WITH.values(), ids=WITH)
def test_finds_a_path(function) -> None:
    z = start()
    assert has_gradient_path(function(z), z)


@pytest.mark.parametrize("function", WITHOUT.values(), ids=WITHOUT)
@pytest.mark.parametrize("weighted", [False, True], ids=["bare", "times a weight"])
def test_finds_no_path(function, weighted: bool) -> None:
    """With a weight the output requires a gradient that does not reach the value."""
    z = start()
    output = function(z)
    assert not has_gradient_path(output * torch.ones((), requires_grad=True) if weighted else output, z)


def test_another_value_does_not_count() -> None:
    z, other = start(), start()
    assert not has_gradient_path(other.square(), z)
    assert has_gradient_path(other * z, z)


def test_values_that_need_no_gradient_have_no_path() -> None:
    z = torch.zeros(3)
    assert not has_gradient_path(z.square(), z)
    with torch.no_grad():
        z = start()
    assert not has_gradient_path(z.square(), z)


def test_shared_subgraphs_are_walked_once() -> None:
    """A graph with 2^200 paths is traversed in linear time."""
    z, other = start(), start()
    x = other
    for _ in range(200):
        x = x + x
    assert not has_gradient_path(x, z)
