r"""Returns of recorded trajectories: advantages and targets for a critic, with time as the last axis.

Both solve a linear recursion backwards in time, :math:`x_t = b_t + a_t x_{t+1}`, by doubling: after ``k`` rounds each
step knows the composition of the next ``2^k`` affine maps, so that ``log2(time)`` rounds of whole tensors do. No step
divides by a product of discounts, which underflows after some hundred steps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from vaekit.exceptions import EstimatorError


def generalized_advantage(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    done: Tensor,
    discount: float,
    lam: float,
    *,
    terminated: Tensor | None = None,
) -> Tensor:
    r"""Return the generalized advantage estimate of each step.

    .. math:: A_t = \sum_{l \ge 0} (\gamma \lambda)^l \delta_{t+l}, \quad
              \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t)

    At ``lam`` 0 it is the one-step error of the critic, at 1 the discounted sum of rewards (continued by the critic
    where the record ends) less the critic's value: then its bias is no more than that of the continuation.

    Parameters
    ----------
    rewards
        ``[..., time]``, of step ``t``.
    values, next_values
        ``[..., time]``, the critic's values of the state before and after step ``t``. The latter is not the former,
        shifted, where an episode ends.
    done
        ``[..., time]``, whether an episode ends with step ``t``: nothing after it counts, nor does ``next_values``.
    discount
        gamma, in 0..1.
    lam
        lambda, in 0..1.
    terminated
        ``[..., time]``, where an episode may also be cut short, by a limit of time say: whether it came to its own
        end with step ``t``. Where it did not, ``next_values`` counts though it is done. None: the same as ``done``.

    Returns
    -------
    Tensor
        ``[..., time]``; carries the gradients of its arguments, so detach ``values`` for a policy's gradient.

    Raises
    ------
    EstimatorError
        If shapes differ, or ``discount`` or ``lam`` is not in 0..1.

    Notes
    -----
    Schulman, Moritz, Levine, Jordan and Abbeel (2016), High-Dimensional Continuous Control Using Generalized
    Advantage Estimation.

    Examples
    --------
    >>> rewards, values = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 1.0, 2.0])
    >>> next_values, done = torch.tensor([1.0, 2.0, 7.0]), torch.tensor([False, False, True])
    >>> generalized_advantage(rewards, values, next_values, done, discount=0.5, lam=0.0)
    tensor([ 1.,  1., -1.])
    >>> generalized_advantage(rewards, values, next_values, done, discount=0.5, lam=1.0)  # 1 + 0.5 + 0.25 - 0.5, ...
    tensor([ 1.2500,  0.5000, -1.0000])
    """
    after, discount_after = _after(rewards, next_values, done, terminated, discount, lam, values=values)
    return _backwards(lam * discount_after, rewards + discount * after - values)


def td_lambda_return(
    rewards: Tensor,
    next_values: Tensor,
    done: Tensor,
    discount: float,
    lam: float,
    *,
    terminated: Tensor | None = None,
) -> Tensor:
    r"""Return the lambda-return of each step, the target of a critic trained by TD(lambda).

    .. math:: G_t = r_t + \gamma \big((1 - \lambda) V(s_{t+1}) + \lambda G_{t+1}\big)

    where the record ends, :math:`G_{t+1}` is the critic's value. At ``lam`` 0 it is the target of TD(0), at 1 the
    discounted sum of rewards. Where ``next_values`` are the ``values`` one step on, it is these plus the generalized
    advantage.

    Parameters
    ----------
    rewards, next_values, done, discount, lam, terminated
        As in :func:`generalized_advantage`.

    Returns
    -------
    Tensor
        ``[..., time]``; detach it for a critic's regression.

    Raises
    ------
    EstimatorError
        If shapes differ, or ``discount`` or ``lam`` is not in 0..1.

    Notes
    -----
    Sutton (1988), Learning to Predict by the Methods of Temporal Differences.

    Examples
    --------
    >>> rewards, next_values = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.0, 2.0, 7.0])
    >>> done = torch.tensor([False, False, True])
    >>> td_lambda_return(rewards, next_values, done, discount=0.5, lam=1.0)  # the discounted sums of rewards
    tensor([1.7500, 1.5000, 1.0000])
    >>> td_lambda_return(rewards, next_values, done, discount=0.5, lam=0.0)  # one reward, then the critic
    tensor([1.5000, 2.0000, 1.0000])
    """
    after, discount_after = _after(rewards, next_values, done, terminated, discount, lam)
    last = torch.arange(rewards.shape[-1], device=rewards.device) == rewards.shape[-1] - 1
    ends = done.bool() | last
    critic = torch.where(ends, after, (1 - lam) * after)
    return _backwards(lam * discount_after, rewards + discount * critic)


def _after(
    rewards: Tensor,
    next_values: Tensor,
    done: Tensor,
    terminated: Tensor | None,
    discount: float,
    lam: float,
    **more: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return what the critic says of the time after each step, and the discount of what was recorded after it."""
    terminated = done if terminated is None else terminated
    for name, tensor in {"next_values": next_values, "done": done, "terminated": terminated, **more}.items():
        if tensor.shape != rewards.shape:
            raise EstimatorError(
                f"{name} has shape {list(tensor.shape)} and rewards {list(rewards.shape)}: all are [..., time]"
            )
    for name, number in {"discount": discount, "lam": lam}.items():
        if not 0 <= number <= 1:
            raise EstimatorError(f"{name} is {number}, it must lie in [0, 1]")
    after = torch.where(terminated.bool(), 0, next_values)
    return after, torch.where(done.bool(), 0, torch.full_like(after, discount))


def _backwards(slope: Tensor, offset: Tensor) -> Tensor:
    """Return x with ``x[t] = offset[t] + slope[t] * x[t + 1]`` along the last axis, and x = 0 beyond its end.

    What a slope of 0 cuts off may be anything, NaN included.
    """
    ahead = 1
    while ahead < offset.shape[-1]:  # offset, slope: the map from x[t + ahead] to x[t]
        offset = offset + slope * pad(offset[..., ahead:], (0, ahead)).masked_fill(slope == 0, 0)
        slope = slope * pad(slope[..., ahead:], (0, ahead))
        ahead *= 2
    return offset
