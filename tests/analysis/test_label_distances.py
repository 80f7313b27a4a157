"""Tests of the distance that few cells of known types exceed: from few and many labeled cells, copies, and one cell."""

from __future__ import annotations

import numpy as np
import pytest

from vaekit.analysis.label_distances import NUM_EMPIRICAL, LabelDistances, known_distance


@pytest.mark.parametrize("n", [40, 70, 150])
def test_few_labeled_cells_call_5_percent_unknown(n: int) -> None:
    """The empirical quantile calls 7.2, 6.4 and 5.5 % unknown, with half as large again a deviation."""
    rng = np.random.default_rng(0)
    new = np.exp(0.3 * rng.normal(size=20_000))
    samples = np.exp(0.3 * rng.normal(size=(500, n)))
    fractions = np.array([(new > known_distance(sample)).mean() for sample in samples])
    empirical = np.array([(new > np.quantile(sample, 0.95)).mean() for sample in samples])
    assert fractions.mean() == pytest.approx(0.05, abs=0.003)
    assert fractions.std() < 0.75 * empirical.std()


def test_many_labeled_cells_have_the_empirical_quantile() -> None:
    distances = np.random.default_rng(0).uniform(1, 2, NUM_EMPIRICAL)
    assert known_distance(distances) == np.quantile(distances, 0.95)


def test_no_cell_is_its_own_neighbor() -> None:
    points = np.random.default_rng(0).normal(size=(60, 4))
    gaps = np.sort(np.linalg.norm(points[:, None] - points, axis=-1), axis=1)
    np.testing.assert_allclose(
        LabelDistances(points).novelty(points), gaps[:, :5].mean(1) / known_distance(gaps[:, 1:6].mean(1))
    )


def test_copies_do_not_count() -> None:
    points = np.random.default_rng(0).normal(size=(60, 4))
    copied = np.concatenate([np.zeros((10, 4)), points])
    assert 0.5 < LabelDistances(copied).novelty(points).mean() / LabelDistances(points).novelty(points).mean() < 2


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_cells_give_finite_numbers(n: int) -> None:
    points = np.random.default_rng(0).normal(size=(n, 4))
    assert np.isfinite(LabelDistances(points).novelty(points + 1)).all()
