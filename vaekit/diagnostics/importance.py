"""Marginal likelihood by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit._core import memory_budget
from vaekit.batch import Batch
from vaekit.diagnostics.keyed_noise import draw_by_key, number_repeats, observation_keys
from vaekit.estimators.discrete_support import num_states, states
from vaekit.exceptions import VaekitError
from vaekit.models import VAE
from vaekit.models.evaluation_mode import evaluation_mode

MAX_SUMMED_STATES = 64  # discrete latents with at most this many states together are summed, not sampled
CHUNK_OBSERVATIONS = 128  # minimum; the number of samples per block is computed for it


class LikelihoodEstimate(NamedTuple):
    """Estimates for each observation, in nats.

    Attributes
    ----------
    log_likelihood : Tensor, shape (observations,)
        Importance-sampled estimate of log p(x) in float64; a lower bound in expectation.
    elbo : Tensor, shape (observations,)
        ELBO in float64, from the same samples.
    ess : Tensor, shape (observations,)
        Effective sample size of the importance weights, from 1 to the number of samples.
    num_samples : int
        Number of samples per observation.

    Examples
    --------
    >>> import vaekit
    >>> estimate = vaekit.diagnostics.importance_sampled_log_likelihood(model, [batch], num_samples=10)
    >>> estimate.standard_error() > estimate.monte_carlo_error()  # cells differ more than samples
    True
    """

    log_likelihood: Tensor
    elbo: Tensor
    ess: Tensor
    num_samples: int

    def mean(self) -> float:
        """Return the mean log-likelihood per observation."""
        return self.log_likelihood.mean().item()

    def standard_error(self) -> float:
        """Return the standard error of :meth:`mean` over observations; NaN for a single one."""
        count = len(self.log_likelihood)
        return (self.log_likelihood.std() / math.sqrt(count)).item() if count > 1 else math.nan

    def monte_carlo_error(self) -> float:
        """Return the error of :meth:`mean` due to the number of samples (delta method)."""
        variance = (1 / self.ess - 1 / self.num_samples).clamp_min(0)
        return (variance.sum().sqrt() / len(variance)).item()


def importance_sampled_log_likelihood(
    model: VAE, batches: Iterable[Batch], num_samples: int = 1000
) -> LikelihoodEstimate:
    r"""Estimate log p(x) of each observation with the posterior as the proposal.

    .. math:: \log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^{K} \sum_y \frac{p(x, y, z_k)}{q(z_k | x)}

    Here ``z_k`` are K samples of the latents. Discrete latents ``y`` with few states are summed exactly. Latents whose
    posteriors depend on one another are either all summed or all sampled. The samples depend on torch's seed and the
    content of each observation, but not on the order or number of observations in a mini-batch.

    Parameters
    ----------
    model : VAE
        The model. It is in evaluation mode during the call.
    batches : Iterable[Batch]
        Observations, such as ``data.dataloader("test")``.
    num_samples : int
        Number K of samples per observation.

    Raises
    ------
    VaekitError
        If ``num_samples`` is below 1, or there are no observations.

    Notes
    -----
    Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5.

    Examples
    --------
    >>> import vaekit
    >>> estimate = vaekit.diagnostics.importance_sampled_log_likelihood(model, [batch], num_samples=10)
    >>> estimate.log_likelihood.shape, bool((estimate.log_likelihood >= estimate.elbo).all())
    (torch.Size([64]), True)
    """
    if num_samples < 1:
        raise VaekitError(f"importance_sampled_log_likelihood: num_samples={num_samples} must be at least 1.")
    seed, repeats = int(torch.randint(2**62, ())), dict[int, int]()
    devices = [model.device] if model.device.type == "cuda" else []
    with evaluation_mode(model), torch.random.fork_rng(devices):  # restores the RNG state after an error, too
        results = [_estimate(model, batch, num_samples, seed, repeats) for batch in batches]
    if not results:
        raise VaekitError("importance_sampled_log_likelihood: batches is empty. Pass at least one observation.")
    log_likelihood, elbo, ess = (torch.cat(column).cpu() for column in zip(*results, strict=True))
    return LikelihoodEstimate(log_likelihood, elbo, ess, num_samples)


def _estimate(
    model: VAE, batch: Batch, num_samples: int, seed: int, repeats: dict[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-likelihood, ELBO and effective sample size, each ``[batch]``."""
    batch = batch.to(model.device)
    networks = model.networks
    sizes = {name: num_states(q) for name, q in networks.posteriors(networks.encode(batch)).items()}
    summed = _select_summed(sizes, networks.groups)
    keys = number_repeats(observation_keys(batch, seed), repeats)
    outputs = model.features * math.prod(sizes[name] or 1 for name in summed if name in networks.seen_by_decoder)
    # Each block of samples has separate noise, so its size must not depend on the batch.
    block_size = max(1, min(num_samples, memory_budget.EVALUATED_VALUES // (CHUNK_OBSERVATIONS * outputs)))
    chunk_size = max(CHUNK_OBSERVATIONS, memory_budget.EVALUATED_VALUES // (block_size * outputs))
    chunks = []
    for first in range(0, len(batch.x), chunk_size):
        part = slice(first, first + chunk_size)
        chunk = batch if len(batch.x) <= chunk_size else batch.rows(part)
        h = networks.encode(chunk)
        blocks = [
            _log_weights(model, chunk, h, summed, min(block_size, num_samples - start), keys[part] + start)
            for start in range(0, num_samples, block_size)
        ]
        chunks.append([torch.cat(block) for block in zip(*blocks, strict=True)])
    log_weights, integrands = (torch.cat(column, 1) for column in zip(*chunks, strict=True))  # [num_samples, batch]
    log_likelihood = log_weights.logsumexp(0) - math.log(num_samples)
    ess = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
    return log_likelihood, integrands.mean(0), ess


def _select_summed(sizes: Mapping[str, int | None], groups: Iterable[Sequence[str]]) -> list[str]:
    """Return the latents of the first groups that are discrete and have few states together."""
    names: list[str] = []
    total = 1
    for group in groups:
        count = math.prod(sizes[name] or MAX_SUMMED_STATES + 1 for name in group)
        if total * count <= MAX_SUMMED_STATES:
            names += group
            total *= count
    return names


def _log_weights(
    model: VAE, batch: Batch, h: Tensor, summed: list[str], num_samples: int, keys: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return the log importance weights and the integrand of the ELBO, each ``[num_samples, batch]``."""
    networks = model.networks
    values = _sample(model, h, summed, num_samples, keys)
    log_q_summed = torch.zeros((), dtype=torch.float64, device=model.device)
    log_q_sampled = torch.zeros(num_samples, len(batch.x), dtype=torch.float64, device=model.device)
    depth = 0  # number of leading dimensions of states, the last latent first: [*states, num_samples, batch]
    for name in networks.inference_order:
        q = networks.posterior(name, h, values)
        if name in summed:
            values[name] = states(q.expand(torch.Size([1] * (depth + 2 - len(q.batch_shape))) + q.batch_shape))
            depth += 1
            log_q_summed = log_q_summed + q.log_prob(values[name]).double()
        else:
            log_q_sampled = log_q_sampled + q.log_prob(values[name]).double()
    joint = networks.log_likelihood(values, batch).double()
    for name in networks.order:
        joint = joint + networks.prior(name, values, batch.x).log_prob(values[name]).double()
    if not summed:
        return joint - log_q_sampled, joint - log_q_sampled
    state_dims = tuple(range(depth))
    shape = torch.broadcast_shapes(joint.shape, log_q_summed.shape, log_q_sampled.shape)
    joint, log_q_summed = joint.expand(shape), log_q_summed.expand(shape)
    integrand = torch.where(log_q_summed.exp() > 0, log_q_summed.exp() * (joint - log_q_summed), 0).sum(state_dims)
    return joint.logsumexp(state_dims) - log_q_sampled, integrand - log_q_sampled


def _sample(model: VAE, h: Tensor, summed: list[str], num_samples: int, keys: np.ndarray) -> dict[str, Tensor]:
    """Sample the latents that are not summed, each ``[num_samples, batch, *event]``."""

    def draw(part: slice) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for name in model.networks.inference_order:
            if name not in summed:
                q = model.networks.posterior(name, h[part], values)
                values[name] = q.sample(torch.Size([num_samples] if len(q.batch_shape) == 1 else []))
        return values

    return draw_by_key(draw, keys, num_samples)
