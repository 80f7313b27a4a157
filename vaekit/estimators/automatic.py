"""The choice of an estimator by rule, and the list of estimators that support a distribution."""

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

ENUMERATION_BUDGET = 64  # cost evaluations over all nodes that "auto" spends on exact sums


def choose_estimator(
    q: Distribution, differentiable: bool = True, num_evaluations: int = 1, joint: bool = False
) -> Estimator:
    """Choose an estimator: exact sum within the budget, else pathwise, DisARM (binary variables) or score function.

    The score function has the leave-one-out baseline. It also serves the binary variables of joint samples, because
    DisARM samples pairs.

    Parameters
    ----------
    q : Distribution
        Distribution of the node.
    differentiable : bool
        Whether the cost has a gradient path to the value of the node.
    num_evaluations : int
        Product of the sample numbers of the earlier nodes, which counts towards the budget.
    joint : bool
        Whether the node belongs to joint samples, which exclude exact sums and antithetic pairs.

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
    if not joint and count is not None and count * num_evaluations <= ENUMERATION_BUDGET:
        return Enumerate()
    if differentiable and Pathwise.supports(q):
        return Pathwise()
    if not joint and is_bernoulli(q):
        return DisARM()
    return ScoreFunction(baseline=LeaveOneOut())


@functools.lru_cache(maxsize=256)
def log_choice(node: str, distribution: str, estimator: str) -> None:
    """Log once per node which estimator was chosen."""
    logging.getLogger("vaekit").info("auto: selected %s for node %r (%s)", estimator, node, distribution)


def describe_supported(q: Distribution, without_path: bool = False) -> str:
    """Return a sentence with the estimators that support ``q``, for an error message; "" if no estimator does.

    Parameters
    ----------
    q : Distribution
        Distribution of the node.
    without_path : bool
        Whether to omit the estimators that need a gradient path from the cost.
    """
    import vaekit.estimators as package  # lazy, because the package imports this module

    exported = (getattr(package, name) for name in package.__all__)
    estimators = [c for c in exported if isinstance(c, type) and issubclass(c, Estimator) and c is not Estimator]
    names = [c.__name__ for c in estimators if c.supports(q) and not (without_path and c.requires_differentiable_cost)]
    return f"These estimators support {describe_distribution(q)}: {', '.join(names)}." if names else ""
