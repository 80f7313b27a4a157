"""What a model generates, against its own parts."""

from __future__ import annotations

import pytest
import torch
from models.tiny import MODELS, pixels, sharpen

from vaekit.diagnostics import category_means, decoded_mean, latent_traversal, prior_means, sample_prior
from vaekit.exceptions import VaekitError
from vaekit.likelihoods import Bernoulli

NAMES = ["gaussian", "discrete_auto", "mixed", "mixed_independent", "mixed_bits", "mixed_child_first"]


def model(name):
    return sharpen(MODELS[name](Bernoulli()))


@pytest.mark.parametrize("name", NAMES)
def test_draws_of_the_prior_have_its_moments(name):
    made, count = model(name), 20_000
    values = sample_prior(made, count)
    assert set(values) == set(made.latents)
    like = torch.zeros(count, made.features)
    for latent, value in values.items():
        prior = made.networks.prior(latent, values, like)
        mean = prior.mean.detach()
        spread = prior.variance.detach().sqrt()
        z = ((value - mean) / spread).mean(0) * count**0.5
        assert z.abs().max() < 4.5, latent  # at most 20 z-scores a case: one false alarm in 5,000


def test_a_child_follows_its_parent():
    made = model("mixed_child_first")
    y = torch.eye(3)[torch.arange(9_000) % 3].unsqueeze(1)
    z = sample_prior(made, 9_000, {"y": y})["z"]
    prior = made.latents["z"].prior(torch.eye(3), z)
    for category in range(3):
        own = z[torch.arange(9_000) % 3 == category]
        scale = prior.stddev[category].detach()
        assert ((own.mean(0) - prior.mean[category].detach()) / scale * 3000**0.5).abs().max() < 4.5


@pytest.mark.parametrize("name", NAMES)
def test_means_lie_between_the_pixel_values(name):
    made = model(name).train()
    found = prior_means(made, 7)
    assert found.shape == (7, made.features)
    assert not found.requires_grad
    assert ((found >= 0) & (found <= 1)).all()
    assert made.training  # as it was


def test_rows_of_a_category_are_its_own():
    made = model("mixed_independent")
    found = category_means(made, "y", 400)
    assert found.shape == (3, 400, made.features)
    for category in range(3):
        y = torch.eye(3)[category].expand(4000, 1, 3)
        z = torch.randn(4000, 2)
        expected = decoded_mean(made, {"y": y, "z": z})
        z = (found[category].mean(0) - expected.mean(0)) / (expected.std(0) * (1 / 400 + 1 / 4000) ** 0.5)
        assert z.abs().max() < 4.5


@pytest.mark.parametrize("name", ["gaussian", "mixed", "mixed_independent", "mixed_bits"])
def test_a_traversal_moves_one_unit(name):
    made, one = model(name).eval(), pixels(1)
    units = made.latents["z"].size
    found, positions = latent_traversal(made, "z", one, steps=5, span=2.0)
    assert (found.shape, positions.tolist()) == ((units, 5, made.features), [-2, -1, 0, 1, 2])
    with torch.no_grad():
        h = made.networks.encode(one)
        q = made.networks.posteriors(h)
        values = {"z": q["z"].mean}
        for other, latent in made.latents.items():
            if latent.discrete:
                probabilities = latent.summary(q[other]).reshape(q[other].mean.shape)
                codes = torch.nn.functional.one_hot(probabilities.argmax(-1), probabilities.shape[-1]).float()
                values[other] = codes if other == "y" else (probabilities > 0.5).float()
        prior = made.networks.prior("z", values, one.x)
        for unit in range(units):
            moved = values["z"].clone()
            moved[0, unit] = prior.mean.reshape(-1)[unit] + prior.stddev.reshape(-1)[unit]  # one deviation up
            torch.testing.assert_close(found[unit, 3], decoded_mean(made, {**values, "z": moved})[0])


def test_what_cannot_be_drawn():
    made = model("mixed_bits")
    with pytest.raises(VaekitError, match="'b' is not a single categorical variable; there are: none"):
        category_means(made, "b", 3)
    with pytest.raises(VaekitError, match="'b' is no Gaussian; there are: 'z'"):
        latent_traversal(made, "b", pixels(1))
    with pytest.raises(VaekitError, match="starts from one observation, and there are 2"):
        latent_traversal(made, "z", pixels(2))
