import math

import pytest
import torch
from torch import nn

from vaekit import MixedVAE
from vaekit._core.components import from_config
from vaekit.batch import Batch
from vaekit.exceptions import ConfigError
from vaekit.latents import Categorical, Gaussian
from vaekit.likelihoods import Bernoulli
from vaekit.models.regularizers import InformationMaximization


class Encoder(nn.Module):
    """A linear map whose features are the logits."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.weight = nn.Parameter(scale * torch.eye(3))

    def forward(self, x):
        return x @ self.weight


@pytest.fixture
def latents():
    latent = Categorical(3)
    latent.build(3, None)
    with torch.no_grad():
        latent.head.weight.copy_(torch.eye(3))
        latent.head.bias.zero_()
    return {"y": latent}


def penalty(latents, x, encoder=None, **weights):
    encoder = encoder or Encoder()
    return InformationMaximization(**weights)(latents, encoder(x), x, encoder)


def test_information_of_sharp_balanced_clusters_is_the_logarithm_of_their_number(latents):
    x = 100 * torch.eye(3)
    found = penalty(latents, x, information=1.0, balance=1.0, adversarial=0.0)
    torch.testing.assert_close(found.item(), -math.log(3))
    assert penalty(latents, x, information=2.0, balance=4.0, adversarial=0.0).item() == pytest.approx(-8 * math.log(3))


@pytest.mark.parametrize("x", [100 * torch.eye(3)[[1, 1, 1]], torch.zeros(4, 3)], ids=["one cluster", "no clusters"])
def test_neither_one_cluster_nor_none_has_information(latents, x):
    assert penalty(latents, x, balance=1.0, adversarial=0.0).item() == pytest.approx(0, abs=1e-5)


def test_the_change_is_nearly_the_worst_of_its_length(latents):
    torch.manual_seed(0)
    x = torch.tensor([[2.0, 0.0, -1.0]])
    q = x.log_softmax(-1)
    directions = nn.functional.normalize(torch.randn(20_000, 3), dim=-1)
    divergence = (q.exp() * (q - (x + 0.1 * directions).log_softmax(-1))).sum(-1)
    found = [penalty(latents, x, information=0.0, adversarial=1.0, radius=0.1).item() for _ in range(20)]
    assert max(found) <= divergence.max().item() * 1.001
    assert sum(found) / 20 > 0.8 * divergence.max().item() > 1.5 * divergence.mean().item()


def test_parameters_get_the_gradient_and_a_border_costs(latents):
    encoder, x = Encoder(), torch.tensor([[0.1, -0.1, 0.0], [0.0, 0.1, -0.1]])
    penalty(latents, x, encoder).backward()
    assert encoder.weight.grad.abs().sum() > 0
    far = x.sign() * 100
    weights = {"information": 0.0, "adversarial": 1.0}
    assert penalty(latents, far, **weights).item() < 1e-6 < 1e-2 < penalty(latents, x, **weights).item()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"information": -1.0}, "information=-1.0"),
        ({"balance": math.nan}, "balance=nan must be finite"),
        ({"adversarial": -2.0}, "adversarial=-2.0"),
        ({"radius": 0.0}, "radius=0.0 must be positive.*adversarial=0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        InformationMaximization(**arguments)


def model(**arguments):
    latents = {"y": Categorical(3), "z": Gaussian(2, parents=["y"]), "w": Categorical(2, parents=["y"])}
    return MixedVAE(5, Bernoulli(), latents=latents, hidden=[4], regularizer=InformationMaximization(**arguments))


@pytest.mark.parametrize(
    ("latent", "message"),
    [("x", "latent='x'"), ("z", "'z' is a Gaussian with parents 'y'"), ("w", "'w' is a Categorical with parents 'y'")],
)
def test_needs_a_category_by_itself(latent, message):
    with pytest.raises(ConfigError, match=message):
        model(latent=latent)


def test_training_alone_sees_it_and_a_configuration_keeps_it():
    torch.manual_seed(0)
    vae, batch = model(information=3.0), Batch(torch.rand(6, 5).round())
    again = from_config(vae.config)
    assert again.regularizer.config == vae.regularizer.config
    vae.eval()

    def total(training):
        torch.manual_seed(1)
        return vae.loss(batch, training=training)

    with_it, held_out = total(True), total(False)
    vae.regularizer = None
    without, true = total(True), total(False)
    assert not with_it.total.allclose(without.total)
    for name, term in without.terms.items():
        torch.testing.assert_close(with_it.terms[name], term)
    torch.testing.assert_close(held_out.total, true.total)
