"""Learned priors and flows: densities against independent ones, training and errors."""

from __future__ import annotations

import copy
import math

import pytest
import pytorch_lightning as pl
import torch
from models.tiny import FEATURES, broaden, counts, pixels
from scipy.integrate import quad
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Independent, MixtureSameFamily, Normal

from latents.learned_priors import LATENTS, model_of
from vaekit import MixedVAE
from vaekit.data import GeneExpressionData, ImageData, simulate_counts
from vaekit.diagnostics import importance_sampled_log_likelihood, sample_prior
from vaekit.distributions.normal_mixture import NormalMixture
from vaekit.distributions.normalizing_flow import NormalizingFlow
from vaekit.estimators import Pathwise
from vaekit.exceptions import ConfigError, MissingPackageError
from vaekit.latents import (
    Flow,
    FlowPrior,
    Gaussian,
    GaussianMixture,
    MixtureComponent,
    StudentT,
    VampPrior,
)
from vaekit.likelihoods import Bernoulli, NegativeBinomial
from vaekit.models.objectives import ELBO

PRIORS = ("vamp_prior", "mixture", "flow_prior", "affine_prior")


def prior_of(model: MixedVAE):
    return model.networks.prior("z", {}, torch.zeros((), dtype=next(model.parameters()).dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixture_is_that_of_torch(dtype):
    torch.manual_seed(0)
    parameters = [torch.randn(7, dtype=dtype), torch.randn(7, 3, dtype=dtype), torch.rand(7, 3, dtype=dtype) + 0.01]
    logits, loc, scale = (p.requires_grad_() for p in parameters)
    value = (2 * torch.randn(4, 5, 3, dtype=dtype)).requires_grad_()
    p = NormalMixture(logits, loc, scale)
    torchs = MixtureSameFamily(CategoricalDistribution(logits=logits.double()),
                               Independent(Normal(loc.double(), scale.double()), 1))  # fmt: skip
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {}
    assert p.log_prob(value).dtype == dtype
    torch.testing.assert_close(p.log_prob(value), torchs.log_prob(value.double()).to(dtype), **tolerance)
    leaves = (logits, loc, scale, value)
    ours = torch.autograd.grad(p.log_prob(value).sum(), leaves)
    for one, other in zip(ours, torch.autograd.grad(torchs.log_prob(value.double()).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other, **tolerance)
    torch.testing.assert_close(p.mean, torchs.mean.to(dtype))
    torch.testing.assert_close(p.variance, torchs.variance.to(dtype))
    assert p.expand([5]).log_prob(value).equal(p.log_prob(value))


@pytest.mark.parametrize(("distance", "scale"), [(1e3, 1e-4), (1e-3, 1e-4), (30.0, 10.0), (1e4, 1.0)])
def test_mixture_is_precise_far_away(distance, scale):
    """Matrix products in float32 would lose thousands of nats to cancellation."""
    value = torch.full((1, 2), distance)
    p = NormalMixture(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, -1.0]]), torch.full((2, 2), scale))
    exact = Normal(p.loc.double(), p.scale.double()).log_prob(value.double()).sum(-1)
    torch.testing.assert_close(p.log_prob(value)[0], (exact.logsumexp(0) - math.log(2)).float(), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_prior_of_one_dimension_integrates_to_one(name):
    p = prior_of(model_of(name, 1))
    with torch.no_grad():
        total, _ = quad(lambda z: p.log_prob(torch.tensor([z], dtype=torch.float32)).exp().item(), -30, 30, limit=400)
    assert total == pytest.approx(1, abs=1e-3)


def grid(density, step: float = 0.08, end: float = 7.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values of two dimensions around the mean, and the area of each."""
    axis = torch.arange(-end, end + step, step, dtype=torch.float64)
    scale = density.stddev.reshape(-1)
    return density.mean.reshape(-1) + scale * torch.cartesian_prod(axis, axis), scale.prod() * step**2


@pytest.mark.parametrize("name", LATENTS)
def test_densities_of_two_dimensions_integrate_to_one(name):
    model = model_of(name).double()
    q = model.posteriors(pixels(1))["z"]
    with torch.no_grad():
        for density in (prior_of(model), q):
            values, area = grid(density)
            assert (density.log_prob(values[:, None]).exp().sum() * area).item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("transform", ["spline", "affine"])
@pytest.mark.parametrize("dim", [1, 3])
def test_log_determinant_is_that_of_autograd(transform, dim):
    torch.manual_seed(0)
    latent = Flow(dim, transform)
    latent.build(4, None)
    for parameter in latent.layers.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    latent = latent.double()
    for _ in range(5):
        q = latent.posterior(torch.randn(4, dtype=torch.float64))
        noise = torch.randn(dim, dtype=torch.float64)
        image = q.transform(noise)
        jacobian = torch.autograd.functional.jacobian(lambda e, q=q: q.loc + q.scale * q.transform(e), noise)
        exact = Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(q.log_prob(q.loc + q.scale * image), exact, rtol=1e-8, atol=1e-6)


def test_density_of_own_sample_has_the_derivatives_of_the_formula():
    """The density that is known from sampling, and that by the inverse: values and gradients agree."""
    model = model_of("flow", 3).double()
    q = model.posteriors(pixels(4))["z"].expand([2, 4])
    value = q.rsample()
    known, inverted = q.log_prob(value), q.log_prob(value + 0)
    torch.testing.assert_close(known, inverted)
    leaves = [p for p in model.latents["z"].parameters() if p.requires_grad]
    for one, other in zip(
        torch.autograd.grad(known.sum(), leaves, retain_graph=True),
        torch.autograd.grad(inverted.sum(), leaves, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        sampled = q.rsample()
    score = torch.autograd.grad(q.log_prob(sampled).sum(), leaves)  # of a fixed value, by the inverse
    assert any(part.abs().max() > 0 for part in score)


@pytest.mark.parametrize("dim", [1, 5])
def test_moments_of_a_flow_are_those_of_samples(dim):
    """Fixed points of the noise: within 5 % of a standard deviation, and the same in each call."""
    q = model_of("flow", dim).posteriors(pixels(6))["z"]
    with torch.no_grad():
        samples = q.sample((100_000,))
        assert ((q.mean - samples.mean(0)).abs() < 0.05 * samples.std(0)).all()
        assert ((q.stddev / samples.std(0)).log().abs() < 0.05).all()
        assert q.mean.equal(q.mean)


def test_flow_is_the_gaussian_at_first():
    latent = Flow(3)
    latent.build(4, None)
    h = torch.randn(5, 4)
    q, loc = latent.posterior(h), latent.head(h)[:, :3]
    torch.testing.assert_close(q.mean, loc, atol=1e-5, rtol=1e-5)
    normal = Independent(Normal(q.loc, q.scale), 1)
    value = normal.sample()
    torch.testing.assert_close(q.log_prob(value), normal.log_prob(value), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("name", LATENTS)
def test_extreme_values_have_finite_densities_and_gradients(name, size):
    model = model_of(name)
    p, q = prior_of(model), model.posteriors(pixels(3))["z"]
    value = (size * torch.randn(7, 3, 2)).requires_grad_()
    total = p.log_prob(value).sum() + q.log_prob(value).sum()
    gradients = torch.autograd.grad(total, [value, *model.parameters()], allow_unused=True)
    assert total.isfinite()
    assert all(g.isfinite().all() for g in gradients if g is not None)


def test_spline_with_extreme_weights_is_finite():
    latent = Flow(4)
    latent.build(4, None)
    for scale in (10.0, 1000.0):
        for parameter in latent.layers.parameters():
            torch.nn.init.normal_(parameter, std=scale)
        q = latent.posterior(torch.randn(200, 4))
        value = q.rsample((5,))
        total = q.log_prob(value).sum() + q.log_prob(value.detach()).sum()
        gradients = torch.autograd.grad(total, list(latent.layers.parameters()))
        assert total.isfinite()
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", LATENTS)
def test_samples_have_the_density(name):
    """E[p(z)] by drawing, and by the integral of the square of the density; |z| < 4.5."""
    model = model_of(name).double()
    for density in (prior_of(model), model.posteriors(pixels(1))["z"].expand([1])):
        with torch.no_grad():
            draws = density.log_prob(density.sample((20_000,))).exp().flatten()
            values, area = grid(density)
            exact = density.log_prob(values[:, None]).double().exp().square().sum() * area
        assert abs(draws.mean() - exact) < 4.5 * draws.std() / math.sqrt(len(draws)) + 1e-4 * exact


@pytest.mark.parametrize("name", LATENTS)
def test_likelihood_is_that_of_quadrature(name):
    model = broaden(model_of(name, 1)).double()
    batch = pixels(4)
    z = torch.linspace(-25, 25, 20_001, dtype=torch.float64)[:, None, None]
    with torch.no_grad():
        joint = prior_of(model).log_prob(z) + model.networks.log_likelihood({"z": z}, batch)
        exact = torch.trapezoid(joint.exp(), z[:, 0, 0], dim=0).log()
    torch.manual_seed(0)
    estimate = importance_sampled_log_likelihood(model, [batch], 20_000)
    assert ((estimate.log_likelihood - exact).abs() < 5 / estimate.ess.sqrt()).all()
    assert (estimate.ess > 1000).all()


def test_pseudo_inputs_start_at_training_observations():
    """In the space of the encoder: log counts, followed by the covariates that the encoder sees."""
    cells = simulate_counts(cells=80, genes=FEATURES, clusters=2, batches=2, seed=1)
    data = GeneExpressionData(cells, batch_key="batch")
    latents = {"z": Gaussian(2, prior=VampPrior(6))}
    model = MixedVAE(FEATURES, NegativeBinomial(), 2, latents=latents, encoder_covariates=True)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model.networks.init_from_data(data.statistics, data.draw_training)
    assert torch.get_rng_state().equal(before)
    pseudo = model.latents["z"].learned_prior.pseudo_inputs.detach()
    train = data.dataset.__getitems__(data.split_indices["train"])
    inputs = torch.cat([model.networks.likelihood.encoder_input(train), train.covariates], -1)
    assert pseudo.shape == (6, FEATURES + 2)
    nearest = torch.cdist(pseudo, inputs).min(-1)
    assert (nearest.values == 0).all()
    assert len(nearest.indices.unique()) == 6
    model.eval()
    q = model.latents["z"].posterior(model.networks.encode(train))
    centers = prior_of(model).loc
    torch.testing.assert_close(centers, q.mean[nearest.indices], atol=1e-5, rtol=1e-5)


def test_vamp_prior_follows_the_encoder_of_its_copy():
    model = model_of("vamp_prior")
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.networks.encoder.parameters():
            parameter.add_(0.5)
    assert not prior_of(copied).loc.allclose(prior_of(model).loc)
    other = MixedVAE(FEATURES, Bernoulli(), latents={"z": model.latents["z"]}, hidden=[4])  # a latent is a template
    assert other.latents["z"].learned_prior._encoder[0] is other.networks.encoder
    names = [name for name in model.state_dict() if "learned_prior" in name]
    assert names == ["networks._latents.z.learned_prior.pseudo_inputs"]


def test_encoder_runs_once_per_step_for_the_pseudo_inputs(monkeypatch):
    model = model_of("vamp_prior", estimator=Pathwise(num_samples=3))
    sizes = []
    model.networks.encoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    model.loss(counts(12), training=True)
    assert sizes == [12, 3]


@pytest.mark.parametrize("name", ["vamp_prior", "mixture", "flow_prior", "flow"])
@pytest.mark.parametrize("kind", ["digits", "pbmc68k"])
def test_trains(name, kind, tmp_path):
    """The bound improves on the untrained model's by more than the noise; samples of the prior are finite."""
    torch.manual_seed(0)
    data = ImageData(batch_size=256, binarization="fixed") if kind == "digits" else GeneExpressionData(batch_size=128)
    likelihood = Bernoulli() if kind == "digits" else NegativeBinomial()
    latents = {"z": LATENTS[name](4)}
    model = MixedVAE(data.features, likelihood, latents=latents, hidden=[32], learning_rate=5e-3)
    model.networks.init_from_data(data.statistics, data.draw_training)
    (batch,) = list(data.dataloader("val", batch_size=1000))
    with torch.no_grad():
        before = model.loss(batch).total.mean()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    pl.Trainer(max_steps=60, default_root_dir=tmp_path, enable_model_summary=False, **options).fit(model, data)
    with torch.no_grad():
        after = model.loss(batch).total.mean()
    assert after < before - 1
    assert sample_prior(model, 10)["z"].isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(2, parents=["y"], prior=GaussianMixture(3)),
         r"Gaussian: prior=GaussianMixture cannot be combined with parents=\['y'\].* Omit one of them\."),
        (lambda: GaussianMixture(1), "GaussianMixture: components=1 must be at least 2"),
        (lambda: VampPrior(0), "VampPrior: components=0 must be at least 2"),
        (lambda: Flow(2, "splin"), "Flow: transform='splin'.*spline"),
        (lambda: FlowPrior("cubic"), "FlowPrior: transform='cubic'.*spline"),
        (lambda: FlowPrior(num_layers=0), "FlowPrior: num_layers=0 must be at least 1"),
        (lambda: Flow(0), "Flow: dim=0 must be at least 1"),
        (lambda: Flow(2, prior=VampPrior(3)), "Flow: prior=VampPrior needs a diagonal normal posterior. Use Gaussian"),
        (lambda: VampPrior(3).distribution(torch.zeros(())), "VampPrior.distribution: the prior needs an encoder"),
        (lambda: MixedVAE(FEATURES, Bernoulli(), latents={"y": MixtureComponent(3), "z": Flow(2, parents=["y"])}),
         "child 'z' of a MixtureComponent must have an analytic KL divergence, but that of Flow has no formula"),
    ],
)  # fmt: skip
def test_bad_input(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_more_pseudo_inputs_than_observations():
    data = GeneExpressionData(simulate_counts(cells=30, genes=FEATURES, clusters=2, seed=1))
    model = MixedVAE(FEATURES, NegativeBinomial(), latents={"z": Gaussian(2, prior=VampPrior(500))})
    with pytest.raises(ConfigError, match=r"VampPrior: components=500 must not exceed the 2\d training observations"):
        model.networks.init_from_data(data.statistics, data.draw_training)


@pytest.mark.parametrize("make", [lambda: Flow(2), FlowPrior])
def test_without_zuko_the_message_names_the_extra(make, monkeypatch):
    monkeypatch.setattr("vaekit.latents.coupling_layers.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'zuko, which is not installed. Run: pip install "vaekit\[flows\]"'):
        make()


def test_flow_with_parents_has_their_prior():
    from vaekit.latents import Categorical

    latents = {"y": Categorical(3), "z": Flow(2, num_layers=1, parents=["y"])}
    model = MixedVAE(FEATURES, Bernoulli(), latents=latents, hidden=[4])
    loss = model.loss(pixels(6), training=True)
    loss.total.mean().backward()
    assert model.latents["z"].components.weight.grad.abs().sum() > 0
    assert isinstance(model.posteriors(pixels(6))["z"], NormalizingFlow)


def test_other_objectives_and_joint_samples():
    for objective in (ELBO(num_samples=3), ELBO(free_bits=0.5), ELBO(beta=2.0)):
        for name in ("vamp_prior", "flow"):
            model = model_of(name, objective=objective)
            model.loss(pixels(5), training=True).total.mean().backward()
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_student_t_latent_has_no_prior_argument():
    with pytest.raises(TypeError, match="prior"):
        StudentT(2, prior=GaussianMixture(3))
