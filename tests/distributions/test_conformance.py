"""Every public distribution: density, samples and moments agree, in each type of its parameters.

|z| < 4.5 for about 60 components: with random seeds, a correct library would fail with a probability of 4e-4.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal

from vaekit.distributions import (
    ContinuousBernoulli,
    LogDirichlet,
    LogGamma,
    MixtureSameFamily,
    NegativeBinomial,
    OneHotCategorical,
    TruncatedNormal,
    VonMises,
    ZeroInflated,
)

COUNT = 20_000
# From parameters ``[*batch, 3]`` around 0 to a distribution with batch shape ``[*batch]``.
TABLE: dict[type[Distribution], Callable[[Tensor], Distribution]] = {
    ContinuousBernoulli: lambda t: ContinuousBernoulli(logits=3 * t[..., 0]),
    LogDirichlet: lambda t: LogDirichlet(t.exp()),
    LogGamma: lambda t: LogGamma(t[..., 0].exp(), t[..., 1].exp()),
    MixtureSameFamily: lambda t: MixtureSameFamily(Categorical(logits=t), Normal(3 * t.detach(), t.exp())),
    NegativeBinomial: lambda t: NegativeBinomial(log_mean=t[..., 0] + 1, log_inverse_dispersion=t[..., 1]),
    OneHotCategorical: lambda t: OneHotCategorical(logits=t),
    TruncatedNormal: lambda t: TruncatedNormal(t[..., 0], t[..., 1].exp(), -0.5, 1.0),
    VonMises: lambda t: VonMises(t[..., 0], t[..., 1].exp()),
    ZeroInflated: lambda t: ZeroInflated(
        NegativeBinomial(log_mean=t[..., 0] + 1, log_inverse_dispersion=t[..., 1]), t[..., 2]
    ),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
AT = (0.625, -0.5, 0.25)


def leaf(dtype: torch.dtype, *batch: int) -> Tensor:
    return torch.tensor(AT, dtype=dtype).expand(*batch, 3).clone().requires_grad_()


def z_score(values: Tensor, expected: Tensor) -> Tensor:
    values = values.double()
    return (values.mean(0) - expected.double()).abs() / (values.std(0) / len(values) ** 0.5 + 1e-6)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("family", TABLE, ids=lambda f: f.__name__)
def test_the_score_of_samples_has_the_mean_zero(family: type, dtype: torch.dtype) -> None:
    """The log-density is normalized for all parameters, and the samples follow it."""
    torch.manual_seed(0)
    t = leaf(dtype, COUNT)
    q = TABLE[family](t)
    log_prob = q.log_prob(q.sample())
    assert log_prob.shape == (COUNT,)
    assert z_score(torch.autograd.grad(log_prob.sum(), t)[0], torch.zeros(3)).max() < 4.5


@pytest.mark.parametrize("family", [f for f in TABLE if f is not VonMises], ids=lambda f: f.__name__)
def test_moments_of_samples(family: type) -> None:
    torch.manual_seed(1)
    q = TABLE[family](leaf(torch.float64))
    with torch.no_grad():
        samples = q.sample((COUNT,))
        assert z_score(samples, q.mean).max() < 4.5
        assert z_score((samples - q.mean).square(), q.variance).max() < 4.5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", TABLE, ids=lambda f: f.__name__)
def test_expanding_and_types(family: type, dtype: torch.dtype) -> None:
    q = TABLE[family](leaf(dtype, 2))
    large = q.expand((4, 2))
    assert type(large) is type(q) is family
    assert (large.batch_shape, large.event_shape) == ((4, 2), q.event_shape)
    samples = large.sample((3,))
    assert samples.shape == (3, 4, 2, *q.event_shape)
    assert samples.isfinite().all()
    torch.testing.assert_close(large.log_prob(samples), q.log_prob(samples))
    assert large.log_prob(samples).isfinite().all()
