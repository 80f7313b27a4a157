"""The marginal likelihood by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.batch import Batch
from vaekit.estimators.discrete import num_states, states
from vaekit.exceptions import VaekitError
from vaekit.models import VAE

SUMMED_STATES = 64  # discrete latents up to this many states together are summed, not sampled
CHUNK_ELEMENTS = 2**22  # decoder outputs held at a time: bounds the memory


class LikelihoodEstimate(NamedTuple):
    """Per observation, float64 ``[observations]``, in nats.

    Attributes
    ----------
    log_likelihood
        Importance-sampled estimate of log p(x); a lower bound in expectation.
    elbo
        The evidence lower bound, from the same draws.
    ess
        Effective sample size of the importance weights, from 1 to the number of samples.
    num_samples
        Draws an observation.
    """

    log_likelihood: Tensor
    elbo: Tensor
    ess: Tensor
    num_samples: int

    def mean(self) -> float:
        """Return the mean log-likelihood an observation."""
        return self.log_likelihood.mean().item()

    def standard_error(self) -> float:
        """Return the standard error of :meth:`mean` over observations; NaN for a single one."""
        count = len(self.log_likelihood)
        return (self.log_likelihood.std() / math.sqrt(count)).item() if count > 1 else math.nan

    def monte_carlo_error(self) -> float:
        """Return the part of the error of :meth:`mean` that more samples would remove (delta method)."""
        variance = (1 / self.ess - 1 / self.num_samples).clamp_min(0)
        return (variance.sum().sqrt() / len(variance)).item()


@torch.no_grad()
def importance_sampled_log_likelihood(
    model: VAE, batches: Iterable[Batch], num_samples: int = 1000
) -> LikelihoodEstimate:
    r"""Estimate log p(x) of each observation with the posterior as the proposal.

    .. math:: \log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^{K} \frac{\sum_y p(x, y, z_k)}{q(z_k | x)}

    with K draws ``z_k`` of the latents, except those discrete ones ``y`` whose few states are summed exactly.

    Parameters
    ----------
    model
        The model, put into evaluation mode for the call.
    batches
        Observations, such as ``data.dataloader("test")``.
    num_samples
        K.

    Raises
    ------
    VaekitError
        If ``num_samples`` is below 1, or there are no observations.

    Notes
    -----
    Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5.
    """
    if num_samples < 1:
        raise VaekitError(f"num_samples is {num_samples}, it must be at least 1")
    was_training = model.training
    model.eval()
    try:
        results = [_estimate(model, batch, num_samples) for batch in batches]
    finally:
        model.train(was_training)
    if not results:
        raise VaekitError("there are no observations to evaluate")
    log_likelihood, elbo, ess = (torch.cat(column).cpu() for column in zip(*results, strict=True))
    return LikelihoodEstimate(log_likelihood, elbo, ess, num_samples)


def _estimate(model: VAE, batch: Batch, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-likelihood, bound and effective sample size, each ``[batch]``."""
    batch = batch.to(model.device)
    q = model.posteriors(batch)
    summed = _summed(q)
    cells = len(batch.x)
    inner = math.prod(num_states(q[name]) or 1 for name in summed if name in model.networks.seen_by_decoder)
    chunk = max(1, CHUNK_ELEMENTS // (cells * model.features * inner))
    weights, bounds = [], []
    for start in range(0, num_samples, chunk):
        weight, bound = _log_weights(model, batch, q, summed, min(chunk, num_samples - start))
        weights.append(weight)
        bounds.append(bound)
    log_weights = torch.cat(weights)  # [num_samples, batch]
    log_likelihood = log_weights.logsumexp(0) - math.log(num_samples)
    ess = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
    return log_likelihood, torch.cat(bounds).mean(0), ess


def _summed(q: dict[str, Distribution]) -> list[str]:
    """Return the discrete latents that are summed: as many as stay within the budget together."""
    names, total = [], 1
    for name, posterior in q.items():
        count = num_states(posterior)
        if count is not None and total * count <= SUMMED_STATES:
            names.append(name)
            total *= count
    return names


def _log_weights(
    model: VAE, batch: Batch, q: dict[str, Distribution], summed: list[str], draws: int
) -> tuple[Tensor, Tensor]:
    """Return the log importance weights and the bound's integrand, each ``[draws, batch]``."""
    networks = model.networks
    values, log_q_summed = {}, torch.zeros((), dtype=torch.float64, device=model.device)
    log_q_sampled = torch.zeros(draws, len(batch.x), dtype=torch.float64, device=model.device)
    depth = 1  # axes: [states of summed latents ..., draws, batch]
    for name in summed:
        every = states(q[name])
        axes = (every.shape[0], *[1] * depth)
        values[name] = every.reshape(*axes, *every.shape[1:])
        log_q_summed = log_q_summed + q[name].log_prob(every).double().reshape(*axes, -1)
        depth += 1
    for name in q:
        if name not in summed:
            values[name] = q[name].sample(torch.Size([draws]))
            log_q_sampled = log_q_sampled + q[name].log_prob(values[name]).double()
    joint = networks.log_likelihood(values, batch).double()
    for name in q:
        joint = joint + networks.prior(name, values, batch.x).log_prob(values[name]).double()
    if not summed:
        return joint - log_q_sampled, joint - log_q_sampled
    axes_of_states = tuple(range(depth - 1))
    shape = torch.broadcast_shapes(joint.shape, log_q_summed.shape, log_q_sampled.shape)
    joint, log_q_summed = joint.expand(shape), log_q_summed.expand(shape)
    integrand = torch.where(log_q_summed.exp() > 0, log_q_summed.exp() * (joint - log_q_summed), 0).sum(axes_of_states)
    return joint.logsumexp(axes_of_states) - log_q_sampled, integrand - log_q_sampled
