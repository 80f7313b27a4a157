"""Samples of a model, against its parts."""

from __future__ import annotations

import pytest
import torch
from models.tiny import FEATURES, MODELS, pixels, sharpen

from vaekit import HierarchicalVAE
from vaekit.diagnostics import category_means, decoded_mean, latent_traversal, prior_means, sample_prior
from vaekit.exceptions import VaekitError
from vaekit.likelihoods import Bernoulli

NAMES = ["gaussian", "discrete_auto", "mixed", "mixed_independent", "mixed_bits", "mixed_child_first"]


def model(name):
    return sharpen(MODELS[name](Bernoulli()))


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_the_prior_have_its_moments(name):
    vae, count = model(name), 20_000
    values = sample_prior(vae, count)
    assert set(values) == set(vae.latents)
    like = torch.zeros(count, vae.features)
    for latent, value in values.items():
        prior = vae.networks.prior(latent, values, like)
        mean = prior.mean.detach()
        spread = prior.variance.detach().sqrt()
        z = ((value - mean) / spread).mean(0) * count**0.5
        assert z.abs().max() < 4.5, latent  # at most 20 z-scores per case: one false alarm in 5,000


def test_a_child_follows_its_parent():
    vae = model("mixed_child_first")
    y = torch.eye(3)[torch.arange(9_000) % 3].unsqueeze(1)
    z = sample_prior(vae, 9_000, {"y": y})["z"]
    prior = vae.latents["z"].prior(torch.eye(3), z)
    for category in range(3):
        values = z[torch.arange(9_000) % 3 == category]
        scale = prior.stddev[category].detach()
        assert ((values.mean(0) - prior.mean[category].detach()) / scale * 3000**0.5).abs().max() < 4.5


def test_children_follow_in_a_traversal():
    """The lower level has the mean of its prior given the new value, whether or not its posterior is conditional."""
    for top_down in (False, True):
        vae = sharpen(HierarchicalVAE(FEATURES, Bernoulli(), dims=[3, 2], top_down=top_down, hidden=[8], dropout=0.0))
        means, positions = latent_traversal(vae, "z2", pixels(1), steps=5, span=2.0)
        assert means.shape == (2, 5, vae.features)
        with torch.no_grad():
            z2 = vae.posteriors(pixels(1))["z2"].mean.repeat(5, 1)
            z2[:, 1] = positions
            z1 = vae.networks.prior("z1", {"z2": z2}, z2).mean
        torch.testing.assert_close(means[1], decoded_mean(vae, {"z1": z1, "z2": z2}))
        lower, _ = latent_traversal(vae, "z1", pixels(1), steps=5, span=2.0)
        assert lower.std(1).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_means_lie_between_the_pixel_values(name):
    vae = model(name).train()
    means = prior_means(vae, 7)
    assert means.shape == (7, vae.features)
    assert not means.requires_grad
    assert ((means >= 0) & (means <= 1)).all()
    assert vae.training  # restored


def test_category_means_depend_on_the_category():
    vae = model("mixed_independent")
    means = category_means(vae, "y", 400)
    assert means.shape == (3, 400, vae.features)
    for category in range(3):
        y = torch.eye(3)[category].expand(4000, 1, 3)
        z = torch.randn(4000, 2)
        expected = decoded_mean(vae, {"y": y, "z": z})
        z = (means[category].mean(0) - expected.mean(0)) / (expected.std(0) * (1 / 400 + 1 / 4000) ** 0.5)
        assert z.abs().max() < 4.5


@pytest.mark.parametrize("name", ["gaussian", "mixed", "mixed_independent", "mixed_bits"])
def test_a_traversal_varies_one_dimension(name):
    vae, one = model(name).eval(), pixels(1)
    size = vae.latents["z"].size
    means, positions = latent_traversal(vae, "z", one, steps=5, span=2.0)
    assert (means.shape, positions.tolist()) == ((size, 5, vae.features), [-2, -1, 0, 1, 2])
    with torch.no_grad():
        h = vae.networks.encode(one)
        q = vae.networks.posteriors(h)
        values = {"z": q["z"].mean}
        for other, latent in vae.latents.items():
            if latent.discrete:
                probabilities = latent.summary(q[other]).reshape(q[other].mean.shape)
                codes = torch.nn.functional.one_hot(probabilities.argmax(-1), probabilities.shape[-1]).float()
                values[other] = codes if other == "y" else (probabilities > 0.5).float()
        prior = vae.networks.prior("z", values, one.x)
        for dimension in range(size):
            shifted = values["z"].clone()
            shifted[0, dimension] = (
                prior.mean.reshape(-1)[dimension] + prior.stddev.reshape(-1)[dimension]
            )  # one deviation up
            torch.testing.assert_close(means[dimension, 3], decoded_mean(vae, {**values, "z": shifted})[0])


def test_invalid_latents():
    vae = model("mixed_bits")
    with pytest.raises(VaekitError, match=r"'b' is not a single categorical variable. Available: none"):
        category_means(vae, "b", 3)
    with pytest.raises(VaekitError, match=r"'b' is not Gaussian. Available: 'z'"):
        latent_traversal(vae, "b", pixels(1))
    with pytest.raises(VaekitError, match="batch has 2 observations"):
        latent_traversal(vae, "z", pixels(2))
