"""The one-hot family without validation, compared with torch's validated one."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Independent, kl_divergence
from torch.distributions import OneHotCategorical as Validated

from vaekit.distributions import OneHotCategorical
from vaekit.estimators import MeasureValued, ScoreFunction
from vaekit.estimators.discrete_support import is_one_hot

_F64 = torch.float64


@pytest.fixture
def logits() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 2, 5, dtype=_F64) * 3


def test_everything_agrees_with_torch(logits: Tensor) -> None:
    ours, theirs = OneHotCategorical(logits=logits), Validated(logits=logits)
    value = theirs.sample((4,))
    for of in (ours, ours.expand((7, 3, 2))):
        other = theirs if of is ours else theirs.expand((7, 3, 2))
        at = value if of is ours else value[:, None]
        assert (of.batch_shape, of.event_shape) == (other.batch_shape, other.event_shape)
        for actual, expected in (
            (of.log_prob(at), other.log_prob(at)),
            (of.entropy(), other.entropy()),
            (of.mean, other.mean),
            (of.variance, other.variance),
            (of.mode, other.mode),
            (of.enumerate_support(), other.enumerate_support()),
            (of.enumerate_support(expand=False), other.enumerate_support(expand=False)),
        ):
            torch.testing.assert_close(actual, expected)
    assert not ours.has_rsample


def test_gradients_are_torchs(logits: Tensor) -> None:
    leaf, prior = logits.clone().requires_grad_(), torch.randn(5, dtype=_F64)
    value = Validated(logits=logits).sample()

    def gradient(family: type) -> Tensor:
        q = family(logits=leaf)
        total = q.log_prob(value) + 2 * q.entropy() + 3 * kl_divergence(q, family(logits=prior))
        return torch.autograd.grad(total.sum(), leaf)[0]

    torch.testing.assert_close(gradient(OneHotCategorical), gradient(Validated))


def test_expanding_copies_nothing_and_keeps_the_family(logits: Tensor) -> None:
    large = OneHotCategorical(logits=logits).expand((1000, 3, 2))
    assert type(large) is OneHotCategorical
    assert large.logits.untyped_storage().nbytes() == logits.untyped_storage().nbytes()
    vector = Independent(OneHotCategorical(logits=logits), 1).expand((4, 3))
    assert type(vector.base_dist) is OneHotCategorical
    assert vector.log_prob(vector.sample()).shape == (4, 3)


def test_divergence_of_vectors_is_torchs(logits: Tensor) -> None:
    other = logits.flip(-1)
    actual = kl_divergence(
        Independent(OneHotCategorical(logits=logits), 1), Independent(OneHotCategorical(logits=other), 1)
    )
    expected = kl_divergence(Independent(Validated(logits=logits), 1), Independent(Validated(logits=other), 1))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, _F64], ids=str)
@pytest.mark.parametrize("far", [-torch.inf, -1e30, -200.0])
def test_impossible_categories(far: float, dtype: torch.dtype) -> None:
    at = torch.tensor([[0.3, far, -0.2], [far, far, 5.0]], dtype=dtype, requires_grad=True)
    q, even = OneHotCategorical(logits=at), OneHotCategorical(logits=torch.zeros(3, dtype=dtype))
    p = at.detach().double().softmax(-1)
    log_p = at.detach().double().log_softmax(-1).clamp_min(-1e300)
    torch.testing.assert_close(q.entropy().double(), -(p * log_p).sum(-1), rtol=1e-5, atol=1e-7)
    divergence = kl_divergence(q, even)
    torch.testing.assert_close(
        divergence.double(), (p * (log_p + torch.tensor(3.0).log())).sum(-1), rtol=1e-5, atol=1e-7
    )
    assert torch.autograd.grad(divergence.sum(), at)[0].isfinite().all()
    values = q.sample((1000,))
    assert (values.sum(-1) == 1).all()
    assert (values.mean(0)[p == 0] == 0).all()
    assert kl_divergence(even, q)[0] == (torch.inf if far == -torch.inf else kl_divergence(even, q)[0])
    assert (kl_divergence(even, q) > 60).all()


def test_frequencies_of_samples() -> None:
    """A chi-squared test over the cells of three distributions has one false alarm in a million."""
    torch.manual_seed(1)
    q = OneHotCategorical(
        logits=torch.tensor([[0.0, 1.0, -2.0, 0.5], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -6.0]], dtype=_F64)
    )
    count = 200_000
    seen = q.sample((count,)).sum(0)
    assert stats.chisquare(seen.double(), q.probs.double() * count, axis=-1).pvalue.min() > 3e-7


def test_samples_have_no_gradient(logits: Tensor) -> None:
    leaf = logits.requires_grad_()
    assert not OneHotCategorical(logits=leaf).sample((2,)).requires_grad


def test_estimators_support_the_family(logits: Tensor) -> None:
    q = Independent(OneHotCategorical(logits=logits), 1)
    assert is_one_hot(q)
    assert MeasureValued.supports(q)
    assert ScoreFunction.supports(q)


def test_arguments_agree_with_torch(logits: Tensor) -> None:
    """The first argument is ``probs``. Read as logits, it would change every probability without an error."""
    probs = logits.softmax(-1)
    for arguments, keywords in (
        ((probs,), {}),
        ((probs, None, False), {}),
        ((None, logits), {}),
        ((), {"probs": probs}),
        ((), {"logits": logits}),
    ):
        ours, theirs = OneHotCategorical(*arguments, **keywords), Validated(*arguments, **keywords)
        torch.testing.assert_close(ours.probs, theirs.probs)
        torch.testing.assert_close(ours.logits, theirs.logits)
        torch.testing.assert_close(ours.expand((4, 3, 2)).probs[1], theirs.probs)
    for arguments in ((), (probs, logits)):
        with pytest.raises(ValueError, match=r"probs.*logits"):
            OneHotCategorical(*arguments)
    with pytest.raises(ValueError, match=r"constraint Simplex"):
        OneHotCategorical(logits)


def test_a_probability_of_zero_stays_zero() -> None:
    q = OneHotCategorical(torch.tensor([0.5, 0.0, 0.5]))
    for of in (q, q.expand((2,))):
        assert (of.logits[..., 1] == -torch.inf).all()
        assert (of.log_prob(torch.eye(3)[1]) < -1e30).all()
        assert (of.sample((1000,))[..., 1] == 0).all()
        assert (
            kl_divergence(of, OneHotCategorical(torch.ones(3))) - (1.5 * torch.tensor(1.0)).log()
        ).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_samples_all_of_many_categories(dtype: torch.dtype) -> None:
    seen = OneHotCategorical(logits=torch.zeros(1000, dtype=dtype)).sample((50_000,)).sum(0)
    assert stats.chisquare(seen.double()).pvalue > 1e-5
