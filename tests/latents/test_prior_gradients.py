"""Gradients with learned priors and flows, against quadrature over one dimension."""

from __future__ import annotations

import math

import pytest
import torch
from models.tiny import broaden, pixels, repeated

from latents.learned_priors import model_of
from vaekit import MixedVAE
from vaekit.batch import Batch
from vaekit.distributions.normalizing_flow import NormalizingFlow
from vaekit.estimators import LeaveOneOut, Pathwise, ScoreFunction
from vaekit.models.objectives import IWAE


@torch.no_grad()
def points(q, count: int) -> torch.Tensor:
    """Return fixed values of one dimension, ``[count, 1, 1]``, which are dense where the density is large."""
    noise = torch.linspace(-7, 7, count, dtype=torch.float64)[:, None, None]
    if isinstance(q, NormalizingFlow):
        noise = q.transform(noise)
        return q.loc + q.scale * noise
    return q.mean + q.stddev * noise


def exact_loss(model: MixedVAE, batch: Batch, kl_weight: float = 1.0) -> torch.Tensor:
    """Return the negative ELBO of one observation, by quadrature over one dimension."""
    networks = model.networks
    q = model.posteriors(batch)["z"]
    z = points(q, 6001)
    log_q, log_p = q.log_prob(z), networks.prior("z", {}, z).log_prob(z)
    integrand = log_q.exp() * (kl_weight * (log_q - log_p) - networks.log_likelihood({"z": z}, batch))
    return torch.trapezoid(integrand.squeeze(-1), z.flatten())


def exact_iwae_loss(model: MixedVAE, batch: Batch) -> torch.Tensor:
    """Return minus the importance-weighted bound of two samples, by quadrature over both."""
    q = model.posteriors(batch)["z"]
    z = points(q, 1201)
    log_q = q.log_prob(z).squeeze(-1)
    log_joint = model.networks.prior("z", {}, z).log_prob(z) + model.networks.log_likelihood({"z": z}, batch)
    log_weight = log_joint.squeeze(-1) - log_q
    bound = torch.logaddexp(log_weight[:, None], log_weight) - math.log(2)
    inner = torch.trapezoid(log_q.exp() * bound, z.flatten(), dim=-1)
    return -torch.trapezoid(log_q.exp() * inner, z.flatten())


def check_gradient(model: MixedVAE, exact: torch.Tensor, batch: Batch, kl_weight: float = 1.0) -> None:
    """Compare the gradient of all parameters with the exact one: |z| < 5, standard errors from 60 groups."""
    leaves = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(exact, leaves)])
    many, parts, values = repeated(batch, 0, 500), [], []
    torch.manual_seed(1)
    for _ in range(60):
        total = model.loss(many, kl_weight, training=True).total.mean()
        values.append(total.detach())
        parts.append(torch.cat([g.flatten() for g in torch.autograd.grad(total, leaves)]))
    for each, target in ((torch.stack(parts), wanted), (torch.stack(values)[:, None], exact.detach()[None])):
        error = each.std(0) / math.sqrt(len(each)) + 1e-4 * wanted.norm()
        assert ((each.mean(0) - target).abs() < 5 * error).all()
        assert error.norm() < 0.1 * wanted.norm()  # the test can see a difference


ESTIMATORS = {
    "pathwise": Pathwise,
    "sticking": lambda: Pathwise(stick_the_landing=True),
    "score": lambda: ScoreFunction(4, baseline=LeaveOneOut()),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["vamp_prior", "mixture", "flow_prior", "flow", "affine_flow"])
def test_gradients_are_exact_on_average(name, estimator):
    model = model_of(name, 1, estimator=ESTIMATORS[estimator]()).double()
    batch = pixels(1)
    check_gradient(model, exact_loss(model, batch, 0.7), batch, 0.7)


@pytest.mark.parametrize("name", ["vamp_prior", "flow"])
def test_gradients_of_the_importance_weighted_bound_are_exact_on_average(name):
    # broad, because quadrature over two variables has few points: kinks of a steep spline would be between them
    model = broaden(model_of(name, 1, objective=IWAE(num_samples=2))).double()
    batch = pixels(1)
    check_gradient(model, exact_iwae_loss(model, batch), batch)
