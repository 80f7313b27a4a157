"""The choice of an estimator by rule, and the names of those that fit a distribution."""

from __future__ import annotations

import functools
import logging

from torch.distributions import Distribution

from vaekit.estimators.baselines import LeaveOneOut
from vaekit.estimators.disarm import DisARM
from vaekit.estimators.discrete_support import is_bernoulli, num_states
from vaekit.estimators.enumerate import Enumerate
from vaekit.estimators.estimator import Estimator, describe_distribution
from vaekit.estimators.pathwise import Pathwise
from vaekit.estimators.score_function import ScoreFunction

ENUMERATION_BUDGET = 64  # rows over all nodes that `auto` spends on exact sums


def choose_estimator(q: Distribution, differentiable: bool = True, rows: int = 1, joint: bool = False) -> Estimator:
    """Choose an estimator: exact sum within the budget, else pathwise, DisARM (binary variables), or score function.

    The score function is that with leave-one-out. Joint trajectories have it for binary variables too: DisARM draws
    pairs, for which there is no place on their axis.

    Parameters
    ----------
    q
        The node's distribution.
    differentiable
        Whether the cost has a gradient path to the node's value.
    rows
        Product of the rows of the nodes before it, which counts towards the budget.
    joint
        Whether the node shares an axis of joint trajectories, which rules out exact sums and antithetic pairs.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical
    >>> type(choose_estimator(OneHotCategorical(logits=torch.zeros(10)))).__name__
    'Enumerate'
    >>> type(choose_estimator(Independent(Bernoulli(logits=torch.zeros(10)), 1))).__name__
    'DisARM'
    >>> type(choose_estimator(Normal(0.0, 1.0))).__name__
    'Pathwise'
    >>> type(choose_estimator(Normal(0.0, 1.0), differentiable=False)).__name__
    'ScoreFunction'
    """
    count = num_states(q)
    if not joint and count is not None and count * rows <= ENUMERATION_BUDGET:
        return Enumerate()
    if differentiable and Pathwise.supports(q):
        return Pathwise()
    if not joint and is_bernoulli(q):
        return DisARM()
    return ScoreFunction(baseline=LeaveOneOut())


@functools.lru_cache(maxsize=256)
def log_choice(node: str, distribution: str, estimator: str) -> None:
    """Say once which estimator was chosen for a node."""
    logging.getLogger("vaekit").info("auto: node %r (%s) gets %s", node, distribution, estimator)


def describe_supported(q: Distribution, without_path: bool = False) -> str:
    """Return the names of the estimators that fit ``q``, for an error message.

    Parameters
    ----------
    q
        The node's distribution.
    without_path
        Whether to leave out those that need a gradient path from the cost.
    """
    import vaekit.estimators as package  # what it exports is the catalogue; it imports this module's siblings

    exported = (getattr(package, name) for name in package.__all__)
    catalogue = [c for c in exported if isinstance(c, type) and issubclass(c, Estimator) and c is not Estimator]
    fit = [c.__name__ for c in catalogue if c.supports(q) and not (without_path and c.requires_differentiable_cost)]
    return f"for {describe_distribution(q)} these work: {', '.join(fit)}"
