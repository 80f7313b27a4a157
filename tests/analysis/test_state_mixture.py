import itertools

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from vaekit.analysis.state_mixture import (
    NormalPosterior,
    fit_from_ward,
    fit_mixture,
    iterate_em,
    select_mixture,
    update_mixture,
    ward_merges,
)


def _points(seed: int = 0, num_cells: int = 300, distance: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Return points of three normals in four dimensions, and their labels."""
    rng = np.random.default_rng(seed)
    label = rng.choice(3, num_cells, p=[0.5, 0.3, 0.2])
    centers = distance * np.eye(3, 4)
    return centers[label] + rng.normal(size=(num_cells, 4)) * [1, 0.5, 1.5, 1], label


def test_em_equals_sklearn_without_posterior_variances() -> None:
    points, label = _points()
    start = np.eye(3)[label]
    mixture, bound = fit_mixture(start, [NormalPosterior(points, np.zeros_like(points))])
    first = update_mixture(start, [NormalPosterior(points, np.zeros_like(points))])
    oracle = GaussianMixture(
        3, covariance_type="diag", tol=1e-8, max_iter=500, reg_covar=0,
        weights_init=first.weights, means_init=first.means[0], precisions_init=1 / first.variances[0],
    ).fit(points)  # fmt: skip
    assert bound == pytest.approx(oracle.score(points), abs=1e-3)
    np.testing.assert_allclose(mixture.weights, oracle.weights_, atol=2e-3)
    np.testing.assert_allclose(mixture.means[0], oracle.means_, atol=0.02)
    np.testing.assert_allclose(mixture.variances[0], oracle.covariances_, atol=0.03)
    assert mixture.bic(oracle.score(points), len(points)) == pytest.approx(oracle.bic(points))


def test_bound_never_decreases_with_several_models_and_posterior_variances() -> None:
    rng = np.random.default_rng(1)
    posteriors = [NormalPosterior(_points(seed, distance=1.5)[0], rng.gamma(1.0, size=(300, 4))) for seed in range(3)]
    start = rng.dirichlet(np.full(5, 0.2), size=300)
    bounds = [bound for _, bound in itertools.islice(iterate_em(start, posteriors), 40)]
    assert np.all(np.diff(bounds) > -1e-10)
    assert bounds[-1] > bounds[0]


def test_variance_of_a_component_includes_the_posteriors() -> None:
    points, _ = _points()
    mixture = update_mixture(np.ones((300, 1)), [NormalPosterior(points, np.full_like(points, 0.7))])
    np.testing.assert_allclose(mixture.variances[0][0], points.var(0) + 0.7)


def test_identical_models_count_as_one() -> None:
    points, label = _points(distance=2.0)
    q = NormalPosterior(points, np.full_like(points, 0.1))
    one, bound = fit_mixture(np.eye(3)[label], [q])
    two, bound_of_two = fit_mixture(np.eye(3)[label], [q, q])
    assert bound_of_two == pytest.approx(bound)
    assert two.bic(bound_of_two, 300) == pytest.approx(one.bic(bound, 300))
    np.testing.assert_allclose(one.probabilities(one.scores([q])), two.probabilities(two.scores([q, q])))


def test_bic_selects_the_number_of_separate_components() -> None:
    points, _ = _points(num_cells=600)
    mixture, criteria = select_mixture([NormalPosterior(points, np.zeros_like(points))], 30)
    assert len(mixture.weights) == 3 == min(criteria, key=criteria.__getitem__)
    assert max(criteria) == 7  # the search ends after four numbers without a lower BIC
    assert np.all(np.diff(mixture.weights) <= 0)


def test_selection_is_deterministic_and_does_not_need_distinct_cells() -> None:
    q = NormalPosterior(np.repeat(_points()[0][:10], 5, axis=0), np.full((50, 4), 0.5))
    first, second = (select_mixture([q], 20)[0] for _ in range(2))
    np.testing.assert_array_equal(first.means[0], second.means[0])


def test_equal_cells_do_not_fail() -> None:
    q = NormalPosterior(np.zeros((30, 2)), np.ones((30, 2)))
    mixture, bound = fit_from_ward(ward_merges([q]), [q], 3)
    assert np.isfinite(bound)
    assert np.isfinite(mixture.probabilities(mixture.scores([q]))).all()
    assert len(select_mixture([q], 10)[0].weights) == 1
