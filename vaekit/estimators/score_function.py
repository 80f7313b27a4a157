"""Score-function gradients, also called REINFORCE or the likelihood-ratio method."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.baselines import Baseline
from vaekit.estimators.critic import Critic
from vaekit.estimators.derivatives import learning_term, likelihood_ratio
from vaekit.estimators.discrete_support import sample_discrete
from vaekit.estimators.estimator import Estimator, NodeSample
from vaekit.estimators.fixed_values import sample_from_values
from vaekit.estimators.moving_support import support_moves
from vaekit.exceptions import EstimatorError


class ScoreFunction(Estimator):
    r"""Weigh the score of each value by its cost, less a baseline that does not depend on that value.

    .. math:: \nabla_\theta E_q[f(z)] = E[(f(z) - b)\, \nabla_\theta \log q_\theta(z)]

    Shapes: values ``[num_samples, *batch, *event]``; one more row of weight 0 with ``SelfCritic``. Bias: none, if the
    support of q does not depend on parameters that require a gradient; other nodes are rejected. Cost: ``num_samples``
    evaluations (one more with ``SelfCritic``) and no backward pass through the cost for the gradient of this node, so
    that the cost may be a step function, NumPy or a simulator. Nodes: all with a log-density.

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

    higher_order = True

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
    def supports(cls, q: Distribution) -> bool:
        """Tell whether ``q`` has a log-density, on a support that does not depend on parameters."""
        return type(q).log_prob is not Distribution.log_prob and not support_moves(q)

    def num_evaluations(self, q: Distribution) -> int:
        """Return the number of draws, and the baseline's counterfactual rows."""
        return self.num_samples + (0 if self.baseline is None else self.baseline.num_auxiliary_samples)

    def sample(
        self, q: Distribution, sample_shape: torch.Size | None = None, common_noise_dims: tuple[int, ...] = ()
    ) -> NodeSample:
        """Draw without a gradient (see the base class)."""
        shape = self.shape(sample_shape)
        draw = sample_from_values(q, sample_discrete(q, shape, common_noise_dims))
        return draw if self.baseline is None else self.baseline.add_auxiliary_samples(draw, joint=not shape)

    def build(self, context_features: int, size: int, ancestor_features: int = 0) -> None:
        """Make the layers of baseline and critic (see the base class)."""
        if self.baseline is not None:
            self.baseline.build(context_features)
        if self.critic is not None:
            self.critic.build(context_features + ancestor_features)

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the cost less the baseline, times the likelihood ratio, and the learned baseline's own loss."""
        assert draw.log_prob is not None  # draw() above always fills it
        ratio = likelihood_ratio(draw.log_prob)
        if self.baseline is None:
            return cost * ratio
        seen = cost.detach()
        baseline = self.baseline(draw, seen)
        correction = (cost - baseline.detach()) * ratio
        loss = self.baseline.loss(seen, baseline) if self.baseline.training else None
        return correction if loss is None else correction + learning_term(loss, self.follows_scale)

    @property
    def is_stateful(self) -> bool:
        """Whether the baseline learns from the costs, in training."""
        return self.baseline is not None and self.baseline.is_stateful and self.baseline.training

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Let the baseline see the costs (see the base class)."""
        if self.baseline is not None:
            self.baseline.update(cost, weight)
