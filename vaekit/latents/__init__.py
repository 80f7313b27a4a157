"""Latent variables: posterior head, prior and estimator of each."""

from vaekit.latents.base import Latent
from vaekit.latents.discrete import Bernoulli, Categorical
from vaekit.latents.gaussian import Gaussian

__all__ = ["Bernoulli", "Categorical", "Gaussian", "Latent"]
