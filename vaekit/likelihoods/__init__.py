"""Likelihoods: from the decoder's features to the distribution of the observations."""

from vaekit.likelihoods.base import Likelihood
from vaekit.likelihoods.continuous_bernoulli import ContinuousBernoulli
from vaekit.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaekit.likelihoods.levels import Categorical
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
