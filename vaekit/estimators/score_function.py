"""Score-function gradients, also called REINFORCE or the likelihood-ratio method."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily
from typing_extensions import override

from vaekit.distributions.precise import implements
from vaekit.estimators.baselines import Baseline, resolve_num_samples
from vaekit.estimators.critic import Critic
from vaekit.estimators.derivatives import learning_term, likelihood_ratio
from vaekit.estimators.discrete_support import sample_discrete, unwrap_independent
from vaekit.estimators.estimator import Estimator, describe_distribution
from vaekit.estimators.moving_support import support_moves
from vaekit.estimators.node_sample import NodeSample, sample_from_values
from vaekit.exceptions import EstimatorError


class ScoreFunction(Estimator):
    r"""Score of each value, weighted by its cost minus a baseline that does not depend on this value.

    .. math:: \nabla_\theta E_q[f(z)] = E[(f(z) - b)\, \nabla_\theta \log q_\theta(z)]

    Shapes: values ``[num_samples, *batch, *event]``, plus one auxiliary sample with ``SelfCritic``. Bias: none if the
    support of q does not depend on parameters that require a gradient; other nodes raise an error. Cost: one
    evaluation per sample and no backward pass through the cost for the gradient of this node, so that the cost may be
    a step function, NumPy or a simulator. Nodes: all with a log-density.

    Williams (1992), Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning;
    Ranganath, Gerrish and Blei (2014), Black Box Variational Inference.

    Parameters
    ----------
    num_samples : int or None
        Number of independent samples. None is 1, or 2 if the baseline compares samples (``LeaveOneOut``).
    baseline : Baseline or None
        Baseline that is subtracted from the cost: ``MovingAverage``, ``LeaveOneOut``, ``LearnedBaseline`` or
        ``SelfCritic``. None subtracts nothing.
    critic : Critic or None
        Network that predicts the cost-to-go of this node. The prediction is subtracted before the baseline. Earlier
        nodes that have a critic use the prediction, with the weight ``1 - lam``, in place of the observed cost-to-go.
    lam : float
        lambda, in 0..1. At 1 the gradient is unbiased for any critic. Below 1, the gradients of earlier nodes with a
        critic have less variance, and a bias that grows with the error of this node's critic.

    Raises
    ------
    EstimatorError
        If ``num_samples`` is less than the baseline needs, or ``lam`` is outside 0..1 or below 1 without a critic.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, vaekit.estimators.ScoreFunction(2)).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.08
    """

    higher_order = True
    short_names = ("reinforce",)

    def __init__(
        self,
        num_samples: int | None = None,
        baseline: Baseline | None = None,
        critic: Critic | None = None,
        lam: float = 1.0,
    ) -> None:
        super().__init__(resolve_num_samples("ScoreFunction", num_samples, baseline))
        if not 0 <= lam <= 1:
            raise EstimatorError(f"ScoreFunction: lam={lam} must be in [0, 1].")
        if critic is None and lam != 1:
            raise EstimatorError(f"ScoreFunction: lam={lam} must be 1 without a critic. Add critic=Critic(...).")
        self.baseline, self.critic, self.lam = baseline, critic, lam

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        """Whether the weight of the critic's prediction is 0."""
        return self.lam == 1

    @property
    def supports_joint_samples(self) -> bool:  # type: ignore[override]
        """Whether the baseline does not need auxiliary samples."""
        return self.baseline is None or not self.baseline.num_auxiliary_samples

    @property
    def supports_importance_weighting(self) -> bool:  # type: ignore[override]
        """Whether the estimator is plain, or has the baseline of VIMCO."""
        return self.critic is None and (self.baseline is None or self.baseline.supports_importance_weighting)

    @classmethod
    @override
    def supports(cls, q: Distribution) -> bool:
        return implements(q, "log_prob") and not support_moves(q)

    @override
    def explain_unsupported(self, q: Distribution) -> str:
        if not support_moves(q):
            return super().explain_unsupported(q)
        remedy = "Use Pathwise() and a cost with a gradient path to the value"
        if isinstance(unwrap_independent(q)[0], MixtureSameFamily):
            remedy = "Make the component a separate node, with a node of Pathwise() that depends on it"
        elif not q.has_rsample:
            remedy = "Apply the transform within the cost"
        return (
            "ScoreFunction needs a support that does not depend on the parameters. The support of "
            f"{describe_distribution(q)} moves with them, so the gradient would miss the density that crosses its "
            f"ends. {remedy}, or detach the parameters of the support."
        )

    @override
    def num_evaluations(self, q: Distribution) -> int:
        return self.num_samples + (0 if self.baseline is None else self.baseline.num_auxiliary_samples)

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        sample = sample_from_values(q, sample_discrete(q, shape, common_noise_dims))
        return sample if self.baseline is None else self.baseline.add_auxiliary_samples(sample)

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        assert sample.log_prob is not None  # always present in samples of this class
        ratio = likelihood_ratio(sample.log_prob)
        if self.baseline is None:
            return cost * ratio
        detached = cost.detach()
        baseline = self.baseline(sample, detached)
        correction = (cost - baseline.detach()) * ratio
        loss = self.baseline.loss(detached, baseline) if self.baseline.training else None
        return correction if loss is None else correction + learning_term(loss, self.follows_scale)
