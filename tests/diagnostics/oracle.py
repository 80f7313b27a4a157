"""log p(x) and the ELBO of small models, by sums over codes and quadrature over one Gaussian dimension.

Only the decoder comes from vaekit. Priors, posteriors and divergences are written out here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from models.paths import list_paths
from torch import Tensor
from torch.distributions import Normal

from vaekit.batch import Batch
from vaekit.models import VAE

STEP = 2e-3
GRID = torch.arange(-12, 12, STEP)


class Exact(NamedTuple):
    """Exact values per observation, in float64."""

    log_likelihood: Tensor
    elbo: Tensor


def normal(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Return location and scale from a head's outputs."""
    loc, raw = parameters.double().chunk(2, -1)
    return loc, F.softplus(raw + 0.5413) + 1e-4


def decoded(model: VAE, batch: Batch, values: dict[str, Tensor]) -> Tensor:
    """Return log p(x | z), ``[points, batch]``, for values ``[points, *event]``."""
    rows = len(batch.x)
    spread = {name: v[:, None].expand(len(v), rows, *v.shape[1:]) for name, v in values.items()}
    return model.networks.observation(spread, batch).log_prob(batch.x).double()


@torch.no_grad()
def gaussian(model: VAE, batch: Batch) -> Exact:
    """One standard normal dimension ``z``."""
    log_x = decoded(model, batch, {"z": GRID[:, None]})
    prior = Normal(0.0, 1.0).log_prob(GRID.double())[:, None]
    loc, scale = normal(model.latents["z"].head(model.networks.encode(batch)))
    q = Normal(loc.squeeze(-1), scale.squeeze(-1)).log_prob(GRID.double()[:, None])  # [points, batch]
    elbo = (q.exp() * (log_x + prior - q)).sum(0) * STEP
    return Exact((log_x + prior).logsumexp(0) + torch.tensor(STEP).double().log(), elbo)


@torch.no_grad()
def mixture(model: VAE, batch: Batch) -> Exact:
    """A category ``y`` that chooses the component of one dimension ``z``; the decoder sees ``z`` alone."""
    log_x = decoded(model, batch, {"z": GRID[:, None]})[:, :, None]  # [points, batch, categories]
    loc, scale = normal(model.latents["z"].components.weight.T)
    log_y = model.latents["y"].prior_logits.double().log_softmax(-1)
    prior = Normal(loc.T, scale.T).log_prob(GRID.double()[:, None]) + log_y  # [points, categories]
    joint = log_x + prior[:, None]
    h = model.networks.encode(batch)
    loc, scale = normal(model.latents["z"].head(h))
    q = Normal(loc, scale).log_prob(GRID.double().reshape(-1, 1, 1))
    q_y = model.latents["y"].head(h).double().log_softmax(-1)
    elbo = ((q + q_y).exp() * (joint - q - q_y)).sum((0, 2)) * STEP
    return Exact(joint.logsumexp((0, 2)) + torch.tensor(STEP).double().log(), elbo)


@torch.no_grad()
def discrete(model: VAE, batch: Batch) -> Exact:
    """Independent categories ``y`` with a uniform prior."""
    variables, categories = model.latents["y"].state_shape
    codes = torch.cartesian_prod(*[torch.arange(categories)] * variables).reshape(-1, variables)
    log_x = decoded(model, batch, {"y": F.one_hot(codes, categories).float()})  # [codes, batch]
    prior = -torch.tensor(float(len(codes))).double().log()
    logits = model.latents["y"].head(model.networks.encode(batch)).double().unflatten(-1, (variables, categories))
    each = logits.log_softmax(-1)[:, torch.arange(variables), codes]  # [batch, codes, variables]
    q = each.sum(-1).T
    return Exact((log_x + prior).logsumexp(0), (q.exp() * (log_x + prior - q)).sum(0))


@torch.no_grad()
def sequential(model: VAE, batch: Batch) -> Exact:
    """Categories ``z1``, ``z2``, ..., each given those before it."""
    listed = list_paths(model, batch)
    return Exact(listed.log_likelihood(), -listed.loss())
