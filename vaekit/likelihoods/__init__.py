"""Likelihoods: from the decoder's features to the distribution of the observations."""

from vaekit.likelihoods.continuous_pixels import ContinuousBernoulli
from vaekit.likelihoods.count_likelihoods import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaekit.likelihoods.levels import Categorical
from vaekit.likelihoods.likelihood import Likelihood
from vaekit.likelihoods.pixels import Bernoulli, Gaussian

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
