"""Likelihoods: distributions of the observations given the latents."""

from vaekit.likelihoods.count_likelihoods import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaekit.likelihoods.levels import Categorical
from vaekit.likelihoods.likelihood import Likelihood
from vaekit.likelihoods.pixels import Bernoulli, ContinuousBernoulli, Gaussian

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
]
