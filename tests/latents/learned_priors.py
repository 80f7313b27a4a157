"""Latents with learned priors and flows, and models of them."""

from __future__ import annotations

import torch
from models.tiny import FEATURES, sharpen

from vaekit import MixedVAE
from vaekit.latents import (
    Flow,
    FlowPrior,
    Gaussian,
    GaussianMixture,
    VampPrior,
)
from vaekit.likelihoods import Bernoulli

LATENTS = {
    "vamp_prior": lambda dim, **kwargs: Gaussian(dim, prior=VampPrior(3), **kwargs),
    "mixture": lambda dim, **kwargs: Gaussian(dim, prior=GaussianMixture(3), **kwargs),
    "flow_prior": lambda dim, **kwargs: Gaussian(dim, prior=FlowPrior(num_layers=2), **kwargs),
    "affine_prior": lambda dim, **kwargs: Gaussian(dim, prior=FlowPrior("affine", num_layers=2), **kwargs),
    "flow": lambda dim, **kwargs: Flow(dim, num_layers=2, **kwargs),
    "affine_flow": lambda dim, **kwargs: Flow(dim, "affine", num_layers=2, prior=GaussianMixture(2), **kwargs),
}


def model_of(name: str, dim: int = 2, likelihood=None, objective=None, **kwargs) -> MixedVAE:
    """Return a model with large random weights, so that priors and posteriors have their own shapes."""
    torch.manual_seed(0)
    made = MixedVAE(
        FEATURES,
        likelihood or Bernoulli(),
        latents={"z": LATENTS[name](dim, **kwargs)},
        hidden=[4],
        dropout=0.0,
        objective=objective,
    )
    made = sharpen(made, 1.5)
    with torch.no_grad():
        for parameter_name, parameter in made.named_parameters():
            if ".layers.transforms." in parameter_name:
                parameter.mul_(0.25)  # an affine layer has the exponential of its weights
    return made
