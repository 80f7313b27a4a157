"""Base classes of the estimators of discrete nodes."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.discrete_support import is_bernoulli, is_one_hot, log_prob, num_states, states
from vaekit.estimators.estimator import Estimator, describe_distribution
from vaekit.estimators.noise import gumbel
from vaekit.exceptions import EstimatorError

MAX_STATES = 4096
LOG_ZERO = -1e30  # replaces log 0: finite, so that differences are not NaN, and far from the overflow of float32


class DiscreteEstimator(Estimator):
    """Estimator of Bernoulli and one-hot categorical nodes, and of ``Independent`` vectors of them."""

    @classmethod
    @override
    def supports(cls, q: Distribution) -> bool:
        return is_bernoulli(q) or is_one_hot(q)


class FiniteSupportEstimator(Estimator):
    """Estimator of nodes with a finite support of at most ``max_states`` states."""

    max_states: int = MAX_STATES
    remedy: ClassVar[str] = "Use LocalExpectation(), which enumerates one variable at a time."
    supports_joint_samples = False
    higher_order = True
    lists_states = True

    @classmethod
    @override
    def supports(cls, q: Distribution) -> bool:
        return num_states(q) is not None

    def count_states(self, q: Distribution) -> int:
        """Return the number of states of ``q``.

        Raises
        ------
        EstimatorError
            If the support is infinite or has more than ``max_states`` states.
        """
        count = num_states(q)
        if count is None:
            raise EstimatorError(
                f"{type(self).__name__}: the support of {describe_distribution(q)} is not finite. Use ScoreFunction()."
            )
        self._check_count(count, describe_distribution(q))
        return count

    def _check_count(self, count: int, subject: str) -> None:
        if count > self.max_states:
            raise EstimatorError(
                f"{type(self).__name__}: {subject} has {count} states, over the budget of "
                f"max_states={self.max_states}. {self.remedy}"
            )

    def list_states(self, q: Distribution) -> tuple[Tensor, Tensor]:
        """Return all states ``[states, *batch, *event]`` and their finite log-probabilities ``[states, *batch]``."""
        self.count_states(q)
        value = states(q)
        return value, log_prob(q, value).clamp_min(LOG_ZERO)


def select_states(value: Tensor, index: Tensor, q: Distribution) -> Tensor:
    """Return the states ``[samples, *batch, *event]`` at an index ``[samples, *batch]`` into all states."""
    index = index.reshape(*index.shape, *[1] * len(q.event_shape))
    return value.gather(0, index.expand(*index.shape[: value.dim() - len(q.event_shape)], *q.event_shape))


def perturb(log_prob: Tensor) -> Tensor:
    """Return log-probabilities plus Gumbel noise. The k largest are k samples without replacement."""
    return log_prob + gumbel(log_prob)
