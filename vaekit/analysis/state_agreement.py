"""Agreement of the states of several models: the curve over numbers of states, their choice and their stability."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np


def mean_pairwise_ari(codes: Sequence[np.ndarray]) -> float:
    """Return the adjusted Rand index, averaged over all pairs of codings of the same cells; NaN for one coding.

    Notes
    -----
    Hubert and Arabie (1985), Comparing partitions.

    Examples
    --------
    >>> mean_pairwise_ari([np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    pairs = list(itertools.combinations(codes, 2))
    return float(np.mean([adjusted_rand_score(a, b) for a, b in pairs])) if pairs else float("nan")


def choose_num_states(agreement: Mapping[int, float], threshold: float) -> int:
    """Return the largest number of states whose agreement reaches the threshold; 1 if none does.

    Examples
    --------
    >>> choose_num_states({1: 1.0, 2: 0.99, 3: 0.8, 4: 0.9, 5: 0.6}, threshold=0.85)
    4
    """
    return max((number for number, value in agreement.items() if value >= threshold), default=1)


def state_stability(states: np.ndarray, codes: Sequence[np.ndarray], num_states: int) -> np.ndarray:
    r"""Return the stability of each state over other codings with the same numbering, ``[num_states]``.

    It is the Jaccard index :math:`|A \cap B| / |A \cup B|` of the cells A of the state and the cells B with this state
    in a coding, averaged over the codings: 1 if its cells stay together and no others join them. NaN without a coding.

    Notes
    -----
    Hennig (2007), Cluster-wise assessment of cluster stability, regards clusters above 0.75 as stable, and those below
    0.6 as doubtful.

    Examples
    --------
    >>> state_stability(np.array([0, 0, 0, 1]), [np.array([0, 0, 1, 1])], num_states=2).round(2)
    array([0.67, 0.5 ])
    """
    stability = np.full((len(codes), num_states), np.nan)
    for row, other in enumerate(codes):
        for state in range(num_states):
            first, second = states == state, other == state
            union = (first | second).sum()
            stability[row, state] = (first & second).sum() / union if union else 0.0
    return stability.mean(0) if len(codes) else np.full(num_states, np.nan)
