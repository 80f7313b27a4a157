"""Samples of the latents of a model from its prior, given one code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import get_logits, num_states, states
from vaekit.models import VAE

NUM_PROPOSALS = 4096  # joint states of the ancestors that are enumerated; samples of their prior if there are more


class Code(NamedTuple):
    """A state of one variable of a discrete latent, or a topic of variable 0."""

    latent: str
    variable: int
    state: int


def sample_given_code(model: VAE, code: Code, usage: Tensor, like: Tensor) -> dict[str, Tensor]:
    r"""Sample all latents given a code c of one of them, each ``[samples, *event]``; a library size only for a child.

    .. math:: p(\mathrm{others} | c) \propto p(\mathrm{ancestors})\, p(c | \mathrm{parents})\,
        p(\mathrm{descendants} | c, \mathrm{ancestors})

    The ancestors of a discrete latent are sampled from their exact joint probability given the code if they are
    discrete with up to 4,096 joint states. Otherwise 4,096 samples of their prior are resampled with the weights
    p(c | parents). For a topic, the proportion is 1, and the ancestors are samples of their prior.

    ``usage`` are the probabilities ``[variables, states]`` of the other variables of the latent. ``like`` determines
    the number of samples, the type and the device.
    """
    values = _sample_ancestors(model, code, like) if model.latents[code.latent].discrete else {}
    for name in model.networks.order:
        if name == code.latent:
            values[name] = _value(model, code, usage.to(like), len(like))
        elif name not in values and (not model.latents[name].is_nuisance or model.networks.descendants(name)):
            values[name] = _sample_prior(model, name, values, like, len(like))
    return values


def _value(model: VAE, code: Code, usage: Tensor, count: int) -> Tensor:
    """Return values of the code's latent, ``[count, *event]``; other variables are sampled by their usage."""
    latent = model.latents[code.latent]
    if not latent.discrete:  # log-proportions of topics
        proportions = usage.new_zeros(count, latent.size)
        proportions[:, code.state] = 1
        return proportions.log()
    categories = torch.distributions.Categorical(probs=usage, validate_args=False).sample(torch.Size([count]))
    categories[:, code.variable] = code.state
    one_hot = torch.nn.functional.one_hot(categories, usage.shape[-1]).to(usage)
    return one_hot[..., 1] if latent.event_dim == 1 else one_hot  # bits


def _sample_prior(model: VAE, name: str, values: dict[str, Tensor], like: Tensor, count: int) -> Tensor:
    return model.networks.prior(name, values, like).expand(torch.Size([count])).sample()


def _sample_ancestors(model: VAE, code: Code, like: Tensor) -> dict[str, Tensor]:
    """Sample the latents that the code depends on, given the code."""
    ancestors = set(model.latents[code.latent].parents)
    for name in reversed(model.networks.order):
        if name in ancestors:
            ancestors.update(model.latents[name].parents)
    if not ancestors:
        return {}
    values, log_weight = _proposals(model, [name for name in model.networks.order if name in ancestors], like)
    log_weight = log_weight + _log_prob(model.networks.prior(code.latent, values, like), code)
    cumulative = log_weight.double().softmax(0).cumsum(0)
    # systematic resampling: the number of samples of each state is exact up to rounding
    quantiles = (torch.arange(len(like), device=like.device) + torch.rand((), device=like.device)) / len(like)
    index = torch.searchsorted(cumulative, quantiles.double() * cumulative[-1]).clamp_max(len(cumulative) - 1)
    index = index[torch.randperm(len(like), device=like.device)]  # the order must not match that of the cells
    return {name: value[index] for name, value in values.items()}


def _proposals(model: VAE, names: Sequence[str], like: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return all joint values of latents, ``[num_states, *event]``, and their log weights; or samples of their prior.

    ``names`` are in topological order.
    """
    values: dict[str, Tensor] = {}
    log_weight = like.new_zeros(1)
    for name in names:
        prior, count = model.networks.prior(name, values, like), len(log_weight)
        own_states = num_states(prior)
        if own_states is None or own_states * count > NUM_PROPOSALS:
            samples: dict[str, Tensor] = {}
            for ancestor in names:
                samples[ancestor] = _sample_prior(model, ancestor, samples, like, NUM_PROPOSALS)
            return samples, like.new_zeros(NUM_PROPOSALS)
        support = states(prior.expand(torch.Size([count])))  # [states, count, *event]
        values = {other: value.repeat(len(support), *[1] * (value.dim() - 1)) for other, value in values.items()}
        log_weight = (log_weight + prior.log_prob(support)).flatten()
        values[name] = support.flatten(0, 1)
    return values, log_weight


def _log_prob(prior: Distribution, code: Code) -> Tensor:
    """Return log p(code | parents), ``[count]``."""
    logits = get_logits(prior)
    if prior.event_shape == logits.shape[-1:]:  # bits
        return torch.nn.functional.logsigmoid(logits[..., code.variable] * (1 if code.state else -1))
    return logits.log_softmax(-1)[..., code.variable, code.state]
