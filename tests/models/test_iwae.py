"""The importance-weighted objective of a model."""

from __future__ import annotations

import math

import pytest
import torch

from models.tiny import MODELS, counts, fit, sharpen
from vaekit import GaussianVAE, MixedVAE
from vaekit.estimators import Enumerate, LeaveOneOut, Pathwise, ScoreFunction
from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.latents import Categorical, Gaussian
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import load
from vaekit.models.objectives import ELBO, IWAE


def test_loss_is_minus_the_log_mean_weight() -> None:
    model = sharpen(MODELS["mixed"](NegativeBinomial(), objective=IWAE(num_samples=4))).eval()
    batch = counts()
    torch.manual_seed(0)
    result = model.loss(batch, training=True)
    networks, values = model.networks, {name: draw.value for name, draw in result.samples.items()}
    h = networks.encode(batch)
    log_weight = networks.log_likelihood(values, batch)
    for name, q in networks.posteriors(h).items():
        log_weight = log_weight + networks.prior(name, values, h).log_prob(values[name]) - q.log_prob(values[name])
    assert log_weight.shape == (4, len(batch.x))
    torch.testing.assert_close(result.total, math.log(4) - log_weight.logsumexp(0))


def test_bound_lies_above_the_elbo() -> None:
    model = sharpen(MODELS["gaussian"](NegativeBinomial(), objective=IWAE(num_samples=50))).eval()
    batch = counts()
    bound = torch.stack([-model.loss(batch, training=True).total.detach().mean() for _ in range(20)]).mean()
    elbo = torch.stack([-model.loss(batch).total.detach().mean() for _ in range(20)]).mean()
    assert bound > elbo + 0.5


@pytest.mark.parametrize("objective", [ELBO(), ELBO(beta=0.5)], ids=["elbo", "beta"])
def test_sticking_the_landing_leaves_the_mean_gradient(objective) -> None:
    """Against the analytic divergence, over replicates of one batch; |z| < 4.5 for each of 2 x 34 entries."""
    found = []
    for estimator in (Pathwise(), Pathwise(stick_the_landing=True)):
        torch.manual_seed(0)  # the same weights
        model = GaussianVAE(5, NegativeBinomial(), latent_dim=1, hidden=[3], dropout=0.0, objective=objective)
        sharpen(model, 1.5)
        model.latents["z"].estimator = estimator
        batch = type(counts())(*(None if f is None else f[:1].repeat_interleave(500, 0) for f in counts()))
        runs = []
        torch.manual_seed(1)
        for _ in range(100):
            model.zero_grad()
            model.loss(batch, objective.beta, training=True).total.mean().backward()
            runs.append(torch.cat([model.latents["z"].head.weight.grad.flatten(), model.latents["z"].head.bias.grad]))
        found.append(torch.stack(runs).double())
    difference = found[0].mean(0) - found[1].mean(0)
    error = ((found[0].var(0) + found[1].var(0)) / 100).sqrt()
    assert (error < 0.05 * found[0].mean(0).norm()).all()
    assert (difference.abs() < 4.5 * error + 1e-6).all()


def test_free_bits_and_stick_the_landing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"free_bits.*stick_the_landing of latent 'z'"):
        GaussianVAE(5, NegativeBinomial(), estimator=Pathwise(stick_the_landing=True), objective=ELBO(free_bits=0.1))


def test_auto_takes_what_serves_the_bound() -> None:
    model = MODELS["mixed"](NegativeBinomial(), objective=IWAE(num_samples=3))
    assert isinstance(model.estimators["y"], ScoreFunction)
    assert isinstance(model.estimators["y"].baseline, LeaveOneOut)
    assert isinstance(model.estimators["z"], Pathwise)


def test_exact_sums_are_refused_before_training() -> None:
    latents = {"y": Categorical(3, estimator=Enumerate()), "z": Gaussian(2, parents=["y"])}
    with pytest.raises(EstimatorError, match=r"'y': Enumerate.*importance-weighted"):
        MixedVAE(5, NegativeBinomial(), latents=latents, objective=IWAE())


@pytest.mark.parametrize("name", ["gaussian", "mixed", "discrete_auto"])
def test_trains_and_loads_again(name, tmp_path) -> None:
    model = MODELS[name](NegativeBinomial(), objective=IWAE(num_samples=3, warmup=0.5))
    trainer = fit(model, counts(), 6)
    assert trainer.callback_metrics["train/loss"].isfinite()
    kinds = {key for key in trainer.callback_metrics if key.startswith("val/")}
    assert kinds == {"val/elbo", "val/reconstruction", *(f"val/kl_{latent}" for latent in model.latents)}
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert load(tmp_path / "a.ckpt").objective.num_samples == 3


def test_one_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_samples=1 "):
        IWAE(num_samples=1)


@pytest.mark.parametrize("flat", ["likelihood", "prior"])
def test_decoder_or_prior_without_a_gradient_path_is_refused(flat, monkeypatch) -> None:
    model = MODELS["gaussian"](NegativeBinomial(), objective=IWAE(num_samples=3))
    networks = type(model.networks)
    whole, prior = networks.log_likelihood, networks.prior
    if flat == "likelihood":
        stepped = lambda self, values, batch: whole(self, {n: v.round() for n, v in values.items()}, batch)  # noqa: E731
        monkeypatch.setattr(networks, "log_likelihood", stepped)
    else:
        monkeypatch.setattr(networks, "prior", lambda self, *given: StepOutput(prior(self, *given)))
    with pytest.raises(EstimatorError, match=r"node 'z'.*Pathwise.*no gradient path.*VIMCO"):
        model.loss(counts(), training=True)
    assert model.eval().loss(counts()).total.isfinite().all()


class StepOutput:
    """A distribution whose density is a step function of the value."""

    def __init__(self, inner: torch.distributions.Distribution) -> None:
        self.inner, self.batch_shape = inner, inner.batch_shape

    def expand(self, shape: torch.Size) -> torch.distributions.Distribution:
        """Return the constructor's tensors, expanded."""
        return self.inner.expand(shape)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Return the log-density at the next whole numbers."""
        return self.inner.log_prob(value.round())
