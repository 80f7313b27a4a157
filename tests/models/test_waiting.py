"""A training step of a model with discrete latents waits for the device nowhere."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.tiny import MODELS, batch_for
from vaekit import DiscreteVAE
from vaekit.estimators import (
    REBAR,
    RELAX,
    DisARM,
    GumbelRao,
    LocalExpectation,
    MeasureValued,
    MuProp,
    RaoBlackwell,
    ReinMax,
    UnorderedSet,
)
from vaekit.likelihoods import Bernoulli
from vaekit.models import VAE
from vaekit.networks import MLP

# Operations that bring a number, or a size that depends on numbers, back to the host.
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"}
ESTIMATORS = {
    "disarm": DisARM,
    "gumbel_rao": GumbelRao,
    "local_expectation": LocalExpectation,
    "measure_valued": MeasureValued,
    "muprop": MuProp,
    "rao_blackwell": RaoBlackwell,
    "rebar": REBAR,
    "reinmax": ReinMax,
    "relax": lambda: RELAX(MLP([4])),
    "unordered_set": UnorderedSet,
}
DISCRETE = [name for name in MODELS if name.startswith("discrete_")]


class Waits(TorchDispatchMode):
    """Counts such operations, forward and backward; a profiler may lose events of a region as short as these."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.name().split(".")[0]
        if name in WAITS:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def waits(model: VAE) -> dict[str, int]:
    """Return how often each such operation runs in the second step: the first looks for gradient paths."""
    batch = batch_for(Bernoulli)
    model.training_step(batch, 0).backward()
    with Waits() as counted:
        model.training_step(batch, 1).backward()
    return dict(counted.seen)


@pytest.mark.parametrize("name", [*DISCRETE, "mixed_bits", "mixed_sampled", "mixed_child_first"])
def test_step_of_a_model_waits_for_nothing(name: str) -> None:
    assert waits(MODELS[name](Bernoulli())) == {}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_step_with_an_estimator_waits_for_nothing(name: str) -> None:
    model = DiscreteVAE(5, Bernoulli(), variables=2, categories=3, hidden=[8], estimator=ESTIMATORS[name]())
    assert waits(model) == {}


def test_the_count_sees_what_waits() -> None:
    """torch's own family, unvalidated outside, checks its logits inside."""
    with Waits() as counted:
        torch.distributions.OneHotCategorical(logits=torch.zeros(2, 3), validate_args=False)
    assert counted.seen["aten::_local_scalar_dense"]


def test_the_count_sees_what_waits_in_the_backward_pass() -> None:
    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):  # type: ignore[no-untyped-def]
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):  # type: ignore[no-untyped-def]
            return gradient * gradient.sum().item()

    value = torch.ones(3, requires_grad=True)
    with Waits() as counted:
        Backward.apply(value).sum().backward()
    assert counted.seen == {"aten::_local_scalar_dense": 1}
