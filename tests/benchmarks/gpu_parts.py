"""What gpu.py measures apart from training: the device's rates, a step's floor, count likelihoods and noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.batch import Batch
from vaekit.estimators.noise import conditional_gumbel, gumbel
from vaekit.likelihoods.counts import sparse

Function = Callable[..., Tensor]


def seconds(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Return the median time of a call, after three that do not count."""
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def rates(device: torch.device, quick: bool) -> dict[str, float]:
    """Return the bytes a second of a copy, read and written, and the float32 operations a second of a product."""
    source = torch.empty((2**22 if quick else 2**28), device=device)
    target = torch.empty_like(source)
    size = 512 if quick else 8192
    a, b = torch.randn(2, size, size, device=device).unbind()
    return {
        "bytes_per_s": 2 * source.nbytes / seconds(lambda: target.copy_(source), device, 10),
        "flops_per_s": 2 * size**3 / seconds(lambda: a @ b, device, 10),
    }


def floor(model: nn.Module, batch: int, genes: int, heads: int, rate: dict[str, float]) -> dict[str, float]:
    """Return the least time of a training step in which nothing is read or written without need.

    Operations: three products a linear layer (forward, and for the gradients of weights and inputs), but two in the
    first. Bytes, in float32: the counts are read by encoder and likelihood, each head's logits written and read, their
    gradient written and read twice, the parameters, gradients and both moments of Adam read, and all but the gradients
    written, and these too. The floor is the larger of both times: a device can do both at once.
    """
    layers = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    products = 3 * sum(weight.numel() for weight in layers) - next(w.numel() for w in layers if w.shape[1] == genes)
    flops = 2 * batch * products
    moved = 4 * (batch * genes * (2 + 5 * heads) + 8 * sum(p.numel() for p in model.parameters()))
    times = {"flops_ms": 1e3 * flops / rate["flops_per_s"], "bytes_ms": 1e3 * moved / rate["bytes_per_s"]}
    return {**times, "floor_ms": max(times.values())}


def likelihoods(device: torch.device, cells: int, genes: int, repeats: int) -> list[dict[str, Any]]:
    """Time value and gradient of the count likelihoods, each way."""
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(genes, device=device).pow(4).mul(2).expand(cells, genes))
    batch = Batch(x, x.sum(1, keepdim=True).clamp_min(1))
    log_size = batch.size_factor.log()  # type: ignore[union-attr]
    rows = []
    for name, heads in (("nb", 1), ("zinb", 2)):
        logits, *gate = (torch.randn(cells, genes, device=device).requires_grad_() for _ in range(heads))
        log_theta = torch.zeros(genes, device=device, requires_grad=True)
        inputs = [logits, log_theta, *gate]
        ways: dict[str, Function] = {
            "kernel": lambda a, t, *g: sparse.log_prob(a, batch, t, *g),
            "compiled": torch.compile(lambda a, t, *g: sparse.dense_log_prob(a, log_size, t, g[0] if g else None, x)),
            "compiled32": torch.compile(lambda a, t, *g: dense32(a, log_size, t, g[0] if g else None, x)),
            "dense": lambda a, t, *g: sparse.dense_log_prob(a, log_size, t, g[0] if g else None, x),
        }
        row: dict[str, Any] = {"likelihood": name}
        for way, function in ways.items():
            row[f"{way}_ms"] = 1e3 * seconds(
                lambda function=function, inputs=inputs: torch.autograd.grad(function(*inputs).sum(), inputs),  # type: ignore[misc]
                device,
                repeats,
            )
        rows.append(row)
    return rows


def dense32(logits: Tensor, log_size: Tensor, log_theta: Tensor, gate: Tensor | None, x: Tensor) -> Tensor:
    """Return the textbook's formula in float32, whose terms cancel where counts or dispersions are large."""
    log_mean, theta = logits.log_softmax(-1) + log_size, log_theta.exp()
    log_both = torch.logaddexp(log_mean, log_theta)
    value = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    value = value + theta * (log_theta - log_both) + x * (log_mean - log_both)
    if gate is None:
        return value.sum(-1)
    value = value - nn.functional.softplus(gate)
    return torch.where(x == 0, torch.logaddexp(value, nn.functional.logsigmoid(gate)), value).sum(-1)


def noise(device: torch.device, cells: int, repeats: int) -> list[dict[str, Any]]:
    """Time the noise of Gumbel-Softmax and of REBAR, with its gradient, for 20 variables of 10 categories a cell."""
    logits = torch.randn(cells, 20, 10, device=device, requires_grad=True)

    def relaxed(logits: Tensor) -> Tensor:
        return ((logits + gumbel(logits)) / 0.5).softmax(-1)

    def twice(logits: Tensor) -> Tensor:
        free = logits.log_softmax(-1) + gumbel(logits)
        value = torch.zeros_like(free).scatter_(-1, free.argmax(-1, keepdim=True), 1.0)
        given = conditional_gumbel(logits, value)
        return torch.cat([(free / 0.5).softmax(-1), (given / 0.5).softmax(-1)])

    rows = []
    for name, function in (("gumbel", relaxed), ("rebar", twice)):
        row: dict[str, Any] = {"noise": name}
        for way, taken in (("eager", function), ("compiled", torch.compile(function))):
            row[f"{way}_ms"] = 1e3 * seconds(
                lambda taken=taken: torch.autograd.grad(taken(logits).square().sum(), logits),  # type: ignore[misc]
                device,
                repeats,
            )
        rows.append(row)
    return rows
