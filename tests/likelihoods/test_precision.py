"""In mixed precision only the matrix products of the heads are in half precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from vaekit.batch import Batch
from vaekit.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)

CELLS, FEATURES, WIDTH = 6, 300, 4
COUNTS = (Poisson, NegativeBinomial, ZeroInflatedNegativeBinomial)
KINDS = {
    "bernoulli": Bernoulli,
    "categorical": lambda: Categorical(levels=4),
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "gene_cell": lambda: NegativeBinomial("gene-cell"),
    "zero_inflated": ZeroInflatedNegativeBinomial,
}


def case(name: str, observed: bool) -> tuple[Likelihood, Tensor, Batch]:
    generator = torch.Generator().manual_seed(0)
    likelihood = KINDS[name]()
    likelihood.build(WIDTH, FEATURES)
    x = torch.rand(CELLS, FEATURES, generator=generator)
    if isinstance(likelihood, COUNTS):
        x = torch.poisson(20 * x**3, generator=generator)
    seen = (torch.rand(CELLS, FEATURES, generator=generator) < 0.7) if observed else None
    batch = Batch(x, size_factor=x.sum(1, keepdim=True), observed=seen)
    return likelihood, torch.randn(CELLS, WIDTH, generator=generator), batch


@pytest.mark.parametrize("observed", [False, True], ids=["all", "some"])
@pytest.mark.parametrize("name", list(KINDS))
def test_all_but_the_heads_is_in_float32(name: str, observed: bool) -> None:
    """Given the heads' outputs in half precision, the log-probability equals the one in float64."""
    likelihood, h, batch = case(name, observed)
    exact, outputs = copy.deepcopy(likelihood).double(), []
    for layer, twin in zip(likelihood.modules(), exact.modules(), strict=True):
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda module, given, output: outputs.append(output))
            twin.register_forward_hook(lambda module, given, output: outputs.pop(0).double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = likelihood.log_prob(h, batch)
    assert value.dtype == torch.float32
    assert outputs
    assert all(output.dtype == torch.bfloat16 for output in outputs)
    doubled = Batch(batch.x.double(), size_factor=batch.size_factor.double(), observed=batch.observed)
    wanted = exact.log_prob(h.double(), doubled)
    assert not outputs
    torch.testing.assert_close(value.double(), wanted, rtol=2e-6, atol=1e-3)
