"""Samples by key: their distribution, their independence, and their invariance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from models.tiny import MODELS, counts
from scipy import stats
from torch.distributions import Categorical, Gamma, Normal, Poisson, Uniform

from vaekit.batch import Batch
from vaekit.diagnostics import importance_sampled_log_likelihood
from vaekit.diagnostics.keyed_noise import draw_by_key, hash_names, number_repeats, observation_keys
from vaekit.likelihoods import NegativeBinomial

KEYS = np.arange(2000, dtype=np.uint64)  # consecutive keys are as similar as possible


@pytest.mark.parametrize(
    ("q", "cdf"),
    [
        (Normal(torch.zeros(2000, 3), 1.0), stats.norm.cdf),
        (Uniform(torch.zeros(2000, 3), 1.0), stats.uniform.cdf),
        (Gamma(torch.full((2000, 3), 0.4), 1.0), stats.gamma(0.4).cdf),
    ],
)
def test_samples_are_independent_and_from_the_distribution(q, cdf):
    samples = draw_by_key(lambda part: q.sample((4,)), KEYS, 4)
    assert samples.shape == (4, 2000, 3)
    uniform = cdf(samples.double().numpy())
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    normal = stats.norm.ppf(uniform.clip(1e-9, 1 - 1e-9))
    for one, other in (
        (normal[:, :-1], normal[:, 1:]),  # between neighboring observations
        (normal[:-1], normal[1:]),  # between the samples of an observation
        (normal[..., 0], normal[..., 1]),
    ):
        count = one.size
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) * count**0.5 < 4


def test_seeds_names_and_content_make_different_samples():
    x = torch.poisson(torch.full((300, 8), 2.0), generator=torch.Generator().manual_seed(0))
    names = hash_names([f"c{i}" for i in range(300)])
    keys = [observation_keys(Batch(x), seed, hashes) for seed in (0, 1) for hashes in (None, names)]
    keys += [observation_keys(Batch(x.roll(1, 0)), 0, names)]
    samples = [draw_by_key(lambda part: torch.randn(2, 300, 5), key, 2).flatten().numpy() for key in keys]
    for one, other in itertools.combinations(samples, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / 3000**0.5
    different = len(x.unique(dim=0))
    assert different > 290
    assert [len(set(key.tolist())) for key in keys] == [different, 300, different, 300, 300]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_operations_have_their_distribution(kind):
    """Operations of torch have the requested distribution and type, also in place."""
    like, mean = torch.zeros(4, 2000, 3, dtype=kind), torch.full((4, 2000, 3), 0.3, dtype=kind)
    samples = {
        "rand": draw_by_key(lambda _: torch.rand(4, 2000, 3, dtype=kind), KEYS, 4),
        "rand_like": draw_by_key(lambda _: torch.rand_like(like), KEYS, 4),
        "bernoulli": draw_by_key(lambda _: torch.bernoulli(mean), KEYS, 4),
    }
    assert all(x.dtype == kind and x.min() >= 0 and x.max() <= 1 for x in samples.values())
    for name in ("rand", "rand_like"):
        assert samples[name].max() < 1
        assert stats.kstest(samples[name].double().flatten().numpy(), "uniform").pvalue > 1e-3
    assert abs(samples["bernoulli"].mean().item() - 0.3) < 4 * (0.21 / 24000) ** 0.5
    certain = torch.tensor([0.0, 1.0], dtype=kind).expand(4, 2000, 2)
    assert torch.equal(draw_by_key(lambda _: torch.bernoulli(certain), KEYS, 4), certain)
    for draw in (
        lambda _: torch.normal(mean, mean * 2),
        lambda _: like.clone().normal_(0.3, 0.6),
        lambda _: torch.randn(4, 2000, 3, dtype=kind) * 0.6 + 0.3,
    ):
        x = draw_by_key(draw, KEYS, 4)
        assert x.dtype == kind
        assert stats.kstest(x.double().flatten().numpy(), stats.norm(0.3, 0.6).cdf).pvalue > 1e-3


def test_few_and_many_numbers_follow_the_keys(monkeypatch):
    """Many numbers are sampled per observation. Both ways are independent of the order."""
    rows = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    for few in (1000, 1):
        monkeypatch.setattr("vaekit.diagnostics.keyed_noise.MAX_JOINT_NUMBERS", few)
        whole = draw_by_key(lambda _: torch.randn(2, 2000, 5), KEYS, 2)
        again = draw_by_key(lambda _: torch.randn(2, 2000, 5), KEYS[rows.numpy()], 2)
        assert torch.equal(again, whole[:, rows])
        assert stats.kstest(whole.flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("other_layout", [False, True])
def test_order_and_parts_do_not_matter(other_layout):
    """This holds for a distribution that torch samples in another layout (Categorical)."""
    rate = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) + 0.5

    def draw(rows: torch.Tensor) -> torch.Tensor:
        def each(part: slice) -> torch.Tensor:
            q = Categorical(rate[rows][part]) if other_layout else Poisson(rate[rows][part])
            return q.sample((3,))

        return draw_by_key(each, KEYS[rows.numpy()], 3)

    whole = draw(torch.arange(50))
    rows = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draw(rows), whole[:, rows])
    assert torch.equal(torch.cat([draw(part) for part in rows.split(7)], 1), whole[:, rows])
    assert len({tuple(column.flatten().tolist()) for column in whole.unbind(1)}) > 10


def test_repeated_content_is_numbered():
    counts_by_key: dict[int, int] = {}
    keys = np.array([5, 7, 5, 5], dtype=np.uint64)
    first = number_repeats(keys, counts_by_key)
    assert len(set(first.tolist())) == 4
    again = number_repeats(keys[:1], counts_by_key)
    assert again[0] not in first
    assert set(number_repeats(keys[[2, 1, 0, 3]], {}).tolist()) == set(first.tolist())


@pytest.mark.parametrize("kind", ["gaussian", "mixed_bits", "sequential_auto", "gamma", "dirichlet", "student_t"])
def test_the_likelihood_of_an_observation_does_not_depend_on_the_others(kind, monkeypatch):
    model = MODELS[kind](NegativeBinomial()).eval()
    batch = counts(12)
    rows = torch.tensor([3, 9, 0, 7])

    def estimate(*parts: torch.Tensor):
        torch.manual_seed(0)
        batches = [Batch(batch.x[part], batch.size_factor[part], observed=None, index=part) for part in parts]
        return importance_sampled_log_likelihood(model, batches, 20)

    monkeypatch.setattr("vaekit._core.memory_budget.EVALUATED_VALUES", 300)  # several blocks of samples
    whole = estimate(torch.arange(12))
    for result, expected in zip(estimate(rows[:3], rows[3:])[:3], whole[:3], strict=True):
        torch.testing.assert_close(result, expected[rows], rtol=1e-5, atol=1e-5)


def test_antithetic_samples_mirror_each_other():
    """They keep their distribution, and the mean over samples has a smaller variance. An odd number is independent."""
    for draw in (lambda _: torch.rand(4, 2000, 3), lambda _: torch.randn(4, 2000, 3)):
        x = draw_by_key(draw, KEYS, 4, antithetic=True)
        plain = draw_by_key(draw, KEYS, 4)
        assert torch.equal(x[:2], plain[:2])
        center = 2 * x.mean()
        torch.testing.assert_close(
            x[:2] + x[2:], torch.full((2, 2000, 3), float(round(center.item()))), atol=1e-6, rtol=0
        )
        assert x.exp().mean(0).std() < 0.85 * plain.exp().mean(0).std()
        assert stats.ks_2samp(x.flatten().numpy(), plain.flatten().numpy()).pvalue > 1e-3
    odd = draw_by_key(lambda _: torch.randn(3, 2000, 3), KEYS, 3, antithetic=True)
    assert torch.equal(odd, draw_by_key(lambda _: torch.randn(3, 2000, 3), KEYS, 3))
