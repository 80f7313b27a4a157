"""Mixture of normal distributions by k-means on posterior means."""

from __future__ import annotations

import numpy as np

NUM_STARTS = 10  # of k-means; the best one counts


def kmeans_mixture(
    mean: np.ndarray, variance: np.ndarray, num_components: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Return weights, means and standard deviations of the components at the clusters of k-means.

    With the posterior means :math:`\mu_i` and variances :math:`\sigma_i^2` of the :math:`n_k` observations of a
    cluster, its component approximates their mixed posteriors:

    .. math:: \pi_k = \frac{n_k + 1}{n + K}, \quad m_k = \frac{1}{n_k} \sum_i \mu_i, \quad
              s_k^2 = \frac{\bar s^2 + \sum_i (\mu_i - m_k)^2 + \sigma_i^2}{n_k + 1}

    The pooled variance :math:`\bar s^2` of all clusters counts as one observation, so that no component is narrow
    because its cluster is small.

    Parameters
    ----------
    mean, variance : ndarray, shape (observations, dim)
        Moments of the posteriors, float64.
    num_components : int
        Number K of clusters, at most the number of observations.
    seed : int
        Seed of k-means.

    Returns
    -------
    log_weight : ndarray, shape (num_components,)
        :math:`\log \pi_k`.
    loc, scale : ndarray, shape (num_components, dim)
        :math:`m_k` and :math:`s_k`.

    Examples
    --------
    >>> mean = np.array([[0.0], [2.0], [10.0]])
    >>> log_weight, loc, scale = kmeans_mixture(mean, np.ones_like(mean), 2, seed=0)
    >>> order = loc[:, 0].argsort()
    >>> np.exp(log_weight)[order], loc[order, 0]
    (array([0.6, 0.4]), array([ 1., 10.]))
    >>> scale[order, 0].round(3)  # the pooled variance is 5/3
    array([1.374, 1.155])
    """
    from sklearn.cluster import KMeans  # importing it takes long
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # the sums of threads have no fixed order, and a resumed run must repeat them
        label = KMeans(num_components, n_init=NUM_STARTS, random_state=seed).fit_predict(mean)
    member = np.eye(num_components)[label]  # [observations, K]
    count = member.sum(0)[:, None]
    loc = member.T @ mean / np.maximum(count, 1)
    total = member.T @ (np.square(mean - loc[label]) + variance)
    pooled = total.sum(0) / len(mean)
    scale = np.sqrt((total + pooled) / (count + 1))
    log_weight = np.log((count[:, 0] + 1) / (len(mean) + num_components))
    return log_weight, loc, scale
