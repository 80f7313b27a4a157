"""A training step of a model with discrete latents waits for the device nowhere."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.models.tiny import MODELS, batch_for
from vaekit import DiscreteVAE
from vaekit.estimators import (
    DisARM,
    GumbelRao,
    LocalExpectation,
    MeasureValued,
    MuProp,
    RaoBlackwell,
    Rebar,
    ReinMax,
    Relax,
    UnorderedSet,
)
from vaekit.likelihoods import Bernoulli
from vaekit.models import VAE
from vaekit.networks import MLP

# Operations that bring a number, or a size that depends on numbers, back to the host.
WAITS = {"aten::is_nonzero", "aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"}
ESTIMATORS = {
    "disarm": DisARM,
    "gumbel_rao": GumbelRao,
    "local_expectation": LocalExpectation,
    "measure_valued": MeasureValued,
    "muprop": MuProp,
    "rao_blackwell": RaoBlackwell,
    "rebar": Rebar,
    "reinmax": ReinMax,
    "relax": lambda: Relax(MLP([4])),
    "unordered_set": UnorderedSet,
}
DISCRETE = [name for name in MODELS if name.startswith("discrete_")]


def waits(model: VAE) -> dict[str, int]:
    """Return how often each such operation runs in the second step: the first looks for gradient paths."""
    batch = batch_for(Bernoulli)
    model.training_step(batch, 0).backward()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        model.training_step(batch, 1).backward()
    return {event.key: event.count for event in profiler.key_averages() if event.key in WAITS}


@pytest.mark.parametrize("name", [*DISCRETE, "mixed_bits", "mixed_sampled", "mixed_child_first"])
def test_step_of_a_model_waits_for_nothing(name: str) -> None:
    assert waits(MODELS[name](Bernoulli())) == {}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_step_with_an_estimator_waits_for_nothing(name: str) -> None:
    model = DiscreteVAE(5, Bernoulli(), variables=2, categories=3, hidden=[8], estimator=ESTIMATORS[name]())
    assert waits(model) == {}


def test_the_count_sees_what_waits() -> None:
    """torch's own family, unvalidated outside, checks its logits inside."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.distributions.OneHotCategorical(logits=torch.zeros(2, 3), validate_args=False)
    assert any(event.key in WAITS for event in profiler.key_averages())
