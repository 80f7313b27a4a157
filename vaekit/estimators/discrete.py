"""What estimators need to know of discrete distributions: logits, number of states, the states themselves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

from vaekit.estimators.noise import open_shape


def base_of(q: Distribution) -> tuple[Distribution, int]:
    """Return the distribution inside (nested) ``Independent`` and how many batch dimensions it declares as event."""
    declared = 0
    while isinstance(q, Independent):
        declared += q.reinterpreted_batch_ndims
        q = q.base_dist
    return q, declared


def is_bernoulli(q: Distribution) -> bool:
    """Tell whether ``q`` is a Bernoulli variable or a vector of them."""
    return isinstance(base_of(q)[0], Bernoulli)


def is_one_hot(q: Distribution) -> bool:
    """Tell whether ``q`` is a one-hot categorical variable or a vector of them."""
    return isinstance(base_of(q)[0], OneHotCategorical)


def logits_of(q: Distribution) -> Tensor:
    """Return the logits of a (vector of) Bernoulli or one-hot categorical variables, in the value's shape."""
    return base_of(q)[0].logits  # type: ignore[attr-defined]


def sample(q: Distribution, shape: torch.Size, shared: tuple[int, ...] = ()) -> Tensor:
    """Return ``q.sample(shape)``, one-hot variables by inversion of their cumulative probabilities.

    Bernoulli and one-hot variables have common noise along the ``shared`` axes of the result.

    torch's way there is a softmax, a multinomial draw, a check of its input that waits for the device, and a
    conversion of indices: several times the work.
    """
    if not is_one_hot(q):
        if not (shared and is_bernoulli(q)):
            return q.sample(shape)
        probs = base_of(q)[0].mean.detach()
        uniform = torch.rand(open_shape(shape + probs.shape, shared), dtype=probs.dtype, device=probs.device)
        return (uniform < probs).to(probs.dtype)
    categorical = base_of(q)[0]._categorical  # type: ignore[attr-defined]
    # taken from whichever of the two q was made with: the other has lost zeros, or costs a softmax
    probs = categorical.probs if "probs" in vars(categorical) else categorical.logits.exp()
    below = probs.detach().cumsum(-1)
    open_axes = open_shape(shape + below.shape[:-1], shared)
    uniform = torch.rand((*open_axes, 1), dtype=below.dtype, device=below.device)
    index = (uniform * below[..., -1:] >= below[..., :-1]).sum(-1, keepdim=True)
    return below.new_zeros((*shape, *below.shape)).scatter_(-1, index, 1.0)


def log_prob(q: Distribution, value: Tensor) -> Tensor:
    """Return ``q.log_prob(value)`` at a value that is known to be in the support."""
    if not is_one_hot(q):
        return q.log_prob(value)
    logits, declared = logits_of(q), base_of(q)[1]
    chosen = value * logits.clamp_min(torch.finfo(logits.dtype).min)  # 0 * -inf would be NaN
    return chosen.sum(tuple(range(-1 - declared, 0)))


def num_states(q: Distribution) -> int | None:
    """Return the size of the support of ``q`` (all variables of an ``Independent`` together); None if infinite.

    Examples
    --------
    >>> num_states(Independent(Bernoulli(logits=torch.zeros(5, 3)), 1))
    8
    """
    base, declared = base_of(q)
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
    base, declared = base_of(q)
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
