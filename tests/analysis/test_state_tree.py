import numpy as np
import pytest
from scipy.stats import norm

from vaekit.analysis.state_agreement import choose_num_states, mean_pairwise_ari, state_stability
from vaekit.analysis.state_mixture import NormalPosterior, StateMixture
from vaekit.analysis.state_posteriors import CellPosteriors, confusion_matrix
from vaekit.analysis.state_tree import merge_states


def test_confusion_of_two_normals_is_their_overlap() -> None:
    """Compare with the integral over the prior, from which the latents of many cells are drawn."""
    mixture = StateMixture(np.array([0.6, 0.4]), (np.array([[0.0], [2.0]]),), (np.ones((2, 1)),))
    rng = np.random.default_rng(0)
    label = rng.random(20_000) < 0.4
    noise_variance = 0.25
    mean = 2.0 * label + np.sqrt(1 - noise_variance) * rng.normal(size=20_000)
    q = NormalPosterior(mean[:, None], np.full((20_000, 1), noise_variance))
    keys = rng.integers(0, 2**63, 20_000).astype(np.uint64)
    confusion = confusion_matrix(mixture, CellPosteriors([q], [np.arange(1)], keys))
    z = np.linspace(-8, 10, 20_001)
    densities = mixture.weights * norm.pdf(z[:, None], [0.0, 2.0])
    expected = densities[:, 0] * densities[:, 1] / densities.sum(1)
    assert confusion[0, 1] == pytest.approx(expected.sum() * (z[1] - z[0]), rel=0.03)
    np.testing.assert_allclose(confusion.sum(1), mixture.weights, atol=0.01)
    np.testing.assert_allclose(confusion, confusion.T)


def test_confusion_does_not_depend_on_the_order_of_cells() -> None:
    rng = np.random.default_rng(1)
    mixture = StateMixture(np.array([0.5, 0.5]), (rng.normal(size=(2, 3)),), (np.ones((2, 3)),))
    q = NormalPosterior(rng.normal(size=(40, 3)), rng.gamma(1.0, size=(40, 3)))
    cells = CellPosteriors([q], [np.arange(3)], rng.integers(0, 2**63, 40).astype(np.uint64))
    order = rng.permutation(40)
    np.testing.assert_allclose(confusion_matrix(mixture, cells), confusion_matrix(mixture, cells.select(order)))


def test_pairs_are_merged_by_the_larger_rate() -> None:
    """Components 2 and 3 share most of the small component 3; 0 and 1 share more cells, but a smaller fraction."""
    confusion = np.diag([0.5, 0.3, 0.06, 0.02]).astype(float)
    confusion[0, 1] = confusion[1, 0] = 0.03
    confusion[2, 3] = confusion[3, 2] = 0.015
    tree = merge_states(confusion)
    assert [(merge.first, merge.second) for merge in tree.merges] == [((2,), (3,)), ((0,), (1,)), ((0, 1), (2, 3))]
    assert tree.merges[0].misclassification == pytest.approx(0.015 / 0.035)
    assert tree.merges[1].misclassification == pytest.approx(0.03 / 0.33)
    assert tree.merges[2].misclassification == 0
    assert [merge.num_states for merge in tree.merges] == [3, 2, 1]
    assert tree.states_at(4) == [(0,), (1,), (2,), (3,)]
    assert tree.states_at(2) == [(0, 1), (2, 3)]


def test_states_are_ordered_by_weight() -> None:
    confusion = np.diag([0.3, 0.25, 0.25, 0.2])
    confusion[1, 3] = confusion[3, 1] = 0.1
    tree = merge_states(confusion)
    assert tree.states_at(3) == [(1, 3), (0,), (2,)]
    np.testing.assert_array_equal(tree.membership(3), [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(tree.state_means(np.array([[1.0], [2.0], [3.0], [9.0]]), 3)[1:], [[1.0], [3.0]])
    np.testing.assert_allclose(tree.state_means(np.ones((4, 2)), 3), 1)


def test_an_empty_component_can_be_merged() -> None:
    tree = merge_states(np.array([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]]))
    assert len(tree.merges) == 2


def test_agreement_of_known_codings() -> None:
    codes = np.repeat([0, 1, 2], 20)
    assert mean_pairwise_ari([codes, codes[::-1], (codes + 1) % 3]) == pytest.approx(1)
    other = np.tile([0, 1], 30)
    assert mean_pairwise_ari([codes, codes, other]) < 0.5
    assert np.isnan(mean_pairwise_ari([codes]))


@pytest.mark.parametrize(
    ("curve", "chosen"), [([1, 0.9, 0.9, 0.8], 3), ([1, 0.5, 0.9], 3), ([1, 0.2, 0.1], 1), ([float("nan")] * 3, 1)]
)
def test_largest_number_of_states_that_agree(curve: list[float], chosen: int) -> None:
    assert choose_num_states(dict(enumerate(curve, 1)), 0.85) == chosen


def test_stability_is_the_jaccard_index() -> None:
    codes = np.array([0] * 6 + [1] * 4)
    moved = np.array([0] * 4 + [1] * 6)
    stability = state_stability(codes, [codes, moved], 3)
    np.testing.assert_allclose(stability, [(1 + 4 / 6) / 2, (1 + 4 / 6) / 2, 0])
    assert np.isnan(state_stability(codes, [], 2)).all()
