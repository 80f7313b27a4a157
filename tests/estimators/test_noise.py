"""Noise conditional on the discrete value is distributed as the noise that leads to this value."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torch.distributions import OneHotCategorical

from vaekit.estimators.noise import conditional_gumbel, conditional_logistic, gumbel, logistic, zero_with_gradient

_F64 = torch.float64
LOGITS = torch.tensor([0.3, -1.2, 1.5, -4.0], dtype=_F64)
DRAWS = 200_000


def agree(first: Tensor, second: Tensor) -> bool:
    return stats.ks_2samp(first.numpy(), second.numpy()).pvalue > 1e-4


def test_gumbel_and_logistic_have_their_distributions() -> None:
    like = torch.zeros(DRAWS, dtype=_F64)
    assert stats.kstest(gumbel(like).numpy(), stats.gumbel_r.cdf).pvalue > 1e-4
    assert stats.kstest(logistic(like).numpy(), stats.logistic.cdf).pvalue > 1e-4


@pytest.mark.parametrize("shift", [0.0, 7.0], ids=["normalised", "shifted"])
@pytest.mark.parametrize("category", [0, 2, 3])
def test_conditional_gumbel_is_joint_sampling_then_conditioning(category: int, shift: float) -> None:
    """Compare all coordinates, and a fixed linear combination, which depends on their correlation."""
    joint = LOGITS.log_softmax(-1) + gumbel(LOGITS.expand(6 * DRAWS, 4))
    joint = joint[joint.argmax(-1) == category]
    one_hot = F.one_hot(torch.tensor(category), 4).to(_F64)
    actual = conditional_gumbel(LOGITS + shift, one_hot.expand(len(joint), 4))
    for direction in (*torch.eye(4, dtype=_F64), torch.tensor([1.0, -0.5, 0.7, 0.3], dtype=_F64)):
        assert agree(joint @ direction, actual @ direction), direction


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("logit", [0.4, -2.0, 2.5])
def test_conditional_logistic_is_joint_sampling_then_conditioning(logit: float, value: float) -> None:
    joint = logit + logistic(torch.zeros(DRAWS, dtype=_F64))
    joint = joint[(joint > 0) == bool(value)]
    at = torch.tensor(logit, dtype=_F64)
    assert agree(joint, conditional_logistic(at, torch.full_like(joint, value)))


def test_without_the_condition_the_marginal_is_recovered() -> None:
    one_hot = OneHotCategorical(logits=LOGITS).sample((DRAWS,))
    actual = conditional_gumbel(LOGITS, one_hot) - LOGITS.log_softmax(-1)
    for i in range(4):
        assert stats.kstest(actual[:, i].numpy(), stats.gumbel_r.cdf).pvalue > 1e-4


def test_gradients_are_those_of_the_samples() -> None:
    one_hot = OneHotCategorical(logits=LOGITS).sample((6,))

    def categorical(logits: Tensor) -> Tensor:
        torch.manual_seed(2)
        return conditional_gumbel(logits, one_hot)

    def binary(logits: Tensor) -> Tensor:
        torch.manual_seed(2)
        return conditional_logistic(logits, one_hot)

    for function in (categorical, binary):
        leaf = LOGITS.clone().requires_grad_()
        assert torch.autograd.gradcheck(function, leaf)
        assert torch.autograd.gradgradcheck(function, leaf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4, 1e30, torch.inf])
def test_the_conditional_argmax_is_the_value_and_all_is_finite(scale: float, dtype: torch.dtype) -> None:
    """Condition on each category, also on improbable ones, at a temperature of 0.01."""
    low = torch.nan_to_num(torch.tensor([0.0, -1.0, -0.5, 0.0]) * scale, nan=0.0, neginf=-torch.inf).to(dtype)
    logits = low.expand(50_000, 1, 4).clone().requires_grad_()
    one_hot = torch.eye(4, dtype=dtype).expand(50_000, 4, 4)
    possible = one_hot[0] @ low.nan_to_num(neginf=torch.finfo(dtype).min) > torch.finfo(dtype).min
    z = conditional_gumbel(logits, one_hot)
    assert (z.argmax(-1) == torch.arange(4)).all()
    assert ((z == z.max(-1, keepdim=True).values).sum(-1) == 1).all(), "a tie"
    assert not z.isnan().any()
    soft = (z / 0.01).softmax(-1)[:, possible]
    (gradient,) = torch.autograd.grad((soft * torch.arange(4.0)).sum(), logits)
    assert soft.isfinite().all()
    assert gradient.isfinite().all()

    logits = (low if scale < torch.inf else low.clamp(-1e38, 1e38)).expand(50_000, 4).clone().requires_grad_()
    for value in (0.0, 1.0):
        z = conditional_logistic(logits, torch.full_like(logits, value))
        assert ((z > 0) == bool(value)).all()
        assert (z != 0).all()
        soft = (z / 0.01).sigmoid()
        (gradient,) = torch.autograd.grad(soft.sum(), logits)
        assert soft.isfinite().all()
        assert gradient.isfinite().all()


def test_zero_with_gradient_passes_its_gradient() -> None:
    logits = torch.tensor([1e30, -3.0, -torch.inf], requires_grad=True)
    zero = zero_with_gradient(logits)
    assert (zero == 0).all()
    assert torch.autograd.grad((zero * torch.arange(1.0, 4.0)).sum(), logits)[0].tolist() == [1.0, 2.0, 0.0]
