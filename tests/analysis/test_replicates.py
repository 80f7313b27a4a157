"""Errors from replicates: calibrated on simulated donors, and equal to known formulas in simple cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vaekit.analysis.comparison_table import call_at_fdr
from vaekit.analysis.group_sums import GroupSums, log_ratio, merge
from vaekit.analysis.replicates import moderate, replicated_log_ratio
from vaekit.analysis.shrinkage import shrink

GENES = 1000
DELTA = 0.17  # natural logarithm


def donor(composition: np.ndarray, rng: np.random.Generator, cells: int, library: float = 2000.0) -> GroupSums:
    """Return the sums of a donor whose cells have a composition that the model knows; counts are overdispersed."""
    expected = cells * library * composition
    variance = expected * 2
    counts = rng.negative_binomial(expected, 0.5).astype(float)
    return GroupSums(
        np.array([0]),
        np.array([float(cells)]),
        counts[None],
        expected[None],
        variance[None],
        variance[None] * 0,
        cells * composition,
        cells * composition**2 * 1.1,
        np.minimum(counts, cells),
        counts,
    )


def donors(
    seed: int, num: tuple[int, int], spread: float, is_paired: bool, cells: tuple[int, ...] = (100,)
) -> tuple[np.ndarray, list[GroupSums], list[GroupSums]]:
    """Return true effects, of which 8 in 10 are 0, and the donors of two groups.

    The standard deviation between donors differs between genes. Paired donors share most of their deviation.
    """
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, GENES) * (rng.random(GENES) > 0.8)
    base = rng.normal(0, 1.5, GENES)
    scale = spread * np.exp(rng.normal(0, 0.4, GENES))
    shared = 2 * scale * rng.normal(size=(max(num), GENES)) * is_paired
    groups = []
    for sign, count in zip((0.5, -0.5), num, strict=True):
        parts = []
        for number in range(count):
            log = base + sign * truth + shared[number] + scale * rng.normal(size=GENES)
            composition = np.exp(log) / np.exp(base).sum()
            parts.append(donor(composition, rng, cells[number % len(cells)]))
        groups.append(parts)
    return truth, *groups


DESIGNS = {
    "6 and 6": ((6, 6), False, (100,)),
    "3 and 4": ((3, 4), False, (100,)),
    "unequal cells": ((6, 6), False, (20, 50, 400)),
    "6 pairs": ((6, 6), True, (100,)),
    "3 pairs": ((3, 3), True, (30, 100, 300)),
}


@pytest.mark.parametrize("design", DESIGNS)
def test_false_discoveries_are_controlled_with_replicates_only(design):
    num, is_paired, cells = DESIGNS[design]
    levels, runs = (0.05, 0.1, 0.2), 8
    fractions, plain, power = np.zeros((runs, 3)), np.zeros(runs), np.zeros(runs)
    for seed in range(runs):
        truth, first, second = donors(seed, num, 0.3, is_paired, cells)
        is_null = np.abs(truth) <= DELTA
        ratio, degrees = replicated_log_ratio(first, second, is_paired)
        proba = shrink(*ratio, degrees).prob_exceeds(DELTA)
        for number, fdr in enumerate(levels):
            calls = call_at_fdr(proba, fdr)
            fractions[seed, number] = is_null[calls].mean() if calls.any() else 0
        power[seed] = call_at_fdr(proba, 0.05)[np.abs(truth) > 1].mean()
        calls = call_at_fdr(shrink(*log_ratio(merge(first), merge(second))).prob_exceeds(DELTA), 0.05)
        plain[seed] = is_null[calls].mean()
    error = fractions.std(0, ddof=1) / runs**0.5
    assert (fractions.mean(0) < levels + 3.5 * error).all(), fractions.mean(0)
    assert plain.mean() > 0.3
    assert power.mean() > (0.2 if num[0] == 3 else 0.5)


def test_errors_equal_those_of_a_t_test_with_equal_many_counts():
    """With many counts and equal weights, the variance is the pooled one between donors."""
    rng = np.random.default_rng(0)
    log = rng.normal(0, 0.2, (7, GENES)) + rng.normal(0, 1, GENES)
    parts = [donor(np.exp(row) / 1000, rng, 10_000, 1e7) for row in log]
    for part in parts:
        part.squared_compositions[:] = part.compositions**2 / 10_000
    ratio, degrees = replicated_log_ratio(parts[:3], parts[3:], False)
    assert degrees > 50  # all genes have the same variance
    observed = np.log(np.stack([part.counts[0] for part in parts]))
    expected = stats.ttest_ind(observed[:3], observed[3:]).statistic
    difference = observed[:3].mean(0) - observed[3:].mean(0)
    np.testing.assert_allclose(ratio.estimate, difference, atol=0.02)
    pooled = np.sqrt(0.04 * (1 / 3 + 1 / 4))
    assert np.median(ratio.error) == pytest.approx(pooled, rel=0.1)
    assert np.corrcoef(ratio.estimate / ratio.error, expected)[0, 1] > 0.85


def test_pairs_cancel_the_effects_of_donors():
    truth, first, second = donors(0, (5, 5), 0.3, True)
    paired, unpaired = (replicated_log_ratio(first, second, is_paired).ratio for is_paired in (True, False))
    assert np.median(paired.error) < 0.6 * np.median(unpaired.error)
    z = (paired.estimate - truth) / paired.error
    assert 0.8 < z.std() < 1.5


def test_errors_are_at_least_those_of_the_counts():
    rng = np.random.default_rng(1)
    composition = rng.dirichlet(np.ones(GENES))
    first, second = ([donor(composition, rng, 100) for _ in range(4)] for _ in range(2))
    ratio, _ = replicated_log_ratio(first, second, False)
    plain = log_ratio(merge(first), merge(second))
    assert (ratio.error > 0.95 * plain.error).all()
    assert np.median(ratio.error / plain.error) < 1.3
    np.testing.assert_allclose(ratio.estimate, plain.estimate, atol=0.2)


def test_order_and_swapped_groups():
    _, first, second = donors(3, (4, 3), 0.3, False)
    ratio, degrees = replicated_log_ratio(first, second, False)
    other, other_degrees = replicated_log_ratio(second[::-1], first[::-1], False)
    np.testing.assert_allclose(other.estimate, -ratio.estimate, atol=1e-9)
    np.testing.assert_allclose(other.error, ratio.error, rtol=1e-9)
    assert other_degrees == pytest.approx(degrees)


@pytest.mark.parametrize("is_paired", [False, True])
def test_genes_without_counts_stay_finite(is_paired):
    _, first, second = donors(4, (3, 3), 0.3, is_paired)
    for part in (*first, *second):
        for values in (part.counts, part.expected, part.likelihood_variance):
            values[:, 0] = 0  # not measured
        part.counts[:, 1] = 0
    for part in first:
        part.counts[:, 2] = 0
    (estimate, error, shapes), degrees = replicated_log_ratio(first, second, is_paired)
    assert np.isfinite(estimate).all()
    assert np.isfinite(error).all()
    posterior = shrink(estimate, error, shapes, degrees)
    for values in (posterior.mean, posterior.std, posterior.prob_exceeds(DELTA), posterior.quantile(0.5)):
        assert np.isfinite(values).all()


def test_moderated_variances_recover_their_distribution():
    """Variances have a scaled inverse chi-squared distribution with 8 degrees of freedom and scale 3."""
    rng = np.random.default_rng(5)
    variance = 3 * 8 / rng.chisquare(8, 20_000)
    squares = variance * rng.chisquare(4, 20_000) / 4
    moderated, degrees = moderate(squares, 4, np.ones(20_000, dtype=bool))
    assert degrees == pytest.approx(8, rel=0.15)
    np.testing.assert_allclose(moderated, (degrees * 3 + 4 * squares) / (degrees + 4), rtol=0.05)
    equal, degrees = moderate(3 * rng.chisquare(4, 20_000) / 4, 4, np.ones(20_000, dtype=bool))
    assert degrees > 200
    np.testing.assert_allclose(equal, 3, rtol=0.2)
    few, degrees = moderate(squares, 4, np.arange(20_000) == 0)
    assert degrees == 0
    np.testing.assert_array_equal(few, squares)
