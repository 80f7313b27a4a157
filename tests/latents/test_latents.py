"""The latents: posteriors, priors, divergences and summaries."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal
from torch.distributions import StudentT as StudentTDistribution

from vaekit.distributions.divergence import analytic_divergence, kl_or_estimate
from vaekit.latents import (
    Bernoulli,
    Categorical,
    Dirichlet,
    Gamma,
    Gaussian,
    LibrarySize,
    Poisson,
    Product,
    StudentT,
)

WIDTH = 4
LATENTS = {
    "gaussian": lambda: Gaussian(3),
    "category": lambda: Categorical(4),
    "categories": lambda: Categorical(3, variables=2, learned_prior=True),
    "bits": lambda: Bernoulli(3),
    "gamma": lambda: Gamma(3, concentration=0.3, rate=2.0),
    "dirichlet": lambda: Dirichlet(3, concentration=0.2),
    "student_t": lambda: StudentT(3),
    "library_size": LibrarySize,
    "poisson": lambda: Poisson(3, rate=0.5),
    "product": lambda: Product({"kind": 4, "phase": 2}, learned_prior=True),
}
EVENTS = {"category": (1, 4), "categories": (2, 3), "library_size": (1,), "product": (2, 4)}  # of the others (3,)
WITH_PARENTS = {
    "gaussian": lambda **more: Gaussian(3, **more),
    "categories": lambda **more: Categorical(3, variables=2, **more),
    "bits": lambda **more: Bernoulli(3, **more),
    "gamma": lambda **more: Gamma(3, concentration=0.3, rate=2.0, **more),
    "dirichlet": lambda **more: Dirichlet(3, concentration=0.2, **more),
    "student_t": lambda **more: StudentT(3, **more),
    "library_size": lambda **more: LibrarySize(**more),
    "poisson": lambda **more: Poisson(3, rate=0.5, **more),
    "product": lambda **more: Product({"kind": 4, "phase": 2}, **more),
}


def built(name: str):
    latent = LATENTS[name]()
    latent.build(WIDTH, None)
    return latent


@pytest.mark.parametrize("name", LATENTS)
def test_shapes(name):
    latent = built(name)
    q = latent.posterior(torch.randn(5, WIDTH))
    event = EVENTS.get(name, (3,))
    assert (q.batch_shape, q.event_shape) == ((5,), event)
    assert latent.prior(None, torch.zeros(())).event_shape == event
    value = q.sample((2, 7))
    assert latent.flatten(value).shape == (2, 7, 5, latent.size)
    assert latent.summary(q).shape == (5, latent.size)


@pytest.mark.parametrize("name", LATENTS)
def test_summary_is_the_mean_of_what_the_decoder_sees(name):
    """By drawing, |z| < 4.5 for at most 30 numbers: a false alarm with a probability of 0.02 %."""
    latent = built(name)
    q = latent.posterior(torch.randn(5, WIDTH))
    with torch.no_grad():
        draws = latent.flatten(q.sample((20_000,)))
        difference = draws.mean(0) - latent.summary(q)
    assert (difference.abs() < 4.5 * draws.std(0) / math.sqrt(len(draws)) + 1e-6).all()


@pytest.mark.parametrize("name", LATENTS)
def test_divergence_is_its_definition(name):
    """By drawing: KL = E_q[log q - log p], |z| < 4.5 for five rows."""
    latent = built(name)
    if name == "categories":
        torch.nn.init.normal_(latent.prior_logits)
    q, p = latent.posterior(torch.randn(5, WIDTH) * 3), latent.prior(None, torch.zeros(()))
    with torch.no_grad():
        value = q.sample((20_000,))
        draws = q.log_prob(value) - p.log_prob(value)
        analytic = analytic_divergence(q, p)
        assert (analytic is None) == (name == "student_t")
        if analytic is None:
            analytic = quadrature_divergence(q, p)
        difference = draws.mean(0) - analytic
    assert (difference.abs() < 4.5 * draws.std(0) / math.sqrt(len(draws)) + 1e-6).all()


def quadrature_divergence(q, p) -> torch.Tensor:
    """KL of independent variables on the whole line, summed over dimensions, by the trapezoidal rule in sinh steps."""
    u = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    x, step = u.sinh(), (u[1] - u[0]) * u.cosh()
    loc, scale = (t.double() for t in (q.base_dist.loc, q.base_dist.scale))
    at, df = loc + scale * x[:, None, None], q.base_dist.df.double()
    log_q = StudentTDistribution(df, loc, scale).log_prob(at)
    log_p = StudentTDistribution(df, 0.0, 1.0).log_prob(at)
    return (log_q.exp() * (log_q - log_p) * scale * step[:, None, None]).sum((0, 2)).float()


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", WITH_PARENTS)
def test_prior_given_a_continuous_parent(name, conditional):
    """It starts at the prior without parents, then depends on them; so does the posterior, if it is conditional."""
    latent = WITH_PARENTS[name](parents=["u"], conditional_posterior=conditional)
    latent.build(WIDTH, 2, discrete_parents=False)
    alone = LATENTS[name]()
    alone.build(WIDTH, None)
    parents, like = torch.randn(7, 5, 2), torch.zeros(())
    value = alone.prior(None, like).sample((7, 5))
    expected = alone.prior(None, like).log_prob(value)
    torch.testing.assert_close(latent.prior(parents, like).log_prob(value), expected, rtol=1e-3, atol=1e-3)
    torch.nn.init.normal_(latent.prior_network[1].weight)
    prior = latent.prior(parents, like)
    assert prior.batch_shape == (7, 5)
    assert not torch.allclose(prior.log_prob(value), expected, atol=0.01)
    assert latent.posterior_parents == (("u",) if conditional else ())
    features = latent.condition_on_parents(torch.randn(5, WIDTH), parents) if conditional else torch.randn(5, WIDTH)
    assert latent.posterior(features).batch_shape == ((7, 5) if conditional else (5,))


def test_variables_of_a_product_by_hand():
    latent = Product({"kind": 4, "phase": 2})
    latent.build(WIDTH, None)
    h = torch.randn(6, WIDTH)
    q = latent.posterior(h)
    kind, phase = latent.head(h).split([4, 2], -1)
    wanted = torch.cat([kind.softmax(-1), phase.softmax(-1)], -1)
    torch.testing.assert_close(latent.summary(q), wanted)
    p = latent.prior(None, torch.zeros(()))
    entropy = sum(torch.special.entr(part.softmax(-1)).sum(-1) for part in (kind, phase))
    torch.testing.assert_close(analytic_divergence(q, p), math.log(4) + math.log(2) - entropy)
    assert (q.sample((500,))[..., 1, 2:] == 0).all()  # impossible
    assert latent.codes(wanted).equal(torch.stack([kind.argmax(-1), phase.argmax(-1)], -1))
    assert [latent.unit_name(index) for index in (0, 3, 4, 5)] == ["kind:0", "kind:3", "phase:0", "phase:1"]
    assert latent.unit_activity(latent.moments(wanted)).shape == (6,)


def test_learned_prior_is_softmax_and_uniform_at_first():
    latent = built("categories")
    codes = F.one_hot(torch.tensor([[0, 2]]), 3).float()
    assert latent.prior(None, torch.zeros(())).log_prob(codes).item() == pytest.approx(-2 * math.log(3))
    with torch.no_grad():
        latent.prior_logits.copy_(torch.tensor([[0.0, 1.0, 2.0], [0.5, 0.0, 0.0]]))
    wanted = latent.prior_logits.log_softmax(-1)[[0, 1], [0, 2]].sum()
    assert latent.prior(None, torch.zeros(())).log_prob(codes).item() == pytest.approx(wanted.item())


def test_mixture_prior_is_a_component_a_category():
    latent = Gaussian(2, parents=["y"])
    latent.build(WIDTH, 3)
    loc, raw = latent.components.weight.detach().T.chunk(2, -1)
    scale = F.softplus(raw + 0.5413) + 1e-4
    assert scale.allclose(torch.ones(3, 2), atol=1e-3)  # at first
    z = torch.randn(7, 2)
    prior = latent.prior(torch.eye(3)[:, None], z)
    assert prior.batch_shape == (3, 1)
    torch.testing.assert_close(prior.log_prob(z), Normal(loc[:, None], scale[:, None]).log_prob(z).sum(-1))


def test_category_given_others_by_hand():
    latent = Categorical(3, variables=2, parents=["a", "b"])
    latent.build(WIDTH, 5)
    h, parents = torch.randn(6, WIDTH), F.one_hot(torch.randint(5, (7, 6)), 5).float()
    q = latent.posterior(latent.condition_on_parents(h, parents))
    assert (q.batch_shape, q.event_shape) == ((7, 6), (2, 3))
    linear, norm, _ = latent.joining.layers
    hidden = F.linear(h, linear.weight[:, :WIDTH], linear.bias) + F.linear(parents, linear.weight[:, WIDTH:])
    features = F.layer_norm(hidden, (WIDTH,), norm.weight, norm.bias).relu()
    probabilities = latent.head(features).unflatten(-1, (2, 3)).softmax(-1)
    torch.testing.assert_close(q.mean, probabilities)
    assert latent.point_estimate(q).equal(F.one_hot(probabilities.argmax(-1), 3).float())
    prior = latent.prior(parents, h)
    torch.testing.assert_close(prior.mean, torch.full((7, 6, 2, 3), 1 / 3))  # at first
    network, last = latent.prior_network
    torch.nn.init.normal_(last.weight)
    wanted = last(network(torch.eye(5)))[parents.argmax(-1)].unflatten(-1, (2, 3)).softmax(-1)
    torch.testing.assert_close(latent.prior(parents, h).mean, wanted)


def test_bits_are_most_probably_what_is_likelier():
    latent = Bernoulli(3)
    latent.build(WIDTH, None)
    torch.nn.init.zeros_(latent.head.weight)
    with torch.no_grad():
        latent.head.bias.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    assert latent.point_estimate(latent.posterior(torch.ones(2, WIDTH))).tolist() == [[0, 0, 1]] * 2


@pytest.mark.parametrize("large", [-1e4, 1e4])
def test_extreme_heads_are_finite(large):
    for name in LATENTS:
        latent = built(name)
        torch.nn.init.constant_(latent.head.weight, large)
        q = latent.posterior(torch.ones(2, WIDTH, requires_grad=True))
        p, value = latent.prior(None, torch.zeros(())), q.rsample() if q.has_rsample else q.sample()
        kl = kl_or_estimate(q, p, value)
        (kl.sum() + latent.flatten(value).mean()).backward()
        assert latent.head.bias.grad.isfinite().all(), name
        assert kl.isfinite().all(), name
        assert name == "student_t" or (kl >= 0).all(), name


@pytest.mark.parametrize(
    ("latent", "estimator"),
    [
        (Categorical(16), "Enumerate"),
        (Categorical(2, variables=6), "Enumerate"),
        (Categorical(2, variables=7), "ScoreFunction"),
        (Categorical(10, variables=20), "ScoreFunction"),
        (Bernoulli(6), "Enumerate"),
        (Bernoulli(7), "DisARM"),
        (Gaussian(3), "Pathwise"),
        (Gamma(3), "Pathwise"),
        (Dirichlet(3), "Pathwise"),
        (StudentT(3), "Pathwise"),
        (LibrarySize(), "Pathwise"),
    ],
)
def test_auto(latent, estimator):
    latent.build(WIDTH, None)
    assert type(latent.estimator).__name__ == estimator


def test_auto_draws_no_pairs_on_the_axis_of_joint_trajectories():
    latent = Bernoulli(7)
    latent.build(WIDTH, None, joint=True)
    assert type(latent.estimator).__name__ == "ScoreFunction"
