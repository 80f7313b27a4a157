r"""Returns of recorded trajectories: advantages and critic targets, with time as the last dimension.

Both solve a linear recursion backwards in time, :math:`x_t = b_t + a_t x_{t+1}`, by doubling: after ``k`` rounds each
step holds the composition of the next ``2^k`` affine maps. ``log2(time)`` rounds on whole tensors are therefore enough.
No step divides by a product of discounts, which underflows after some hundred steps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from vaekit.exceptions import EstimatorError

__all__ = ["generalized_advantage", "td_lambda_return"]


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

    With ``lam`` 0 it is the one-step error of the critic. With ``lam`` 1 it is the discounted sum of rewards, continued
    by the critic at the end of the record, minus the critic's value: only this continuation can be biased.

    Parameters
    ----------
    rewards : Tensor, shape (..., time)
        Reward of each step.
    values, next_values : Tensor, shape (..., time)
        Values of the critic for the states before and after each step. At the end of an episode ``next_values`` is not
        the shifted ``values``.
    done : Tensor, shape (..., time)
        Whether an episode ends with the step. Later steps and ``next_values`` are then ignored.
    discount : float
        Discount gamma per step, in [0, 1].
    lam : float
        Trace parameter lambda, in [0, 1].
    terminated : Tensor, shape (..., time), or None
        Whether the episode ended by itself and not at a time limit. ``next_values`` counts for an episode that is done
        but not terminated. None is the same as ``done``.

    Returns
    -------
    Tensor, shape (..., time)
        Carries the gradients of its arguments: detach ``values`` for a policy gradient.

    Raises
    ------
    EstimatorError
        If shapes differ, or ``discount`` or ``lam`` is not in [0, 1].

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
    _check_arguments(rewards, discount, lam, values=values, next_values=next_values, done=done, terminated=terminated)
    following, discounts = _continuation(next_values, done, terminated, discount)
    return _solve_backwards(lam * discounts, rewards + discount * following - values)


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

    At the end of the record :math:`G_{t+1}` is the critic's value. With ``lam`` 0 it is the target of TD(0), with
    ``lam`` 1 the discounted sum of rewards. If ``next_values`` are the shifted ``values``, it equals ``values`` plus
    the generalized advantage.

    Parameters
    ----------
    rewards, next_values, done, discount, lam, terminated
        As for :func:`generalized_advantage`.

    Returns
    -------
    Tensor, shape (..., time)
        Carries the gradients of its arguments: detach it as the target of a regression.

    Raises
    ------
    EstimatorError
        If shapes differ, or ``discount`` or ``lam`` is not in [0, 1].

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
    _check_arguments(rewards, discount, lam, next_values=next_values, done=done, terminated=terminated)
    following, discounts = _continuation(next_values, done, terminated, discount)
    is_last = torch.arange(rewards.shape[-1], device=rewards.device) == rewards.shape[-1] - 1
    critic = torch.where(done.bool() | is_last, following, (1 - lam) * following)
    return _solve_backwards(lam * discounts, rewards + discount * critic)


def _check_arguments(rewards: Tensor, discount: float, lam: float, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != rewards.shape:
            raise EstimatorError(
                f"{name} has shape {list(tensor.shape)}, but rewards have shape {list(rewards.shape)}. Give tensors of "
                "one shape, with time as the last dimension."
            )
    for name, number in {"discount": discount, "lam": lam}.items():
        if not 0 <= number <= 1:
            raise EstimatorError(f"{name}={number} must be in [0, 1].")


def _continuation(
    next_values: Tensor, done: Tensor, terminated: Tensor | None, discount: float
) -> tuple[Tensor, Tensor]:
    """Return the critic's value of the time after each step, and the discount of the recorded steps after it."""
    following = torch.where((done if terminated is None else terminated).bool(), 0, next_values)
    return following, torch.where(done.bool(), 0, torch.full_like(following, discount))


def _solve_backwards(slope: Tensor, offset: Tensor) -> Tensor:
    """Return x with ``x[t] = offset[t] + slope[t] * x[t + 1]`` along the last dimension, and x = 0 beyond its end.

    A slope of 0 discards the later values, NaN included.
    """
    span = 1
    while span < offset.shape[-1]:  # offset and slope: the map from x[t + span] to x[t]
        offset = offset + slope * pad(offset[..., span:], (0, span)).masked_fill(slope == 0, 0)
        slope = slope * pad(slope[..., span:], (0, span))
        span *= 2
    return offset
