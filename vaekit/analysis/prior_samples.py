"""The latents of a model, drawn from its prior given one code."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import get_logits, num_states, states
from vaekit.models import VAE

PROPOSALS = 4096  # joint states of ancestors that are gone through; of more, so many draws


class Code(NamedTuple):
    """A state of one variable of a discrete latent."""

    latent: str
    variable: int
    state: int


def sample_given_code(model: VAE, code: Code, use: Tensor, like: Tensor) -> dict[str, Tensor]:
    r"""Draw all latents given a code c of one of them, each ``[draws, *event]``; a library size is left out.

    .. math:: p(\mathrm{others} | c) \propto p(\mathrm{ancestors})\, p(c | \mathrm{parents})\,
        p(\mathrm{descendants} | c, \mathrm{ancestors})

    The ancestors, which are discrete, are drawn from their exact joint probability given the code if they have up to
    4,096 states together, else out of 4,096 draws of their prior weighed by p(c | parents).

    Parameters
    ----------
    model
        The model.
    code
        What is given.
    use
        Probabilities ``[variables, states]`` of the other variables of the code's latent.
    like
        Tensor ``[draws, ...]``.
    """
    networks, count = model.networks, len(like)
    values = _ancestors(model, code, like)
    for name in networks.order:
        if name in values or model.latents[name].is_nuisance:
            continue
        if name != code.latent:
            values[name] = networks.prior(name, values, like).expand(torch.Size([count])).sample()
            continue
        probabilities = use.to(like)
        drawn = torch.distributions.Categorical(probs=probabilities, validate_args=False).sample(torch.Size([count]))
        drawn[:, code.variable] = code.state
        one_hot = torch.nn.functional.one_hot(drawn, probabilities.shape[-1]).to(like)
        values[name] = one_hot[..., 1] if model.latents[name].event_dim == 1 else one_hot  # bits
    return values


def _ancestors(model: VAE, code: Code, like: Tensor) -> dict[str, Tensor]:
    """Draw the latents that the code depends on, given the code."""
    names: set[str] = set()
    waiting = list(model.latents[code.latent].parents)
    while waiting:
        if (name := waiting.pop()) not in names:
            names.add(name)
            waiting += model.latents[name].parents
    if not names:
        return {}
    values, log_weight = _proposals(model, [name for name in model.networks.order if name in names], like)
    log_weight = log_weight + _log_prob(model.networks.prior(code.latent, values, like), code)
    edges = log_weight.double().softmax(0).cumsum(0)
    # draws at equal distances: as many of each state as its share, but for less than one
    places = (torch.arange(len(like), device=like.device) + torch.rand((), device=like.device)) / len(like)
    rows = torch.searchsorted(edges, places.double() * edges[-1]).clamp_max(len(edges) - 1)
    rows = rows[torch.randperm(len(like), device=like.device)]  # the cells have an order too
    return {name: value[rows] for name, value in values.items()}


def _proposals(model: VAE, names: list[str], like: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return joint values of latents, ``[rows, *event]``, and their log weights: all there are, or draws of the prior.

    ``names`` come parents first.
    """
    values: dict[str, Tensor] = {}
    log_weight = like.new_zeros(1)
    for name in names:
        prior, rows = model.networks.prior(name, values, like), len(log_weight)
        if (num_states(prior) or PROPOSALS) * rows > PROPOSALS:
            return _draws(model, names, like), like.new_zeros(PROPOSALS)
        own = states(prior.expand(torch.Size([rows])))  # [states, rows, *event]
        values = {other: value.repeat(len(own), *[1] * (value.dim() - 1)) for other, value in values.items()}
        log_weight = (log_weight + prior.log_prob(own)).flatten()
        values[name] = own.flatten(0, 1)
    return values, log_weight


def _draws(model: VAE, names: list[str], like: Tensor) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    for name in names:
        values[name] = model.networks.prior(name, values, like).expand(torch.Size([PROPOSALS])).sample()
    return values


def _log_prob(prior: Distribution, code: Code) -> Tensor:
    """Return log p(code | parents), ``[rows]``."""
    logits = get_logits(prior)
    if prior.event_shape == logits.shape[-1:]:  # bits
        return torch.nn.functional.logsigmoid(logits[..., code.variable] * (1 if code.state else -1))
    return logits.log_softmax(-1)[..., code.variable, code.state]
