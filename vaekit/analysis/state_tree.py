"""Tree of states: components are merged in the order of their probability of misclassification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Merge(NamedTuple):
    """A merge of two states.

    Attributes
    ----------
    num_states : int
        Number of states after the merge.
    first, second : tuple of int
        Components of the two states.
    misclassification : float
        The larger of the two probabilities that a cell of one state is assigned to the other.
    """

    num_states: int
    first: tuple[int, ...]
    second: tuple[int, ...]
    misclassification: float


@dataclass(frozen=True)
class StateTree:
    """Merges of components, from all of them down to one state.

    Attributes
    ----------
    weights : ndarray, shape (components,)
        Weights of the components, the states at the finest level.
    merges : list of Merge
        Merges in order; the last leaves one state.
    """

    weights: np.ndarray
    merges: list[Merge]

    @property
    def num_components(self) -> int:
        """Number of components."""
        return len(self.weights)

    def states_at(self, num_states: int) -> list[tuple[int, ...]]:
        """Return the components of each state at a level of the tree, by decreasing weight."""
        states: set[tuple[int, ...]] = {(component,) for component in range(self.num_components)}
        for merge in self.merges[: self.num_components - num_states]:
            states = states - {merge.first, merge.second} | {tuple(sorted(merge.first + merge.second))}
        return sorted(states, key=lambda state: (-self.weights[list(state)].sum(), state))

    def membership(self, num_states: int) -> np.ndarray:
        """Return which component belongs to which state, 0 or 1, float64 ``[components, num_states]``."""
        membership = np.zeros((self.num_components, num_states))
        for state, components in enumerate(self.states_at(num_states)):
            membership[list(components), state] = 1
        return membership

    def state_means(self, values: np.ndarray, num_states: int) -> np.ndarray:
        """Return the weighted means over the components of each state, ``[num_states, ...]``."""
        weighted = self.membership(num_states) * self.weights[:, None]
        return weighted.T @ values / weighted.sum(0)[:, None]


def merge_states(confusion: np.ndarray) -> StateTree:
    r"""Merge components, each time the two states with the largest probability of misclassification.

    .. math:: \max(C_{ab} / C_{a \cdot},\; C_{ba} / C_{b \cdot}), \qquad C_{ab} = E[r_a r_b]

    with the probabilities r of the states of a cell at a sample of its latents. C adds up over merged components.

    Parameters
    ----------
    confusion : ndarray, shape (components, components)
        C of the components: symmetric, with sums of rows that are their weights.

    Notes
    -----
    Hennig (2010), Methods for merging Gaussian mixture components.

    Examples
    --------
    Two of three components overlap:

    >>> tree = merge_states(np.array([[0.40, 0.10, 0.0], [0.10, 0.20, 0.01], [0.0, 0.01, 0.18]]))
    >>> [(merge.first, merge.second) for merge in tree.merges]
    [((0,), (1,)), ((0, 1), (2,))]
    >>> tree.states_at(2)
    [(0, 1), (2,)]
    """
    confusion = np.array(confusion, dtype=float)
    weights = confusion.sum(1)
    states: list[tuple[int, ...]] = [(component,) for component in range(len(confusion))]
    merges = []
    while len(states) > 1:
        rates = confusion / np.maximum(confusion.sum(1, keepdims=True), np.finfo(float).tiny)
        rates = np.maximum(rates, rates.T)
        np.fill_diagonal(rates, -1)
        a, b = sorted(divmod(int(rates.argmax()), len(states)))
        merges.append(Merge(len(states) - 1, states[a], states[b], float(rates[a, b])))
        confusion[a] += confusion[b]
        confusion[:, a] += confusion[:, b]
        confusion = np.delete(np.delete(confusion, b, 0), b, 1)
        states[a] = tuple(sorted(states[a] + states.pop(b)))
    return StateTree(weights, merges)
