"""Latents that depend on one another: ELBO, samples, posteriors and priors against all paths, and errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from vaekit import DiscreteVAE, MixedVAE, SequentialVAE
from vaekit.batch import Batch
from vaekit.diagnostics import posterior_summaries
from vaekit.diagnostics.generation import category_means, sample_prior
from vaekit.estimators import Enumerate, LeaveOneOut, LocalExpectation, ScoreFunction, SelfCritic
from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.latents import Categorical, Gaussian
from vaekit.likelihoods import Bernoulli, NegativeBinomial
from vaekit.models.objectives import ELBO, IWAE

from .paths import cells, critic, list_paths, sequential
from .tiny import FEATURES, counts, repeated, sharpen


@pytest.mark.parametrize("num_samples", [None, 3])
def test_bound_of_draws_is_the_exact_one_on_average(num_samples):
    """|z| < 4.5 for three cells and the total and three divergences: a false alarm with a probability of 0.01 %."""
    model = sharpen(sequential(ScoreFunction(), num_samples), 1.5)
    for row in (0, 1, 11):
        exact = list_paths(model, repeated(counts(), row, 1))
        with torch.no_grad():
            result = model.loss(repeated(counts(), row, 20_000), training=True)
            q = exact.log_q.sum(0).exp()
            wanted = {f"kl_z{t + 1}": (q * (exact.log_q - exact.log_p)[t]).sum() for t in range(3)}
            wanted["total"] = exact.loss().sum()
        for name, value in {**result.terms, "total": result.total}.items():
            if name in wanted:
                error = value.double().std() / math.sqrt(len(value))
                assert abs(value.double().mean() - wanted[name]) < 4.5 * error + 1e-5, name


def test_draws_have_the_posteriors_and_the_priors_frequencies():
    """For all 12 paths, |z| < 4.5 for two cells and the prior; a false alarm has a probability of 0.03 %."""
    model = sharpen(sequential(), 1.5).eval()
    count = 20_000
    with torch.no_grad():
        listed = list_paths(model, cells(1))
        drawn = model.sample_posterior(cells(1), count)
        prior = sample_prior(model, count)
    for values, exact in ((drawn, listed.log_q), (prior, listed.log_p[:, :, :1])):
        codes = torch.stack([v.squeeze(-2).argmax(-1) for v in values.values()], -1).reshape(count, -1, 3)
        share = (codes[:, :, None] == listed.codes).all(-1).double().mean(0).T  # [paths, cells]
        wanted = exact.sum(0).exp()
        assert ((share - wanted).abs() < 4.5 * (wanted * (1 - wanted) / count).sqrt() + 1e-9).all()


def test_means_of_a_category_are_those_with_the_latent_set_by_hand():
    """The latent before it has its prior, the one after it its prior given both; |z| < 4.5 for 15 numbers."""
    model = sharpen(SequentialVAE(FEATURES, Bernoulli(), categories=[2, 3, 2], hidden=[6]), 1.5).eval()
    count = 20_000
    drawn = category_means(model, "z2", count)
    with torch.no_grad():
        listed = list_paths(model, Batch(torch.zeros(1, FEATURES)))
        codes = listed.codes
        values = {f"z{t + 1}": one_hot(codes[:, t], k)[:, None].float() for t, k in enumerate((2, 3, 2))}
        means = model.networks.observation(values, Batch(torch.zeros(len(codes), FEATURES))).mean.double()
    weight = (listed.log_p[0] + listed.log_p[2]).exp()
    wanted = torch.stack([(weight * means)[codes[:, 1] == category].sum(0) for category in range(3)])
    error = drawn.double().std(1) / math.sqrt(count)
    assert ((drawn.double().mean(1) - wanted).abs() < 4.5 * error + 1e-6).all()


def test_posteriors_are_those_on_the_most_probable_path():
    model = sharpen(sequential(), 2.0).eval()
    batch = counts()
    with torch.no_grad():
        listed, q = list_paths(model, batch), model.posteriors(batch)
    path: list[Tensor] = []
    for place, name in enumerate(model.latents):
        probabilities = model.latents[name].summary(q[name])
        assert probabilities.shape == (12, model.latents[name].size)
        for cell in range(12):
            same = torch.stack(
                [listed.codes[:, t] == code[cell] for t, code in enumerate(path)] or [listed.codes[:, 0] >= 0]
            )
            for category in range(probabilities.shape[1]):  # any path that begins so says the same of this latent
                row = int((same.all(0) & (listed.codes[:, place] == category)).nonzero()[0])
                wanted = listed.log_q[place, row, cell].exp().item()
                assert probabilities[cell, category].item() == pytest.approx(wanted, rel=1e-4)
        path.append(probabilities.argmax(-1))
    assert len({tuple(row) for row in torch.stack(path, -1).tolist()}) > 1
    first, again = (posterior_summaries(model, [batch]) for _ in range(2))
    assert all(value.equal(again[name]) for name, value in first.items())  # without random numbers


def test_a_mixture_may_hang_on_a_sequence():
    """The parents of a Gaussian's prior act through it only; the decoder sees those of a category."""
    latents = {
        "z": Gaussian(2, parents=["fine"]),
        "fine": Categorical(3, parents=["coarse"]),
        "coarse": Categorical(2, learned_prior=True),
    }
    made = MixedVAE(FEATURES, NegativeBinomial(), latents=latents, hidden=[6], dropout=0.0)
    assert made.networks.order == ("coarse", "fine", "z")
    assert made.networks.seen_by_decoder == ("z", "coarse")
    model = sharpen(made, 1.5)
    assert {name: type(e) for name, e in model.estimators.items() if name != "z"} == {
        "fine": Enumerate,
        "coarse": Enumerate,
    }
    batch = cells(3000)
    result = model.loss(batch, training=True)
    assert set(result.terms) == {"reconstruction", "kl_z", "kl_fine", "kl_coarse"}
    with torch.no_grad():  # its divergence is a mean over the sequences
        h = model.networks.encode(batch)
        q = model.networks.posterior("coarse", h, {})
        coarse = torch.eye(2)[:, None, None]
        fine = model.networks.posterior("fine", h, {"coarse": coarse.expand(2, len(h), 1, 2)})
        share = (q.mean.squeeze(1).T[..., None] * fine.mean.squeeze(2)).sum(0)  # [batch, 3]
        priors = [model.networks.prior("z", {"fine": code.expand(len(h), 1, 3)}, h) for code in torch.eye(3)]
        own = model.networks.posterior("z", h, {})
        each = torch.stack([torch.distributions.kl_divergence(own, prior) for prior in priors], -1)
    torch.testing.assert_close(result.terms["kl_z"], (share * each).sum(-1), rtol=1e-4, atol=1e-5)


def test_a_critic_sees_the_features_and_what_was_drawn_before():
    model = sequential(critic(), categories=(4, 3, 2))
    widths = [latent.estimator.critic.network.layers[0].in_features for latent in model.latents.values()]
    assert widths == [6, 6 + 4, 6 + 4 + 3]
    critics = [latent.estimator.critic for latent in model.latents.values()]
    assert len({id(one) for one in critics}) == 3  # each its own
    model.loss(counts(), training=True).total.mean().backward()
    assert all(one.head.bias.grad.abs() > 0 for one in critics)


@pytest.mark.parametrize("size", [1e3, -1e3])
def test_extreme_parameters_are_finite(size):
    model = sequential(critic(0.9))
    with torch.no_grad():
        for latent in model.latents.values():
            latent.head.weight.fill_(size)
            latent.head.weight[0].mul_(-1)
        for name in ("z2", "z3"):
            torch.nn.init.constant_(model.latents[name].prior_network[1].weight, size)
            model.latents[name].prior_network[1].weight[0].mul_(-1)
    total = model.loss(counts(), training=True).total
    total.mean().backward()
    assert total.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


REFUSED = {
    "no latent": (lambda: sequential(categories=()), ConfigError, "latents is empty"),
    "one category": (lambda: sequential(categories=(3, 1)), ConfigError, "categories=1 "),
    "a sample dimension each": (
        lambda: sequential(ScoreFunction(3), None, categories=[2] * 8),
        ConfigError,
        r"6561 evaluations.*joint samples.*num_samples=4",
    ),
    "a lone trajectory": (
        lambda: sequential(ScoreFunction(baseline=LeaveOneOut()), 1),
        EstimatorError,
        r"'z1': .*LeaveOneOut\(\)\) compares.*num_samples=1 must be at least 2",
    ),
    "sums": (lambda: sequential(Enumerate()), EstimatorError, r"'z1': Enumerate\(\) does not support joint"),
    "sets": (lambda: sequential(LocalExpectation()), EstimatorError, r"LocalExpectation\(\) does not support joint"),
    "counterfactuals": (
        lambda: sequential(ScoreFunction(baseline=SelfCritic())),
        EstimatorError,
        r"ScoreFunction\(baseline=SelfCritic\(\)\) does not support joint",
    ),
    "critic in a log-mean": (
        lambda: sequential(critic(), objective=IWAE(4)),
        EstimatorError,
        "'z1': ScoreFunction\\(critic=Critic.*importance-weighted",
    ),
    "no trajectory": (lambda: ELBO(num_samples=0), ConfigError, "num_samples=0 "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=f"(?s){message}"):
        make()


def test_joint_trajectories_serve_other_models_too():
    """Without dependence they are samples on one dimension instead of several."""
    latents = {f"y{i}": Categorical(3, estimator=ScoreFunction(baseline=LeaveOneOut())) for i in range(3)}
    objective = ELBO(num_samples=5)
    model = MixedVAE(FEATURES, NegativeBinomial(), latents=latents, hidden=[6], objective=objective)
    result = model.loss(counts(), training=True)
    assert {draw.value.shape[0] for draw in result.samples.values()} == {5}
    torch.testing.assert_close(sum(result.terms.values()), result.total, rtol=1e-5, atol=1e-4)
    alone = DiscreteVAE(FEATURES, NegativeBinomial(), estimator=ScoreFunction(9), hidden=[6], objective=objective)
    assert alone.loss(counts(), training=True).samples["y"].value.shape[0] == 5
