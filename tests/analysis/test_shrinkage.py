"""Empirical Bayes shrinkage, compared with quadrature, and calibrated if the truth has the prior's distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import polygamma

from vaekit.analysis import shrinkage
from vaekit.analysis.differential_expression import call_at_fdr
from vaekit.analysis.effects import NormalMixturePosterior, TabulatedPosterior
from vaekit.analysis.group_sums import LogRatio
from vaekit.analysis.shrinkage import shrink


def effects(genes: int, seed: int, null: float = 0.7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, genes) * (rng.random(genes) > null)
    error = rng.uniform(0.05, 0.6, genes)
    return truth, truth + error * rng.normal(size=genes), error


def test_functions_of_the_posterior_against_scipy():
    q = NormalMixturePosterior(
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
        above, below = q.prob_beyond(0.25)
        assert above[gene] + below[gene] == pytest.approx(1 - inside, abs=1e-7)
        assert above[gene] == pytest.approx(integrate.quad(density, 0.25, 8, points=[1])[0], abs=1e-7)
        for probability in (0.001, 0.5, 0.999):
            assert q.cdf(q.quantile(probability))[gene] == pytest.approx(probability, abs=1e-9)


def test_a_point_mass_at_zero_is_not_an_effect():
    q = NormalMixturePosterior(np.array([[1.0]]), np.zeros((1, 1)), np.zeros((1, 1)))
    assert (*q.prob_beyond(0.0), *q.prob_beyond(0.25), q.mean, q.std, q.quantile(0.5)) == (0,) * 7


def test_bayes_rule_for_the_estimated_weights():
    _, estimate, error = effects(300, 0)
    ((_, posterior), _) = shrink(estimate, error).parts
    # quadrature of one gene's widest component: normal prior times normal likelihood
    gene, k = 5, posterior.loc.shape[1] - 1
    ratio = posterior.scale[gene, k] ** 2 / error[gene] ** 2  # sigma^2 / (sigma^2 + s^2)
    sigma = error[gene] * np.sqrt(ratio / (1 - ratio))
    grid = np.linspace(-12 * sigma, 12 * sigma, 400_001)
    density = stats.norm(0, sigma).pdf(grid) * stats.norm(grid, error[gene]).pdf(estimate[gene])
    density /= density.sum()
    mean = (grid * density).sum()
    assert posterior.loc[gene, k] == pytest.approx(mean, abs=1e-6)
    assert posterior.scale[gene, k] == pytest.approx(np.sqrt(((grid - mean) ** 2 * density).sum()), rel=1e-5)
    np.testing.assert_allclose(posterior.weight.sum(1), 1, rtol=1e-12)


def check_fdr(fractions: np.ndarray, levels: tuple[float, ...], least: float = 0.5) -> None:
    """Check that fractions of false discoveries ``[runs, levels]`` are at most the level, and not far below it.

    The tolerance is 3.5 standard errors; one of three exceeds it by chance in 1 of 1,000 seeds.
    """
    standard_error = fractions.std(0, ddof=1) / np.sqrt(len(fractions))
    assert (fractions.mean(0) < levels + 3.5 * standard_error).all()
    assert (fractions.mean(0) > least * np.array(levels)).all()


def test_false_discovery_rate():
    levels = (0.05, 0.1, 0.2)
    fractions = np.zeros((20, 3))
    for seed in range(20):
        truth, estimate, error = effects(1000, seed)
        proba = shrink(estimate, error).prob_exceeds(0.25)
        for number, fdr in enumerate(levels):
            calls = call_at_fdr(proba, fdr)
            assert calls.sum() > 50
            fractions[seed, number] = (np.abs(truth[calls]) <= 0.25).mean()
    check_fdr(fractions, levels)


def test_no_calls_without_effects():
    rng = np.random.default_rng(0)
    error = rng.uniform(0.05, 1, 1000)
    posterior = shrink(error * rng.normal(size=1000), error)
    assert not call_at_fdr(posterior.prob_exceeds(0.25), 0.2).any()
    assert np.abs(posterior.mean).max() < 0.25


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_extremes_stay_finite(scale):
    estimate = np.array([0.0, 50.0, -700.0, 1e-12]) * scale
    error = np.array([1e-6, 1e-3, 30.0, 5.0]) * scale
    posterior = shrink(estimate, error)
    for values in (posterior.mean, posterior.std, posterior.prob_exceeds(0.25), posterior.quantile(0.5)):
        assert np.isfinite(values).all()
    assert posterior.mean[1] == pytest.approx(50 * scale, rel=1e-3)


def ratios(genes: int, seed: int, mean: float) -> tuple[np.ndarray, LogRatio]:
    """Return log ratios of Poisson counts; 7 of 10 genes do not differ."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1.5, genes) * (rng.random(genes) > 0.7)
    level = mean * np.exp(rng.normal(0, 1, genes))
    shapes = rng.poisson(level * np.exp(np.stack([truth, -truth]) / 2)) + 0.5
    return truth, LogRatio(np.log(shapes[0] / shapes[1]), np.sqrt(polygamma(1, shapes).sum(0)), shapes)


def test_bayes_rule_for_few_counts():
    """Compare with quadrature of the conditional binomial likelihood at the estimated weights."""
    _, (estimate, error, shapes) = ratios(400, 0, 4.0)
    posterior = shrink(estimate, error, shapes)
    (_, (few, table)) = posterior.parts
    assert few.all()
    assert isinstance(table, TabulatedPosterior)
    # the posterior of a gene without counts is the prior
    flat = np.full((2, 1), 1e-9)
    _, with_one_more = shrink(
        np.append(estimate, 0.0), np.append(error, error[0]), np.concatenate([shapes, flat], 1)
    ).parts[1]
    prior, at = with_one_more.weight[-1], with_one_more.value
    for gene in range(0, 400, 37):
        a, b = shapes[:, gene]
        fraction = 1 / (1 + (b / a) * np.exp(estimate[gene] - at))
        weight = stats.beta.pdf(fraction, a + 1, b + 1) * prior  # fraction^a (1 - fraction)^b
        weight /= weight.sum()
        assert posterior.mean[gene] == pytest.approx((at * weight).sum(), abs=2e-3)
        assert posterior.prob_exceeds(0.17)[gene] == pytest.approx(weight[np.abs(at) > 0.17].sum(), abs=2e-3)


def test_bayes_rule_for_estimated_errors():
    """The likelihood of many counts with estimated errors is a t distribution; with many degrees, it is normal."""
    _, estimate, error = effects(300, 1)
    error /= 10
    shapes = np.tile(2 / error**2, (2, 1))
    flat = np.full((2, 1), 1e-9)
    ((_, _), (few, table)) = shrink(
        np.append(estimate, 0.0), np.append(error, error[0]), np.append(shapes, flat, 1), degrees=4
    ).parts
    assert few.all()
    for gene in range(0, 300, 37):
        weight = stats.t(4).pdf((estimate[gene] - table.value) / error[gene]) * table.weight[-1]
        np.testing.assert_allclose(table.weight[gene], weight / weight.sum(), atol=0.01)
    many, normal = shrink(estimate, error, shapes, degrees=1e6), shrink(estimate, error, shapes)
    np.testing.assert_allclose(many.mean, normal.mean, atol=0.02)
    np.testing.assert_allclose(many.prob_exceeds(0.25), normal.prob_exceeds(0.25), atol=0.02)


def test_both_forms_agree_near_the_threshold(monkeypatch):
    _, (estimate, error, shapes) = ratios(2000, 1, 300.0)
    near = (shapes.min(0) > shrinkage.NORMAL_COUNTS) & (shapes.min(0) < 2 * shrinkage.NORMAL_COUNTS)
    assert near.sum() > 200
    normal = shrink(estimate, error, shapes)
    monkeypatch.setattr(shrinkage, "NORMAL_COUNTS", 2 * shrinkage.NORMAL_COUNTS)
    table = shrink(estimate, error, shapes)
    assert (normal.parts[0][0][near]).all()
    assert not (table.parts[0][0][near]).any()
    np.testing.assert_allclose(table.mean[near], normal.mean[near], rtol=0.01, atol=0.01)
    np.testing.assert_allclose(table.std[near], normal.std[near], rtol=0.1, atol=0.005)
    np.testing.assert_allclose(table.prob_exceeds(0.17)[near], normal.prob_exceeds(0.17)[near], atol=0.05)
    for probability in (0.001, 0.5, 0.999):
        np.testing.assert_allclose(table.quantile(probability)[near], normal.quantile(probability)[near], atol=0.1)


def test_a_gene_that_one_group_lacks():
    """The probability of a difference decreases with the counts in that group."""
    truth, (estimate, error, shapes) = ratios(2000, 2, 5.0)
    assert (truth == 0).any()
    counts = np.stack([np.full(6, 300.0), [0, 1, 2, 5, 20, 300]]) + 0.5
    posterior = shrink(
        np.append(estimate, np.log(counts[0] / counts[1])),
        np.append(error, np.sqrt(polygamma(1, counts).sum(0))),
        np.concatenate([shapes, counts], 1),
    )
    proba = posterior.prob_exceeds(0.17)[-6:]
    assert (proba[:5] > 0.9999).all()
    assert proba[5] < 0.2
    assert (np.diff(posterior.mean[-6:]) < 0).all()
    assert posterior.quantile(0.001)[-6] > 2  # a ratio of at least e^2


def test_few_counts_are_calibrated():
    levels, inside = (0.05, 0.1, 0.2), []
    fractions = np.zeros((20, 3))
    for seed in range(20):
        truth, ratio = ratios(1000, seed, 5.0)
        posterior = shrink(*ratio)
        proba = posterior.prob_exceeds(0.17)
        low, high = posterior.quantile(0.05), posterior.quantile(0.95)
        inside.append(((low <= truth) & (truth <= high)).mean())
        for number, fdr in enumerate(levels):
            calls = call_at_fdr(proba, fdr)
            assert calls.sum() > 20
            fractions[seed, number] = (np.abs(truth[calls]) <= 0.17).mean()
    check_fdr(fractions, levels, least=1 / 3)
    assert np.mean(inside) > 0.88  # nominally 0.9; more, because the spike at 0 fills some intervals


def test_statistics_of_a_table():
    value = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    table = TabulatedPosterior(value, np.array([[0.1, 0.1, 0.6, 0.1, 0.1], [0.0, 0.0, 0.0, 0.5, 0.5]]))
    np.testing.assert_allclose(table.mean, [0, 1.5])
    np.testing.assert_allclose(table.std, [1, 0.5])
    np.testing.assert_allclose(np.sum(table.prob_beyond(0.25), axis=0), [0.4, 1])
    np.testing.assert_allclose(table.quantile(0.5), [0, 1.5])
    np.testing.assert_allclose(table.quantile(0.95), [1.75, 1.95])
