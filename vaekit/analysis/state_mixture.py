r"""Mixture of normals over the posteriors of one or several models, fitted by EM with a number of components by BIC."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax

MAX_WARD_CELLS = 4000  # memory and time of Ward's method grow with the square
PATIENCE = 4  # numbers of components without a lower BIC, after which the search ends
MAX_ITERATIONS, TOLERANCE = 200, 1e-4  # of EM; nats per cell
MIN_VARIANCE = 1e-6  # keeps densities finite; posterior variances of a trained model are far larger
MIN_WEIGHT = 1e-10  # of a component without cells, in cells


class NormalPosterior(NamedTuple):
    """Diagonal normal posteriors of all cells under one model, each ``[cells, dimensions]``, float64."""

    mean: np.ndarray
    variance: np.ndarray

    def select(self, index: np.ndarray | slice) -> NormalPosterior:
        """Return the posteriors of some cells."""
        return NormalPosterior(self.mean[index], self.variance[index])


@dataclass(frozen=True)
class StateMixture:
    r"""A mixture whose components have one diagonal normal in the latent space of each of R models.

    .. math:: \log r_{ik} = \log \pi_k + \frac{1}{R} \sum_s E_{q_s(z | x_i)}[\log N(z; m_{ks}, S_{ks})] + \text{const}

    The models are views of the same data, not independent observations. Their evidence is therefore averaged, and a
    component is the same state in all of them.

    Attributes
    ----------
    weights : ndarray, shape (components,)
        Mixture weights, which sum to 1.
    means, variances : tuple of ndarray, each of shape (components, dimensions)
        Parameters in the latent space of each model.
    """

    weights: np.ndarray
    means: tuple[np.ndarray, ...]
    variances: tuple[np.ndarray, ...]

    def scores(self, posteriors: Sequence[NormalPosterior]) -> np.ndarray:
        """Return the expected log-density of each component under each posterior, ``[models, cells, components]``."""
        return np.stack(
            [_expected_log_density(q, m, s) for q, m, s in zip(posteriors, self.means, self.variances, strict=True)]
        )

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return the probabilities of the components from all models together, ``[cells, components]``."""
        return softmax(np.log(self.weights) + scores.mean(0), axis=-1)

    def probabilities_by_model(self, scores: np.ndarray) -> np.ndarray:
        """Return the probabilities of the components from each model alone, ``[models, cells, components]``."""
        return softmax(np.log(self.weights) + scores, axis=-1)

    def bound(self, scores: np.ndarray) -> float:
        r"""Return the objective of EM, the mean over cells of :math:`\log \sum_k r_{ik}` before normalization."""
        return float(logsumexp(np.log(self.weights) + scores.mean(0), axis=-1).mean())

    def sorted(self) -> StateMixture:
        """Return the same mixture with the components by decreasing weight."""
        order = np.argsort(-self.weights, kind="stable")
        means, variances = (tuple(values[order] for values in parts) for parts in (self.means, self.variances))
        return StateMixture(self.weights[order], means, variances)

    def bic(self, bound: float, num_cells: int) -> float:
        """Return the Bayesian information criterion; lower is better. The models count as one."""
        dimensions = sum(mean.shape[1] for mean in self.means) / len(self.means)
        num_parameters = len(self.weights) * (2 * dimensions + 1) - 1
        return -2 * num_cells * bound + num_parameters * np.log(num_cells)


def update_mixture(probabilities: np.ndarray, posteriors: Sequence[NormalPosterior]) -> StateMixture:
    """Return the mixture that maximizes the expected log-density given probabilities ``[cells, components]``.

    The variance of a component includes the variances of the posteriors of its cells.
    """
    totals = probabilities.sum(0) + MIN_WEIGHT
    means, variances = [], []
    for q in posteriors:
        mean = probabilities.T @ q.mean / totals[:, None]
        second_moment = probabilities.T @ (q.mean**2 + q.variance) / totals[:, None]
        means.append(mean)
        variances.append(np.maximum(second_moment - mean**2, MIN_VARIANCE))
    return StateMixture(totals / totals.sum(), tuple(means), tuple(variances))


def iterate_em(
    probabilities: np.ndarray, posteriors: Sequence[NormalPosterior]
) -> Iterator[tuple[StateMixture, float]]:
    """Yield the mixture and its bound after each iteration of EM, which never decreases, without end."""
    while True:
        mixture = update_mixture(probabilities, posteriors)
        scores = mixture.scores(posteriors)
        yield mixture, mixture.bound(scores)
        probabilities = mixture.probabilities(scores)


def fit_mixture(probabilities: np.ndarray, posteriors: Sequence[NormalPosterior]) -> tuple[StateMixture, float]:
    """Return the mixture at which EM converges from probabilities ``[cells, components]``, and its bound."""
    steps = itertools.islice(iterate_em(probabilities, posteriors), MAX_ITERATIONS)
    mixture, bound = next(steps)
    for following, value in steps:
        improvement, (mixture, bound) = value - bound, (following, value)
        if improvement < TOLERANCE:
            break
    return mixture, bound


def ward_merges(posteriors: Sequence[NormalPosterior]) -> np.ndarray:
    """Return the merges of Ward's method on the posterior means of the first ``MAX_WARD_CELLS`` cells, as of scipy.

    Notes
    -----
    Ward (1963), Hierarchical grouping to optimize an objective function. Starts of EM from such a tree do not depend on
    random numbers: Fraley and Raftery (1998), How many clusters? Which clustering method?
    """
    from scipy.cluster.hierarchy import linkage

    return linkage(np.concatenate([q.mean[:MAX_WARD_CELLS] for q in posteriors], 1), method="ward")


def fit_from_ward(
    merges: np.ndarray, posteriors: Sequence[NormalPosterior], num_components: int
) -> tuple[StateMixture, float]:
    """Return the fit of EM that starts from the clusters of Ward's tree, and its bound."""
    from scipy.cluster.hierarchy import fcluster

    clusters = fcluster(merges, num_components, "maxclust") - 1
    start = update_mixture(np.eye(num_components)[clusters], [q.select(slice(len(clusters))) for q in posteriors])
    return fit_mixture(start.probabilities(start.scores(posteriors)), posteriors)


def select_mixture(
    posteriors: Sequence[NormalPosterior], max_components: int, progress: bool = False
) -> tuple[StateMixture, dict[int, float]]:
    """Return the mixture with the lowest BIC, and the BIC by number of components.

    The search begins with one component, and ends after ``PATIENCE`` numbers without a lower BIC.

    Parameters
    ----------
    posteriors : sequence of NormalPosterior
        Posteriors of the same cells under each model, in an order that follows from the cells.
    max_components : int
        Largest number of components.
    progress : bool
        Whether to show a progress bar.

    Notes
    -----
    Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm; Schwarz (1978),
    Estimating the dimension of a model.
    """
    from tqdm.auto import tqdm

    num_cells, merges = len(posteriors[0].mean), ward_merges(posteriors)
    best, criteria = None, {}
    with tqdm(total=max_components, desc="fitting mixtures", unit="mixture", disable=not progress) as bar:
        for number in range(1, max_components + 1):
            mixture, bound = fit_from_ward(merges, posteriors, number)
            criteria[number] = mixture.bic(bound, num_cells)
            lowest = min(criteria, key=lambda key: criteria[key])
            best = mixture if lowest == number else best
            bar.update()
            if number - lowest >= PATIENCE:
                break
    assert best is not None  # of the lowest BIC
    return best.sorted(), criteria


def _expected_log_density(q: NormalPosterior, means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return the expectation under each posterior of each normal's log-density, ``[cells, components]``."""
    precisions = 1 / variances
    squares = (q.mean**2 + q.variance) @ precisions.T - 2 * q.mean @ (means * precisions).T
    constants = (means**2 * precisions + np.log(2 * np.pi * variances)).sum(1)
    return -0.5 * (squares + constants)
