"""The closed-form posterior of a mixture's component: value, gradient, extremes and rejected graphs."""

from __future__ import annotations

import copy

import pytest
import torch
from models.tiny import FEATURES, MODELS, adata, broaden, counts, sharpen, trainer
from torch.distributions import Normal, StudentT
from torch.distributions.kl import kl_divergence

from vaekit import MixedVAE
from vaekit.analysis import embed, markers
from vaekit.data import GeneExpressionData
from vaekit.diagnostics import importance_sampled_log_likelihood
from vaekit.exceptions import ConfigError
from vaekit.latents import Bernoulli, Categorical, Gaussian, MixtureComponent
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE
from vaekit.models.objectives import ELBO, IWAE


def mixed(objective=None, **latents) -> VAE:
    latents = latents or {"y": MixtureComponent(4), "z": Gaussian(3, parents=["y"])}
    return MixedVAE(FEATURES, NegativeBinomial(), latents=latents, hidden=[6], dropout=0.0, objective=objective)


def divergences(model: VAE, h: torch.Tensor) -> torch.Tensor:
    """KL(q(z | x) || p(z | y)) of each category, [batch, K], from the parameters by hand."""
    z = model.latents["z"]
    loc, scale = z.head(h).chunk(2, -1)
    means, scales = z.components.weight.T.chunk(2, -1)
    scale, scales = (torch.nn.functional.softplus(raw + 0.5413) + 1e-4 for raw in (scale, scales))
    return kl_divergence(Normal(loc[:, None], scale[:, None]), Normal(means, scales)).sum(-1)


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_loss_and_gradient_are_those_of_the_sum_over_components(kl_weight):
    model, batch = sharpen(mixed()).double(), counts()
    torch.nn.init.normal_(model.latents["y"].prior_logits)
    torch.manual_seed(0)
    result = model.loss(batch, kl_weight, training=True)
    gradient = torch.autograd.grad(result.total.mean(), list(model.parameters()))
    torch.manual_seed(0)
    h = model.networks.encode(batch)
    kl = -(model.latents["y"].prior_logits.log_softmax(-1) - divergences(model, h)).logsumexp(-1)
    z = model.latents["z"].posterior(h).rsample((1, 1))
    expected = -model.networks.log_likelihood({"z": z}, batch)[0, 0] + kl_weight * kl
    torch.testing.assert_close(result.total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.terms["kl_y"] + result.terms["kl_z"], kl.detach(), rtol=1e-12, atol=1e-12)
    for found, wanted in zip(gradient, torch.autograd.grad(expected.mean(), list(model.parameters())), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def test_posterior_maximizes_the_elbo():
    """No other probabilities have a lower divergence, and it is the sum by enumeration."""
    model, batch = sharpen(mixed()).double(), counts()
    h = model.networks.encode(batch)
    kl, log_p = divergences(model, h), model.latents["y"].prior_logits.log_softmax(-1)
    q = model.networks.posterior("y", h, {}).mean[:, 0]
    torch.testing.assert_close(q, (log_p - kl).softmax(-1))

    def divergence(q):
        return (q * (q.log() - log_p + kl)).sum(-1)

    for other in torch.rand(100, *q.shape, dtype=q.dtype):
        assert (divergence(0.9 * q + 0.1 * other / other.sum(-1, keepdim=True)) > divergence(q)).all()


def test_decoder_evaluates_each_observation_once():
    model, rows = mixed(), []
    model.networks.decoder.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0][..., 0].numel()))
    model.loss(counts(), training=True)
    assert rows == [len(counts().x)]
    assert type(model.estimators["y"]).__name__ == "Enumerate"
    assert type(mixed(y=MixtureComponent(100), z=Gaussian(2, parents=["y"])).estimators["y"]).__name__ == "Enumerate"


@pytest.mark.parametrize("distance", [1e2, 1e4])
def test_extreme_divergences_are_finite(distance):
    model = mixed()
    z = model.latents["z"]
    with torch.no_grad():
        z.set_components(distance * torch.arange(4.0)[:, None].expand(4, 3), torch.full((4, 3), 1e-2))
    h = model.networks.encode(counts())
    assert divergences(model, h).max() > 1e4
    result = model.loss(counts(), training=True)
    result.total.mean().backward()
    assert result.total.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.posteriors(counts())["y"].mean.isfinite().all()


def test_components_are_what_was_set():
    model = mixed()
    loc, scale = torch.randn(4, 3), torch.tensor([[1e-3], [0.5], [1.0], [50.0]]).expand(4, 3)
    model.latents["z"].set_components(loc, scale)
    prior = model.networks.prior("z", {"y": torch.eye(4)[:, None]}, loc)
    torch.testing.assert_close(prior.mean, loc)
    torch.testing.assert_close(prior.stddev, scale, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", [ELBO(num_samples=4), IWAE(num_samples=5)])
def test_joint_samples(objective):
    model = sharpen(mixed(objective))
    result = model.loss(counts(), training=True)
    result.total.mean().backward()
    assert result.total.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_likelihood_is_that_of_the_model_with_a_head():
    """The posterior of y is only a proposal: the sum over y is exact, and the samples of z are the same."""
    model = broaden(sharpen(mixed(), 1.5)).eval()
    other = mixed(y=Categorical(4, learned_prior=True), z=Gaussian(3, parents=["y"])).eval()
    state = model.state_dict()
    other.load_state_dict({name: state.get(name, value) for name, value in other.state_dict().items()})
    estimates = []
    for each in (model, other):
        torch.manual_seed(0)
        estimates.append(importance_sampled_log_likelihood(each, [counts()], num_samples=200))
    torch.testing.assert_close(estimates[0].log_likelihood, estimates[1].log_likelihood, rtol=1e-6, atol=1e-6)
    assert (estimates[0].elbo >= estimates[1].elbo - 1e-6).all()


def test_codes_and_markers():
    cells = adata()
    data = GeneExpressionData(cells)
    model = MODELS["mixed_component"](NegativeBinomial(), features=data.features, learning_rate=0.02)
    trainer(max_epochs=30, limit_val_batches=0).fit(model, datamodule=data)
    model.eval()
    embed(cells, model)
    with torch.no_grad():
        h = model.networks.encode(data.dataset.__getitems__(range(60)))
        wanted = (model.latents["y"].prior_logits.log_softmax(-1) - divergences(model, h)).softmax(-1)
    torch.testing.assert_close(torch.from_numpy(cells.obsm["vaekit_y_probabilities"]), wanted, rtol=1e-4, atol=1e-5)
    assert cells.obs["vaekit_y"].astype(int).tolist() == wanted.argmax(-1).tolist()
    assert set(cells.obs["vaekit_y"]) <= set(markers(cells, model)["code"])


def test_a_copy_has_its_own_child():
    model = mixed()
    other = copy.deepcopy(model)
    assert other.latents["y"]._child[0] is other.latents["z"]
    assert not any("child" in name for name in model.state_dict())


class Heavy(Gaussian):
    """Without an analytic divergence."""

    def prior(self, parent, like):
        normal = super().prior(parent, like).base_dist
        return torch.distributions.Independent(StudentT(3.0, normal.loc, normal.scale), 1)


REJECTED = {
    "no child": (lambda: mixed(y=MixtureComponent(3), z=Gaussian(2)), r"'y'.*exactly one child, but it has none\. Add"),
    "two children": (
        lambda: mixed(y=MixtureComponent(3), z=Gaussian(2, parents=["y"]), w=Gaussian(2, parents=["y"])),
        "exactly one child, but it has 2: 'z', 'w'.*Categorical",
    ),
    "two parents": (
        lambda: mixed(y=MixtureComponent(3), b=Bernoulli(2), z=Gaussian(2, parents=["y", "b"])),
        r"child 'z'.*parents=\['y', 'b'\]: it has other parents.*Use a child",
    ),
    "posterior": (
        lambda: mixed(y=MixtureComponent(3), z=Categorical(2, parents=["y"])),
        "child 'z'.*is a Categorical.*its posterior depends on other latents",
    ),
    "no divergence": (
        lambda: mixed(y=MixtureComponent(3), z=Heavy(2, parents=["y"])),
        "child 'z'.*analytic KL divergence, but that of Heavy has no formula",
    ),
    "one category": (lambda: MixtureComponent(1), "categories=1 must be at least 2"),
    "no steps left": (lambda: MixtureComponent(3, start_fraction=1.0), "start_fraction=1.0 must be"),
    "negative": (lambda: MixtureComponent(3, start_fraction=-0.1), "start_fraction=-0.1 must be"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejected(case):
    make, message = REJECTED[case]
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        make()
