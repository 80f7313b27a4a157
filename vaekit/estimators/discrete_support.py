"""What estimators need to know of discrete distributions: logits, number of states, the states themselves."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Geometric,
    Independent,
    MixtureSameFamily,
    Multinomial,
    OneHotCategorical,
    Poisson,
)

from vaekit.distributions.mixture import mixture_log_prob
from vaekit.distributions.precise import exact_logits, given_probs, safe_log
from vaekit.estimators.noise import common_noise_shape


def unwrap_independent(q: Distribution) -> tuple[Distribution, int]:
    """Return the distribution inside (nested) ``Independent`` and how many batch dimensions it declares as event."""
    declared = 0
    while isinstance(q, Independent):
        declared += q.reinterpreted_batch_ndims
        q = q.base_dist
    return q, declared


def is_bernoulli(q: Distribution) -> bool:
    """Tell whether ``q`` is a Bernoulli variable or a vector of them."""
    return isinstance(unwrap_independent(q)[0], Bernoulli)


def is_one_hot(q: Distribution) -> bool:
    """Tell whether ``q`` is a one-hot categorical variable or a vector of them."""
    return isinstance(unwrap_independent(q)[0], OneHotCategorical)


def get_logits(q: Distribution) -> Tensor:
    """Return the logits of a (vector of) Bernoulli or one-hot categorical variables, in the value's shape.

    Where a probability was given as exactly 0 or 1 they are infinite, and have no gradient.
    """
    return exact_logits(unwrap_independent(q)[0])


def sample_discrete(q: Distribution, shape: torch.Size, shared: tuple[int, ...] = ()) -> Tensor:
    """Return ``q.sample(shape)``, one-hot variables by inversion of their cumulative probabilities.

    Bernoulli and one-hot variables have common noise along the ``shared`` axes of the result.

    torch's way there is a softmax, a multinomial draw, a check of its input that waits for the device, and a
    conversion of indices: several times the work.
    """
    if not is_one_hot(q):
        if not (shared and is_bernoulli(q)):
            return q.sample(shape)
        probs = unwrap_independent(q)[0].mean.detach()
        uniform = torch.rand(common_noise_shape(shape + probs.shape, shared), dtype=probs.dtype, device=probs.device)
        return (uniform < probs).to(probs.dtype)
    given = given_probs(unwrap_independent(q)[0])  # the other would have lost zeros, or cost a softmax
    probs = get_logits(q).exp() if given is None else given
    below = probs.detach().cumsum(-1)
    open_axes = common_noise_shape(shape + below.shape[:-1], shared)
    uniform = torch.rand((*open_axes, 1), dtype=below.dtype, device=below.device)
    index = (uniform * below[..., -1:] >= below[..., :-1]).sum(-1, keepdim=True)
    return below.new_zeros((*shape, *below.shape)).scatter_(-1, index, 1.0)


def log_prob(q: Distribution, value: Tensor) -> Tensor:
    """Return ``q.log_prob(value)``, finite and with a finite gradient at every value that can be drawn.

    torch's is NaN where logits are infinite or a rate is 0, and clamps probabilities.
    """
    base, declared = unwrap_independent(q)
    if isinstance(base, OneHotCategorical):
        logits = exact_logits(base)
        own = (value * logits.clamp_min(torch.finfo(logits.dtype).min)).sum(-1)  # 0 * -inf would be NaN
    elif isinstance(base, MixtureSameFamily):
        own = mixture_log_prob(base, value)
    elif isinstance(base, Bernoulli | Categorical | Binomial | Poisson | Geometric | Multinomial):
        if base._validate_args:
            base._validate_sample(value)
        own = _log_prob(base, value)
    else:
        return q.log_prob(value)
    return own.sum(tuple(range(-declared, 0))) if declared else own


def _log_prob(base: Any, value: Tensor) -> Tensor:
    """Return the log-probability of single variables of a family with values of probability 0."""
    if isinstance(base, Poisson):
        log_rate = safe_log(base.rate)
        return _times(value, log_rate) - torch.where(base.rate > 0, base.rate, 0) - (value + 1).lgamma()
    if isinstance(base, Geometric):
        probs: Any = given_probs(base)
        if probs is None:
            return _times(value, F.logsigmoid(-base.logits)) + F.logsigmoid(base.logits)
        return _times(value, safe_log(1 - probs)) + torch.where(probs < 1, probs, 1).log()
    logits = exact_logits(base)
    if isinstance(base, Multinomial):
        ways = (value.sum(-1) + 1).lgamma() - (value + 1).lgamma().sum(-1)
        return ways + _times(value, logits).sum(-1)
    if isinstance(base, Categorical):
        value, logits = torch.broadcast_tensors(value.long()[..., None], logits)
        return logits.gather(-1, value[..., :1])[..., 0]
    if isinstance(base, Bernoulli):
        return F.logsigmoid(torch.where(value > 0, logits, -logits))
    count = base.total_count
    ways = (count + 1).lgamma() - (value + 1).lgamma() - (count - value + 1).lgamma()
    return ways + _times(value, F.logsigmoid(logits)) + _times(count - value, F.logsigmoid(-logits))


def _times(count: Tensor, log: Tensor) -> Tensor:
    """Return a count times a logarithm: 0 where the count is 0, also if the logarithm is infinite."""
    return count * torch.where(count > 0, log, 0)


def prob(q: Distribution, value: Tensor) -> Tensor:
    """Return the probability of values, differentiable at 0 and 1 by probabilities that the distribution was made with.

    For distributions whose support can be listed.
    """
    base, declared = unwrap_independent(q)
    given: Any = given_probs(base)
    if given is None:
        return log_prob(q, value).exp()
    if isinstance(base, Bernoulli):
        own = torch.where(value > 0, given, 1 - given)
    elif isinstance(base, OneHotCategorical):
        own = (value * given).sum(-1)
    elif isinstance(base, Categorical):
        index, given = torch.broadcast_tensors(value.long()[..., None], given)
        own = given.gather(-1, index[..., :1])[..., 0]
    elif isinstance(base, Binomial):
        rest = base.total_count - value
        ways = ((base.total_count + 1).lgamma() - (value + 1).lgamma() - (rest + 1).lgamma()).exp()
        own = ways * given**value * (1 - given) ** rest
    else:
        return log_prob(q, value).exp()
    return own.flatten(-declared).prod(-1) if declared else own


def num_states(q: Distribution) -> int | None:
    """Return the size of the support of ``q`` (all variables of an ``Independent`` together); None if infinite.

    Examples
    --------
    >>> num_states(Independent(Bernoulli(logits=torch.zeros(5, 3)), 1))
    8
    """
    base, declared = unwrap_independent(q)
    if not base.has_enumerate_support:
        return None
    try:
        values = base.enumerate_support(expand=False)
    except NotImplementedError:  # an inhomogeneous Binomial, say
        return None
    variables = base.batch_shape[len(base.batch_shape) - declared :].numel()
    return values.shape[0] ** variables


def states(q: Distribution) -> Tensor:
    """Return every value of the support, ``[states, *batch, *event]`` (expanded, without copies over the batch).

    torch's ``Independent`` enumerates its variables in lockstep only; the product is built here.
    """
    base, declared = unwrap_independent(q)
    values = base.enumerate_support(expand=False)  # [K, 1, ..., 1, *base_event]
    rank = len(base.batch_shape) - declared
    variables = base.batch_shape[rank:]
    count, total = values.shape[0], values.shape[0] ** variables.numel()
    digits = torch.arange(total, device=values.device)[:, None]
    place = count ** torch.arange(variables.numel() - 1, -1, -1, device=values.device)
    choice = (digits // place) % count  # [states, variables]
    table = values.reshape(count, *base.event_shape)[choice]  # [states, variables, *base_event]
    table = table.reshape(total, *[1] * rank, *variables, *base.event_shape)
    return table.expand(total, *base.batch_shape[:rank], *variables, *base.event_shape)
