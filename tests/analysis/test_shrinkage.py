"""Empirical Bayes of effects: against quadrature, and calibrated where the truth is drawn from the prior's family."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from vaekit.analysis.differential_expression import called
from vaekit.analysis.effects import Effects
from vaekit.analysis.shrinkage import shrink


def effects(genes: int, seed: int, null: float = 0.7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, genes) * (rng.random(genes) > null)
    error = rng.uniform(0.05, 0.6, genes)
    return truth, truth + error * rng.normal(size=genes), error


def test_functions_of_the_posterior_against_scipy():
    q = Effects(
        np.array([[0.3, 0.7], [1.0, 0.0]]), np.array([[0.0, 1.0], [-2.0, 5.0]]), np.array([[0.5, 0.2], [0.1, 3.0]])
    )
    for gene in range(2):
        parts = [stats.norm(m, s) for m, s in zip(q.loc[gene], q.scale[gene], strict=True)]

        def density(x: float, parts=parts, weight=q.weight[gene]) -> float:
            return sum(w * p.pdf(x) for w, p in zip(weight, parts, strict=True))

        mean = integrate.quad(lambda x: x * density(x), -8, 8, points=[-2, 0, 1])[0]
        second = integrate.quad(lambda x: x * x * density(x), -8, 8, points=[-2, 0, 1])[0]
        inside = integrate.quad(density, -0.25, 0.25)[0]
        assert q.mean[gene] == pytest.approx(mean, abs=1e-7)
        assert q.std[gene] == pytest.approx(np.sqrt(second - mean**2), abs=1e-7)
        assert q.beyond(0.25)[gene] == pytest.approx(1 - inside, abs=1e-7)
        for probability in (0.001, 0.5, 0.999):
            assert q.cdf(q.quantile(probability))[gene] == pytest.approx(probability, abs=1e-9)


def test_a_point_at_zero_is_no_change():
    q = Effects(np.array([[1.0]]), np.zeros((1, 1)), np.zeros((1, 1)))
    assert (q.beyond(0.0), q.beyond(0.25), q.mean, q.std, q.quantile(0.5)) == (0, 0, 0, 0, 0)


def test_posterior_is_bayes_rule_for_the_estimated_weights():
    _, estimate, error = effects(300, 0)
    ((_, posterior), _) = shrink(estimate, error).parts
    # each component: normal prior times normal likelihood, here by quadrature of one gene's widest component
    gene, k = 5, posterior.loc.shape[1] - 1
    kept = posterior.scale[gene, k] ** 2 / error[gene] ** 2  # sigma^2 / (sigma^2 + s^2)
    sigma = error[gene] * np.sqrt(kept / (1 - kept))
    grid = np.linspace(-12 * sigma, 12 * sigma, 400_001)
    density = stats.norm(0, sigma).pdf(grid) * stats.norm(grid, error[gene]).pdf(estimate[gene])
    density /= density.sum()
    mean = (grid * density).sum()
    assert posterior.loc[gene, k] == pytest.approx(mean, abs=1e-6)
    assert posterior.scale[gene, k] == pytest.approx(np.sqrt(((grid - mean) ** 2 * density).sum()), rel=1e-5)
    np.testing.assert_allclose(posterior.weight.sum(1), 1, rtol=1e-12)


def test_false_discoveries_are_as_many_as_promised():
    levels = (0.05, 0.1, 0.2)
    shares = np.zeros((20, 3))
    for seed in range(20):
        truth, estimate, error = effects(1000, seed)
        proba = shrink(estimate, error).beyond(0.25)
        for number, fdr in enumerate(levels):
            calls = called(proba, fdr)
            assert calls.sum() > 50
            shares[seed, number] = (np.abs(truth[calls]) <= 0.25).mean()
    # not above the level by more than 3.5 standard errors (of three, by chance in 1 of 1,000), and not far below it
    standard_error = shares.std(0, ddof=1) / np.sqrt(20)
    assert (shares.mean(0) < levels + 3.5 * standard_error).all()
    assert (shares.mean(0) > np.array(levels) / 2).all()


def test_nothing_is_called_where_nothing_differs():
    rng = np.random.default_rng(0)
    error = rng.uniform(0.05, 1, 1000)
    posterior = shrink(error * rng.normal(size=1000), error)
    assert not called(posterior.beyond(0.25), 0.2).any()
    assert np.abs(posterior.mean).max() < 0.25


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_extremes_stay_finite(scale):
    estimate = np.array([0.0, 50.0, -700.0, 1e-12]) * scale
    error = np.array([1e-6, 1e-3, 30.0, 5.0]) * scale
    posterior = shrink(estimate, error)
    for values in (posterior.mean, posterior.std, posterior.beyond(0.25), posterior.quantile(0.5)):
        assert np.isfinite(values).all()
    assert posterior.mean[1] == pytest.approx(50 * scale, rel=1e-3)
