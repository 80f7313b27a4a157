"""Every distribution with pathwise gradients: density, samples, first and second derivatives.

Derivatives: |z| < 4 for 4 to 40 components and two costs per family, about 190 in total; Kolmogorov-Smirnov tests at a
level of 1e-4 for 13 families. With random seeds, a correct library would fail with a probability of at most
190 * 6.3e-5 + 13e-4 = 0.014 at each strength. Seeds are fixed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from strength import strengths

from .families import FAMILIES, Family, derivatives, integral

CHUNK, LIMIT = 25_000, 24


def leaves(family: Family, count: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.full((count,), p, dtype=dtype, requires_grad=True) for p in family.parameters]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_log_prob_and_cdf_are_scipys(family):
    q, exact = family.make(*leaves(family, 1)), family.frozen(*family.parameters)
    z = np.concatenate([np.linspace(a, b, 42)[1:-1] for a, b in zip(family.edges, family.edges[1:], strict=False)])
    pdf, log_prob = exact.pdf(z), q.log_prob(torch.from_numpy(z)).detach()
    np.testing.assert_allclose(log_prob[pdf > 1e-290].numpy(), np.log(pdf[pdf > 1e-290]), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(q.cdf(torch.from_numpy(z)).detach().numpy(), exact.cdf(z), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_samples_follow_scipys_cdf(family):
    samples = family.make(*(p.detach()[0] for p in leaves(family, 1))).sample(torch.Size([20_000]))
    assert stats.kstest(samples.numpy(), family.frozen(*family.parameters).cdf).pvalue > 1e-4


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_moments_agree_with_quadrature(family):
    q = family.make(*leaves(family, 1))
    if family.name.startswith("von"):
        cosine = integral(family, lambda z: np.cos(z - family.parameters[0]), family.parameters)
        assert q.variance.item() == pytest.approx(1 - cosine, rel=1e-10)
    else:
        mean = integral(family, lambda z: z, family.parameters)
        assert q.mean.item() == pytest.approx(mean, rel=1e-9)
        variance = integral(family, lambda z: (z - mean) ** 2, family.parameters)
        assert q.variance.item() == pytest.approx(variance, rel=1e-8)
    if not family.name.startswith("mix"):
        exact = family.frozen(*family.parameters)
        entropy = integral(family, lambda z: -np.log(np.maximum(exact.pdf(z), 1e-300)), family.parameters)
        assert q.entropy().item() == pytest.approx(entropy, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("family", "cost"),
    [(f, c) for f in FAMILIES for c in f.costs],
    ids=lambda x: getattr(x, "name", getattr(x, "__name__", "")),
)
@strengths
def test_first_and_second_derivatives_agree_with_quadrature(family, cost, fraction):
    chunk, precision = int(CHUNK * fraction), family.precision / fraction**0.5
    gradient, hessian = derivatives(lambda p: integral(family, cost, p), family.parameters)
    size = len(gradient)
    lower = torch.tril_indices(size, size)
    exact = torch.cat([gradient, hessian[lower[0], lower[1]]])
    scale = torch.cat([gradient.norm().expand(size), hessian.norm().expand(lower.shape[1])])
    scale[0] = gradient[0].abs() if family.name.startswith("log_gamma") else scale[0]  # of the concentration
    sums, squares, count = torch.zeros_like(exact), torch.zeros_like(exact), 0
    for _ in range(LIMIT):
        parameters = leaves(family, chunk)
        value = cost(family.make(*parameters).rsample())
        first = torch.autograd.grad(value.sum(), parameters, create_graph=True)
        second = [torch.autograd.grad(g.sum(), parameters, retain_graph=True) for g in first]
        actual = torch.stack([*first, *(second[i][j] for i, j in lower.T.tolist())], -1).detach() - exact
        sums, squares, count = sums + actual.sum(0), squares + actual.square().sum(0), count + chunk
        mean = sums / count
        error = ((squares / count - mean.square()) / count).sqrt()
        if count >= 4 * chunk and (error <= precision * scale).all():
            break
    assert (error[:size] <= precision * scale[:size]).all(), error / scale
    assert (error <= 3 * precision * scale).all(), error / scale
    assert (mean.abs() / (error + 1e-6 * scale)).max() < 4, mean / error


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_shapes_and_expanding(family):
    q = family.make(*(p.detach() for p in leaves(family, 3)))
    expanded = q.expand(torch.Size([2, 3]))
    assert type(expanded) is type(q)
    assert (expanded.batch_shape, expanded.event_shape) == ((2, 3), ())
    samples = expanded.rsample(torch.Size([4]))
    assert samples.shape == (4, 2, 3)
    assert samples.unique().numel() == samples.numel()
    torch.testing.assert_close(expanded.log_prob(samples), q.log_prob(samples))
    assert expanded.mean.shape == expanded.variance.shape == (2, 3)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_float32_samples_and_gradients_are_finite(family):
    parameters = leaves(family, 20_000, torch.float32)
    q = family.make(*parameters)
    samples = q.rsample()
    assert samples.dtype == q.log_prob(samples).dtype == torch.float32
    assert samples.isfinite().all()
    for output in (samples.sum(), q.log_prob(samples.detach()).sum()):
        assert all(g.isfinite().all() for g in torch.autograd.grad(output, parameters, retain_graph=True))


@pytest.mark.usefixtures("no_checks_of_parameters")
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("family", [f for f in FAMILIES if "laplace" not in f.name], ids=lambda f: f.name)
def test_gradients_under_vmap_and_compile(family):  # torch's Laplace.sample fails under vmap
    parameters = torch.tensor(family.parameters, dtype=torch.float64).repeat(4, 1)

    def sample(row: torch.Tensor) -> torch.Tensor:
        return family.make(*row.unbind(-1)).rsample()

    torch.compiler.reset()
    gradient = torch.vmap(torch.func.grad(sample), randomness="different")(parameters)
    compiled = torch.compile(sample, fullgraph=True, backend="eager")(parameters.requires_grad_())
    assert gradient.isfinite().all()
    assert torch.autograd.grad(compiled.sum(), parameters)[0].isfinite().all()
