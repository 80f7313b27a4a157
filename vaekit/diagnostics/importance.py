"""The marginal likelihood by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.diagnostics.evaluation_mode import evaluation_mode
from vaekit.diagnostics.keyed_noise import draw_by_key, number_repeats, observation_keys
from vaekit.estimators.discrete_support import num_states, states
from vaekit.exceptions import VaekitError
from vaekit.models import VAE

SUMMED_STATES = 64  # discrete latents up to this many states together are summed, not sampled
CHUNK_ELEMENTS = 2**22  # decoder outputs held at a time: bounds the memory
CHUNK_ROWS = 128  # observations that the size of a block of draws is made for


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


def importance_sampled_log_likelihood(
    model: VAE, batches: Iterable[Batch], num_samples: int = 1000
) -> LikelihoodEstimate:
    r"""Estimate log p(x) of each observation with the posterior as the proposal.

    .. math:: \log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^{K} \frac{\sum_y p(x, y, z_k)}{q(z_k | x)}

    with K draws ``z_k`` of the latents, parents first, except those discrete ones ``y`` whose few states are summed
    exactly: of latents whose posteriors depend on one another, all or none. The draws follow from torch's seed and the
    content of each observation, not from the order or number of observations in a batch.

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
    seed, seen = int(torch.randint(2**62, ())), {}  # type: ignore[var-annotated]
    with evaluation_mode(model), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        results = [_estimate(model, batch, num_samples, seed, seen) for batch in batches]
    if not results:
        raise VaekitError("there are no observations to evaluate")
    log_likelihood, elbo, ess = (torch.cat(column).cpu() for column in zip(*results, strict=True))
    return LikelihoodEstimate(log_likelihood, elbo, ess, num_samples)


def _estimate(
    model: VAE, batch: Batch, num_samples: int, seed: int, seen: dict[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-likelihood, bound and effective sample size, each ``[batch]``."""
    batch = batch.to(model.device)
    networks = model.networks
    sizes = {name: num_states(q) for name, q in networks.posteriors(networks.encode(batch)).items()}
    summed = _summed(sizes, networks.groups)
    keys = number_repeats(observation_keys(batch, seed), seen)
    outputs = model.features * math.prod(sizes[name] or 1 for name in summed if name in networks.seen_by_decoder)
    # Each block of draws has separate noise, so that its size must not depend on the batch.
    draws = max(1, min(num_samples, CHUNK_ELEMENTS // (CHUNK_ROWS * outputs)))
    cells = max(CHUNK_ROWS, CHUNK_ELEMENTS // (draws * outputs))
    parts = []
    for first in range(0, len(batch.x), cells):
        some = batch if len(batch.x) <= cells else batch.rows(slice(first, first + cells))
        h = networks.encode(some)
        blocks = [
            _log_weights(model, some, h, summed, min(draws, num_samples - start), keys[first : first + cells] + start)
            for start in range(0, num_samples, draws)
        ]
        parts.append([torch.cat(block) for block in zip(*blocks, strict=True)])
    log_weights, bounds = (torch.cat(part, 1) for part in zip(*parts, strict=True))  # [num_samples, batch]
    log_likelihood = log_weights.logsumexp(0) - math.log(num_samples)
    ess = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
    return log_likelihood, bounds.mean(0), ess


def _summed(sizes: Mapping[str, int | None], groups: Iterable[Sequence[str]]) -> list[str]:
    """Return the latents that are summed: of groups that are all discrete, as many as stay within the budget."""
    names: list[str] = []
    total = 1
    for group in groups:
        count = math.prod(sizes[name] or SUMMED_STATES + 1 for name in group)
        if total * count <= SUMMED_STATES:
            names += group
            total *= count
    return names


def _log_weights(
    model: VAE, batch: Batch, h: Tensor, summed: list[str], draws: int, keys: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return the log importance weights and the bound's integrand, each ``[draws, batch]``."""
    networks, cells = model.networks, len(batch.x)
    values = _draw(model, h, summed, draws, keys)
    log_q_summed = torch.zeros((), dtype=torch.float64, device=model.device)
    log_q_sampled = torch.zeros(draws, cells, dtype=torch.float64, device=model.device)
    depth = 0  # axes: [states of summed latents, the last first ..., draws, batch]
    for name in networks.order:
        q = networks.posterior(name, h, values)
        if name in summed:
            every = states(q.expand(torch.Size([1] * (depth + 2 - len(q.batch_shape))) + q.batch_shape))
            values[name], depth = every, depth + 1
            log_q_summed = log_q_summed + q.log_prob(every).double()
        else:
            log_q_sampled = log_q_sampled + q.log_prob(values[name]).double()
    joint = networks.log_likelihood(values, batch).double()
    for name in networks.order:
        joint = joint + networks.prior(name, values, batch.x).log_prob(values[name]).double()
    if not summed:
        return joint - log_q_sampled, joint - log_q_sampled
    axes_of_states = tuple(range(depth))
    shape = torch.broadcast_shapes(joint.shape, log_q_summed.shape, log_q_sampled.shape)
    joint, log_q_summed = joint.expand(shape), log_q_summed.expand(shape)
    integrand = torch.where(log_q_summed.exp() > 0, log_q_summed.exp() * (joint - log_q_summed), 0).sum(axes_of_states)
    return joint.logsumexp(axes_of_states) - log_q_sampled, integrand - log_q_sampled


def _draw(model: VAE, h: Tensor, summed: list[str], draws: int, keys: np.ndarray) -> dict[str, Tensor]:
    """Draw the latents that are not summed, each ``[draws, batch, *event]``; their posteriors see none that are."""

    def draw(part: slice) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for name in model.networks.order:
            if name not in summed:
                q = model.networks.posterior(name, h[part], values)
                values[name] = q.sample(torch.Size([draws] if len(q.batch_shape) == 1 else []))
        return values

    return draw_by_key(draw, keys, draws)
