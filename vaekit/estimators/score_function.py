"""Score-function gradients, also called REINFORCE or the likelihood-ratio method."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.base import Draw, Estimator, uniform_weight
from vaekit.estimators.baselines import Baseline
from vaekit.estimators.critic import Critic
from vaekit.estimators.discrete import log_prob, sample
from vaekit.exceptions import EstimatorError


class ScoreFunction(Estimator):
    r"""Weigh the score of each value by its cost, less a baseline that does not depend on that value.

    .. math:: \nabla_\theta E_q[f(z)] = E[(f(z) - b)\, \nabla_\theta \log q_\theta(z)]

    Shapes: values ``[num_samples, *batch, *event]``; one more row of weight 0 with ``SelfCritic``. Bias: none.
    Cost: ``num_samples`` evaluations (one more with ``SelfCritic``) and no backward pass through the cost for
    the gradient of this node, so that the cost may be a step function, NumPy or a simulator. Nodes: all.

    Williams (1992), Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning;
    Ranganath, Gerrish and Blei (2014), Black Box Variational Inference.

    Parameters
    ----------
    num_samples
        Independent draws; None is 1, or 2 where the baseline compares draws (``LeaveOneOut``).
    baseline
        What is subtracted from the cost: None, ``MovingAverage``, ``LeaveOneOut``, ``Learned``, ``SelfCritic``.
    critic
        Predicts the cost-to-go of this node. The prediction is subtracted before the baseline is; nodes before this
        one that have a critic too take it for the cost-to-go itself, with the weight ``1 - lam``.
    lam
        lambda, in 0..1. At 1 the gradient is unbiased, whatever the critics say; below, the gradients of earlier nodes
        with a critic vary less, and are biased as far as this node's critic is wrong.

    Raises
    ------
    EstimatorError
        If ``num_samples`` is fewer than the baseline needs, or ``lam`` is not in 0..1 or has no critic.
    """

    def __init__(
        self,
        num_samples: int | None = None,
        baseline: Baseline | None = None,
        critic: Critic | None = None,
        lam: float = 1.0,
    ) -> None:
        needed = 1 if baseline is None else baseline.min_samples
        super().__init__(needed if num_samples is None else num_samples)
        if self.num_samples < needed:
            raise EstimatorError(
                f"ScoreFunction(num_samples={num_samples}, baseline={type(baseline).__name__}()): the baseline of a "
                f"draw is the mean of the others, so num_samples must be at least {needed} "
                "(or use baseline=MovingAverage(), which needs one)"
            )
        if not 0 <= lam <= 1:
            raise EstimatorError(f"ScoreFunction: lam is {lam}, it must lie in [0, 1]")
        if critic is None and lam != 1:
            raise EstimatorError(f"ScoreFunction: lam is {lam}, the share that is not left to a critic: give critic=")
        self.baseline, self.critic, self.lam = baseline, critic, lam

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        """Whether no credit is left to a critic."""
        return self.lam == 1

    @classmethod
    def fits(cls, q: Distribution) -> bool:
        """Tell whether ``q`` has a log-density."""
        return type(q).log_prob is not Distribution.log_prob

    def rows(self, q: Distribution) -> int:
        """Return the number of draws, and the baseline's counterfactual rows."""
        return self.num_samples + (0 if self.baseline is None else self.baseline.counterfactual_rows)

    def draw(self, q: Distribution, sample_shape: torch.Size | None = None, shared: tuple[int, ...] = ()) -> Draw:
        """Draw without a gradient (see the base class)."""
        shape = self.shape(sample_shape)
        value = sample(q, shape, shared)
        counterfactual = None if self.baseline is None else self.baseline.counterfactual(q)
        if counterfactual is None:
            return self.recorded(q, value)
        if not shape:
            raise EstimatorError(
                f"{type(self.baseline).__name__} adds a counterfactual row, which joint trajectories "
                "(num_samples=K of expectation) have no place for; use LeaveOneOut() there"
            )
        real, value = value.shape[0], torch.cat([value, counterfactual])
        score = log_prob(q, value)
        weight = uniform_weight(value, q, score.dtype) * (value.shape[0] / real)
        weight[real:] = 0
        return Draw(value, weight, score, q)

    @staticmethod
    def recorded(q: Distribution, value: Tensor) -> Draw:
        """Return the draw of values that are known already: the actions of a simulator's record, say.

        Its :meth:`correction`, given costs, has the gradient of a policy, time being an axis of the batch.

        Parameters
        ----------
        q
            Distribution with batch shape ``[*batch]``, or ``[rows, *batch]``.
        value
            ``[rows, *batch, *event]``, drawn from it.

        Examples
        --------
        >>> from torch.distributions import Categorical
        >>> logits = torch.zeros(3, 2, requires_grad=True)  # of two actions at three steps
        >>> draw = ScoreFunction.recorded(Categorical(logits=logits), torch.tensor([[0, 1, 1]]))
        >>> ScoreFunction().correction(draw, cost=torch.tensor([[-1.0, 0.0, 2.0]])).sum().backward()
        >>> logits.grad  # (one-hot action - probabilities) * cost
        tensor([[-0.5000,  0.5000],
                [ 0.0000,  0.0000],
                [-1.0000,  1.0000]])
        """
        score = log_prob(q, value)
        return Draw(value, uniform_weight(value, q, score.dtype), score, q, equal_weights=True)

    def build(self, context_features: int, size: int, ancestor_features: int = 0) -> None:
        """Make the layers of baseline and critic (see the base class)."""
        if self.baseline is not None:
            self.baseline.build(context_features)
        if self.critic is not None:
            self.critic.build(context_features + ancestor_features)

    def correction(self, draw: Draw, cost: Tensor) -> Tensor:
        """Return ``(cost - baseline) * (log_prob - log_prob.detach())``, and the learned baseline's own loss."""
        assert draw.log_prob is not None  # draw() above always fills it
        cost = cost.detach()
        score = draw.log_prob - draw.log_prob.detach()
        if self.baseline is None:
            return cost * score
        baseline = self.baseline(draw, cost)
        correction = (cost - baseline.detach()) * score
        loss = self.baseline.loss(cost, baseline)
        return correction if loss is None else correction + (loss - loss.detach())

    @property
    def keeps_state(self) -> bool:
        """Whether the baseline learns from the costs, in training."""
        return self.baseline is not None and self.baseline.keeps_state and self.training

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Let the baseline see the costs (see the base class)."""
        if self.baseline is not None:
            self.baseline.update(cost, weight)
