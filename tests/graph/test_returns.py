"""Generalized advantages and lambda-returns against a recursion in float64, step by step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vaekit.exceptions import EstimatorError
from vaekit.graph.returns import generalized_advantage, td_lambda_return


def record(*shape: int, dtype: torch.dtype = torch.float32, end: float = 0.1) -> dict[str, Tensor]:
    torch.manual_seed(0)
    rewards, values, next_values = torch.randn(3, *shape, dtype=dtype)
    return {"rewards": rewards, "values": values, "next_values": next_values, "done": torch.rand(shape) < end}


CALLS = [generalized_advantage, td_lambda_return]


def arguments_of(call: Callable[..., Tensor], arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the arguments of the function: a lambda-return needs no values of the current states."""
    return arguments if call is generalized_advantage else {k: v for k, v in arguments.items() if k != "values"}


def slow_advantage(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    done: Tensor,
    discount: float,
    lam: float,
    terminated: Tensor | None = None,
) -> Tensor:
    """Return the generalized advantage by its definition, in float64, step by step."""
    terminated = done if terminated is None else terminated
    error = rewards.double() + discount * next_values * ~terminated - values
    advantage, following = torch.zeros_like(error), torch.zeros_like(error[..., -1])
    for t in reversed(range(rewards.shape[-1])):
        following = error[..., t] + discount * lam * following * ~done[..., t]
        advantage[..., t] = following
    return advantage


def slow_return(
    rewards: Tensor,
    next_values: Tensor,
    done: Tensor,
    discount: float,
    lam: float,
    terminated: Tensor | None = None,
) -> Tensor:
    """Return the lambda-return by its definition, in float64, step by step."""
    terminated = done if terminated is None else terminated
    after = next_values.double() * ~terminated
    returns, following = torch.zeros_like(rewards, dtype=torch.float64), after[..., -1]
    for t in reversed(range(rewards.shape[-1])):
        following = torch.where(done[..., t], after[..., t], following)
        following = rewards[..., t] + discount * ((1 - lam) * after[..., t] + lam * following)
        returns[..., t] = following
    return returns


SLOW = {generalized_advantage: slow_advantage, td_lambda_return: slow_return}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (7,), (64,), (2, 3, 65)], ids=str)
@pytest.mark.parametrize(("discount", "lam"), [(0.99, 0.95), (0.9, 0.0), (0.9, 1.0), (1.0, 1.0), (0.0, 0.5)])
def test_both_equal_the_recursion(
    call: Callable[..., Tensor], shape: tuple[int, ...], discount: float, lam: float
) -> None:
    arguments = arguments_of(call, record(*shape, dtype=torch.float64))
    torch.testing.assert_close(
        call(**arguments, discount=discount, lam=lam), SLOW[call](**arguments, discount=discount, lam=lam)
    )


def test_return_is_value_plus_advantage_along_one_trajectory() -> None:
    torch.manual_seed(0)
    rewards, states = torch.randn(4, 30), torch.randn(4, 31)
    done = torch.rand(4, 30) < 0.1
    advantage = generalized_advantage(rewards, states[:, :-1], states[:, 1:], done, 0.9, 0.7)
    torch.testing.assert_close(td_lambda_return(rewards, states[:, 1:], done, 0.9, 0.7), states[:, :-1] + advantage)


def test_lam_zero_is_the_one_step_error_to_the_bit() -> None:
    arguments = record(5, 40)
    target = arguments["rewards"] + 0.9 * arguments["next_values"] * ~arguments["done"]
    assert torch.equal(generalized_advantage(**arguments, discount=0.9, lam=0.0), target - arguments["values"])
    assert torch.equal(td_lambda_return(**arguments_of(td_lambda_return, arguments), discount=0.9, lam=0.0), target)


def test_lam_one_is_the_sum_of_rewards_for_any_critic() -> None:
    """Whole numbers, so that the sums are exact: the values in between drop out."""
    torch.manual_seed(1)
    rewards, values = torch.randint(-5, 6, (2, 4, 100)).float()
    done = torch.rand(4, 100) < 0.05
    done[:, -1] = True
    next_values = torch.cat([values[:, 1:], torch.full((4, 1), 99.0)], -1)
    expected = slow_return(rewards, 0 * values, done, 1.0, 1.0)
    assert torch.equal(td_lambda_return(rewards, next_values, done, 1.0, 1.0).double(), expected)
    assert torch.equal(generalized_advantage(rewards, values, next_values, done, 1.0, 1.0) + values, expected.float())


@pytest.mark.parametrize("call", CALLS)
def test_later_steps_do_not_cross_the_end_of_an_episode(call: Callable[..., Tensor]) -> None:
    arguments = arguments_of(call, record(20, end=0.0))
    arguments["done"][9] = True
    changed = {name: tensor.clone() for name, tensor in arguments.items()}
    changed["rewards"][10:] = 1e6
    changed["next_values"][9:] = torch.nan  # the state after the end does not count
    changed["next_values"][10:] = -1e6
    before, after = call(**arguments, discount=0.9, lam=0.8), call(**changed, discount=0.9, lam=0.8)
    assert torch.equal(before[:10], after[:10])
    assert not torch.isclose(before[10:], after[10:]).any()
    for tensor in changed.values():
        if tensor.is_floating_point():
            tensor[10:] = torch.nan  # as in padded records of different lengths
    assert torch.equal(before[:10], call(**changed, discount=0.9, lam=0.8)[:10])


@pytest.mark.parametrize("call", CALLS)
def test_an_episode_at_a_time_limit_continues_with_the_critic(call: Callable[..., Tensor]) -> None:
    arguments = arguments_of(call, record(3, 30, dtype=torch.float64))
    terminated = arguments["done"] & (torch.rand(3, 30) < 0.5)
    assert (terminated != arguments["done"]).any()
    actual = call(**arguments, discount=0.9, lam=0.7, terminated=terminated)
    torch.testing.assert_close(actual, SLOW[call](**arguments, discount=0.9, lam=0.7, terminated=terminated))
    assert not torch.isclose(actual, call(**arguments, discount=0.9, lam=0.7)).all()


@pytest.mark.parametrize("discount_lam", [(0.5, 0.5), (0.999, 0.95), (1.0, 1.0)], ids=str)
def test_float32_over_a_long_record(discount_lam: tuple[float, float]) -> None:
    """A product of 0.25 underflows after 75 steps; sums of 20,000 ones in float32 keep six digits."""
    discount, lam = discount_lam
    ones, zeros = torch.ones(20_000), torch.zeros(20_000)
    actual = generalized_advantage(ones, zeros, zeros, zeros.bool(), discount, lam)
    assert actual.dtype == torch.float32
    expected = slow_advantage(ones, zeros, zeros, zeros.bool(), discount, lam)
    torch.testing.assert_close(actual.double(), expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("call", CALLS)
def test_gradients(call: Callable[..., Tensor]) -> None:
    arguments = arguments_of(call, record(2, 6, dtype=torch.float64, end=0.3))
    done = arguments.pop("done")
    inputs = [tensor.requires_grad_() for tensor in arguments.values()]
    assert torch.autograd.gradcheck(lambda *tensors: call(*tensors, done, 0.9, 0.8), inputs)


@pytest.mark.parametrize("call", CALLS)
def test_vmap_and_compile(call: Callable[..., Tensor]) -> None:
    arguments = arguments_of(call, record(4, 3, 17))
    expected = call(**arguments, discount=0.9, lam=0.8)
    run = lambda *tensors: call(*tensors, 0.9, 0.8)  # noqa: E731
    assert torch.equal(torch.vmap(run)(*arguments.values()), expected)
    assert torch.equal(torch.vmap(run, in_dims=1, out_dims=1)(*arguments.values()), expected)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(run, fullgraph=True, backend="eager")(*arguments.values()), expected)


@pytest.mark.parametrize("call", CALLS)
def test_done_may_be_numbers_and_arguments_are_unchanged(call: Callable[..., Tensor]) -> None:
    arguments = arguments_of(call, record(3, 11))
    before = {name: tensor.clone() for name, tensor in arguments.items()}
    expected = call(**arguments, discount=0.9, lam=0.8)
    assert all(torch.equal(arguments[name], before[name]) for name in arguments)
    assert torch.equal(call(**arguments | {"done": arguments["done"].float()}, discount=0.9, lam=0.8), expected)


@pytest.mark.parametrize("name", ["values", "next_values", "done", "terminated"])
def test_shapes_that_differ_are_rejected(name: str) -> None:
    arguments = record(3, 11) | {"terminated": torch.zeros(3, 11, dtype=torch.bool)}
    arguments[name] = arguments[name][..., :10]
    with pytest.raises(EstimatorError, match=rf"{name} has shape \[3, 10\], but rewards have shape \[3, 11\]"):
        generalized_advantage(**arguments, discount=0.9, lam=0.8)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", [{"discount": 1.2}, {"lam": -0.1}, {"lam": float("nan")}], ids=str)
def test_numbers_outside_their_range_are_rejected(call: Callable[..., Tensor], wrong: dict[str, float]) -> None:
    with pytest.raises(EstimatorError, match=rf"{next(iter(wrong))}=.* must be in \[0, 1\]"):
        call(**arguments_of(call, record(5)), **{"discount": 0.9, "lam": 0.8} | wrong)
