"""Functions of discrete distributions: logits, probabilities, number of states, all states."""

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
    """Return the distribution inside (nested) ``Independent``, and the number of batch dimensions declared as event."""
    event_dim = 0
    while isinstance(q, Independent):
        event_dim += q.reinterpreted_batch_ndims
        q = q.base_dist
    return q, event_dim


def is_bernoulli(q: Distribution) -> bool:
    """Return whether ``q`` is a Bernoulli variable or a vector of them."""
    return isinstance(unwrap_independent(q)[0], Bernoulli)


def is_one_hot(q: Distribution) -> bool:
    """Return whether ``q`` is a one-hot categorical variable or a vector of them."""
    return isinstance(unwrap_independent(q)[0], OneHotCategorical)


def num_variables(q: Distribution) -> int:
    """Return the number of variables of the event: the size of the dimensions that ``Independent`` declares."""
    base, event_dim = unwrap_independent(q)
    return base.batch_shape[len(base.batch_shape) - event_dim :].numel()


def get_logits(q: Distribution) -> Tensor:
    """Return the logits of Bernoulli or one-hot categorical variables, in the shape of their values.

    They are infinite, without a gradient, if the distribution was constructed with a probability of exactly 0 or 1.
    """
    return exact_logits(unwrap_independent(q)[0])


def sample_discrete(q: Distribution, shape: torch.Size, common_dims: tuple[int, ...] = ()) -> Tensor:
    """Return ``q.sample(shape)``, with one-hot variables sampled by inversion of their cumulative probabilities.

    Bernoulli and one-hot variables have common noise along ``common_dims`` of the result. torch samples one-hot
    variables by a softmax, a multinomial sample, a check that waits for the device and a conversion of indices, which
    takes several times as long.
    """
    if not is_one_hot(q):
        if not (common_dims and is_bernoulli(q)):
            return q.sample(shape)
        probs = unwrap_independent(q)[0].mean.detach()
        noise_shape = common_noise_shape(shape + probs.shape, common_dims)
        uniform = torch.rand(noise_shape, dtype=probs.dtype, device=probs.device)
        return (uniform < probs).to(probs.dtype)
    constructor_probs = given_probs(unwrap_independent(q)[0])  # the logits do not have exact zeros
    cumulative = (get_logits(q).exp() if constructor_probs is None else constructor_probs).detach().cumsum(-1)
    noise_shape = common_noise_shape(shape + cumulative.shape[:-1], common_dims)
    uniform = torch.rand((*noise_shape, 1), dtype=cumulative.dtype, device=cumulative.device)
    index = (uniform * cumulative[..., -1:] >= cumulative[..., :-1]).sum(-1, keepdim=True)
    return cumulative.new_zeros((*shape, *cumulative.shape)).scatter_(-1, index, 1.0)


def log_prob(q: Distribution, value: Tensor) -> Tensor:
    """Return ``q.log_prob(value)``, finite and with a finite gradient at every possible value.

    torch returns NaN if logits are infinite or a rate is 0, and clamps probabilities.
    """
    base, event_dim = unwrap_independent(q)
    if isinstance(base, OneHotCategorical):
        logits = exact_logits(base)
        result = (value * logits.clamp_min(torch.finfo(logits.dtype).min)).sum(-1)  # 0 * -inf would be NaN
    elif isinstance(base, MixtureSameFamily):
        result = mixture_log_prob(base, value)
    elif isinstance(base, Bernoulli | Categorical | Binomial | Poisson | Geometric | Multinomial):
        if base._validate_args:
            base._validate_sample(value)
        result = _log_prob(base, value)
    else:
        return q.log_prob(value)
    return result.sum(tuple(range(-event_dim, 0))) if event_dim else result


def _log_prob(base: Any, value: Tensor) -> Tensor:
    """Return the log-probability of single variables of a family that can have values of probability 0."""
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
        log_ways = (value.sum(-1) + 1).lgamma() - (value + 1).lgamma().sum(-1)
        return log_ways + _times(value, logits).sum(-1)
    if isinstance(base, Categorical):
        return _gather_state(logits, value)
    if isinstance(base, Bernoulli):
        return F.logsigmoid(torch.where(value > 0, logits, -logits))
    count, failures = base.total_count, base.total_count - value
    log_success, log_failure = F.logsigmoid(logits), F.logsigmoid(-logits)
    return _log_choose(count, value) + _times(value, log_success) + _times(failures, log_failure)


def _times(count: Tensor, log: Tensor) -> Tensor:
    """Return a count times a logarithm: 0 if the count is 0, even if the logarithm is infinite."""
    return count * torch.where(count > 0, log, 0)


def _log_choose(count: Tensor, value: Tensor) -> Tensor:
    """Return the logarithm of the binomial coefficient."""
    return (count + 1).lgamma() - (value + 1).lgamma() - (count - value + 1).lgamma()


def _gather_state(table: Tensor, value: Tensor) -> Tensor:
    """Return the entries of ``[*batch, K]`` at the categories ``value``, ``[*samples, *batch]``."""
    index, table = torch.broadcast_tensors(value.long()[..., None], table)
    return table.gather(-1, index[..., :1])[..., 0]


def prob(q: Distribution, value: Tensor) -> Tensor:
    """Return the probability of values of a finite support.

    It is differentiable at 0 and 1 by the probabilities with which the distribution was constructed.
    """
    base, event_dim = unwrap_independent(q)
    probs = given_probs(base)
    if probs is None:
        return log_prob(q, value).exp()
    if isinstance(base, Bernoulli):
        result = torch.where(value > 0, probs, 1 - probs)
    elif isinstance(base, OneHotCategorical):
        result = (value * probs).sum(-1)
    elif isinstance(base, Categorical):
        result = _gather_state(probs, value)
    elif isinstance(base, Binomial):
        ways = _log_choose(base.total_count, value).exp()
        result = ways * probs**value * (1 - probs) ** (base.total_count - value)
    else:
        return log_prob(q, value).exp()
    return result.flatten(-event_dim).prod(-1) if event_dim else result


def num_states(q: Distribution) -> int | None:
    """Return the size of the support of ``q`` (all variables of an ``Independent`` together); None if infinite.

    Examples
    --------
    >>> num_states(Independent(Bernoulli(logits=torch.zeros(5, 3)), 1))
    8
    """
    base = unwrap_independent(q)[0]
    if not base.has_enumerate_support:
        return None
    try:
        values = base.enumerate_support(expand=False)
    except NotImplementedError:  # for example, a Binomial with different total counts
        return None
    return len(values) ** num_variables(q)


def states(q: Distribution) -> Tensor:
    """Return every value of the support, ``[states, *batch, *event]``, expanded over the batch without copies.

    torch's ``Independent`` enumerates all its variables at once; this function returns their Cartesian product.
    """
    base, event_dim = unwrap_independent(q)
    values = base.enumerate_support(expand=False)  # [K, 1, ..., 1, *base_event]
    rank = len(base.batch_shape) - event_dim
    count, variables = len(values), num_variables(q)
    exponent = torch.arange(variables - 1, -1, -1, device=values.device)
    digits = torch.arange(count**variables, device=values.device)[:, None] // count**exponent % count
    table = values.reshape(count, *base.event_shape)[digits]  # [states, variables, *base_event]
    table = table.reshape(-1, *[1] * rank, *base.batch_shape[rank:], *base.event_shape)
    return table.expand(-1, *base.batch_shape, *base.event_shape)


def replace_each_variable(value: Tensor, changed: Tensor, event_dim: int) -> Tensor:
    """Replace one variable at a time by its changed values.

    Parameters
    ----------
    value : Tensor, shape (samples, *batch, variables, *event)
        Values of all variables.
    changed : Tensor, shape (changes, samples, *batch, variables, *event)
        Changed values of all variables.
    event_dim : int
        Number of event dimensions of a single variable.

    Returns
    -------
    Tensor, shape (variables, changes, samples, *batch, variables, *event)
        The values with the variable of the first dimension changed.
    """
    dim = changed.dim() - event_dim - 1
    variables = changed.shape[dim]
    selected = torch.eye(variables, dtype=torch.bool, device=value.device)
    return torch.where(selected.reshape(variables, *[1] * dim, variables, *[1] * event_dim), changed, value)
