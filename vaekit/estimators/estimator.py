"""Base class of the gradient estimators: sample values at a node, then correct their gradient.

With ``q`` the distribution of a node, ``S`` its number of samples and ``*batch`` the batch shape of ``q``::

    sample(q)                -> NodeSample  values [S, *batch, *event] and weights that sum to 1 over the samples
    correction(sample, cost) -> Tensor      [S, *batch], forward value 0

The gradient of ``(weight * (cost + correction)).sum(0)`` is the estimate of the gradient of E_q[cost].
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit.distributions.precise import precise
from vaekit.estimators.baselines import Baseline
from vaekit.estimators.critic import Critic
from vaekit.estimators.node_sample import NodeSample
from vaekit.exceptions import EstimatorError


class Estimator(Component, nn.Module, ABC):
    """Estimator of the gradient of an expectation with respect to the parameters of one node's distribution.

    A subclass implements :meth:`supports` and :meth:`_sample`, and :meth:`correction` if the samples do not carry the
    whole gradient. Both are free of side effects; :meth:`update` learns from the costs.

    Parameters
    ----------
    num_samples : int
        Number of independent samples.

    Attributes
    ----------
    baseline : Baseline or None
        Baseline that is subtracted from the cost.
    critic : Critic or None
        Network that predicts the cost-to-go of the node.
    lam : float
        Weight of the observed cost-to-go; the critic's prediction has the weight ``1 - lam``.
    requires_differentiable_cost : bool
        Whether the gradient flows through the value, so that a cost without a gradient path to it is an error.
    unbiased : bool
        Whether the gradient is unbiased for every cost that the estimator accepts.
    unbiased_value : bool
        Whether the expected forward value is the true expectation. Relaxed values do not have this property.
    is_deterministic : bool
        Whether the estimator sums over all states instead of sampling.
    supports_joint_samples : bool
        Whether the estimator can draw one value for each joint sample (``num_samples=K`` of ``expectation``).
    supports_importance_weighting : bool
        Whether the importance-weighted bound has a gradient estimate of this kind.
    suits_evaluation : bool
        Whether the estimator also serves for evaluation without gradients. If not, plain samples replace it there.
    common_random_numbers : bool
        Whether the gradient is a difference between samples. Deeper nodes then share their noise between these.
    uses_auxiliary_samples : bool
        Whether the gradient uses the costs of samples of weight 0, so that non-finite ones reach it.
    lists_states : bool
        Whether the samples are listed states, which may have probability 0.
    handles_zero_probabilities : bool
        Whether the estimate has a derivative with respect to probabilities of exactly 0 without auxiliary samples.
    stick_the_landing : bool
        Whether the estimator subtracts the score from a cost that contains log q (see ``Pathwise``).
    has_correction : bool
        Whether :meth:`correction` has a gradient. If not, it is never called.
    higher_order : bool
        Whether derivatives of the gradient are correct, too. If not, they raise an error.
    differentiates_cost : bool
        Whether the correction calls ``torch.autograd.grad`` on the cost within the step.
    evaluations_per_sample : int
        Number of cost evaluations per sample.
    follows_scale : bool
        Whether the gradient of learned parts scales with the loss that contains the expectation. Trainers that scale
        gradients back, such as ``torch.amp.GradScaler``, need this. If not, no factor of the caller reaches them.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> estimator = vaekit.estimators.DisARM(num_pairs=2)
    >>> estimator.supports(Bernoulli(logits=torch.zeros(3))), estimator.unbiased
    (True, True)
    >>> sample = estimator.sample(Bernoulli(logits=torch.zeros(3)))
    >>> sample.value.shape, estimator.correction(sample, sample.value).detach().sum().item()
    (torch.Size([4, 3]), 0.0)
    """

    requires_differentiable_cost: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    unbiased_value: ClassVar[bool] = True
    is_deterministic: ClassVar[bool] = False
    supports_joint_samples: ClassVar[bool] = True
    supports_importance_weighting: ClassVar[bool] = False
    suits_evaluation: ClassVar[bool] = False
    common_random_numbers: ClassVar[bool] = False
    uses_auxiliary_samples: ClassVar[bool] = False
    lists_states: ClassVar[bool] = False
    handles_zero_probabilities: ClassVar[bool] = False
    stick_the_landing: bool = False
    has_correction: bool = True
    higher_order: bool = False
    differentiates_cost: ClassVar[bool] = False
    evaluations_per_sample: int = 1
    follows_scale: bool = False

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__()
        if num_samples < 1:
            raise EstimatorError(f"{type(self).__name__}: num_samples={num_samples} must be at least 1.")
        self.num_samples = num_samples
        # not class attributes, which would hide the submodules of these names
        self.baseline: Baseline | None = None
        self.critic: Critic | None = None
        self.lam = 1.0

    @classmethod
    @abstractmethod
    def supports(cls, q: Distribution) -> bool:
        """Return whether this estimator supports nodes with the distribution ``q``."""

    def explain_unsupported(self, q: Distribution) -> str:
        """Return the sentence that explains why ``q`` is not supported."""
        return f"{type(self).__name__} does not support {describe_distribution(q)}."

    def num_evaluations(self, q: Distribution) -> int:
        """Return the number of cost evaluations per entry of the batch, auxiliary samples included."""
        return self.evaluations_per_sample * self.num_samples

    def check_budget(self, num_evaluations: int, subject: str) -> None:
        """Raise an error if the evaluations of ``subject``, several nodes together, exceed the estimator's budget."""

    def sample(
        self, q: Distribution, sample_shape: torch.Size | None = None, common_noise_dims: tuple[int, ...] = ()
    ) -> NodeSample:
        """Sample values from ``q``, in at least float32, also under autocast.

        Parameters
        ----------
        q : Distribution, batch shape (*batch)
            Distribution of the node.
        sample_shape : torch.Size or None
            None samples ``[num_samples]`` values. The empty shape samples one value for each joint sample, which is
            a dimension of ``q`` already.
        common_noise_dims : tuple of int
            Dimensions of the value along which the noise is common, if the estimator supports that. They are the
            sample dimensions of earlier nodes that compare their costs, which lowers the variance of the difference.
        """
        if sample_shape is not None and not self.supports_joint_samples:
            raise EstimatorError(
                f"{self.description} does not support joint samples. Leave num_samples of the expectation at None, or "
                "use ScoreFunction(baseline=LeaveOneOut())."
            )
        q, shape = precise(q), torch.Size([self.num_samples]) if sample_shape is None else sample_shape
        devices = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
        if not devices:
            return self._sample(q, shape, common_noise_dims)
        with contextlib.ExitStack() as stack:
            for device in devices:
                stack.enter_context(torch.autocast(device, enabled=False))
            return self._sample(q, shape, common_noise_dims)

    @abstractmethod
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Sample ``shape`` values without checks and conversions; see :meth:`sample`."""

    def build(self, context_features: int, size: int, ancestor_features: int = 0) -> None:
        """Create the layers of learned parts once a model knows their sizes.

        Parameters
        ----------
        context_features : int
            Width of the context.
        size : int
            Number of elements of the node's flattened event.
        ancestor_features : int
            Number of elements of the flattened events of all nodes that the distribution depends on.
        """
        if self.baseline is not None:
            self.baseline.build(context_features)
        if self.critic is not None:
            self.critic.build(context_features + ancestor_features)

    def update_schedule(self, progress: float) -> None:
        """Update schedules to the progress of training, in 0..1."""

    def scheduled_values(self) -> dict[str, Tensor]:
        """Return hyperparameters that change during training, by name. The default is empty."""
        return {}

    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        """Return a zero-valued term with the gradient that does not flow through the samples. The default is zero.

        Parameters
        ----------
        sample : NodeSample
            The result of :meth:`sample`.
        cost : Tensor, shape (samples, *batch)
            Its value is the cost that this node can influence, its gradient that of the whole remaining graph.
        """
        return cost.new_zeros(())

    @property
    def is_stateful(self) -> bool:
        """Whether :meth:`update` changes anything: the baseline learns from the costs in training."""
        return self.baseline is not None and self.baseline.is_stateful and self.baseline.training

    @property
    def learns_from_costs(self) -> bool:
        """Whether the baseline or the critic learns from the costs of a step."""
        return self.is_stateful or (self.critic is not None and self.critic.training)

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Update learned parts with the costs of a step, after all corrections are computed.

        Parameters
        ----------
        cost : Tensor, shape (*samples, *batch)
            The cost that entered :meth:`correction`.
        weight : Tensor, broadcastable to ``cost``
            Product of the sample weights of this node and of those before it.
        """
        if self.baseline is not None:
            self.baseline.update(cost, weight)

    @property
    def description(self) -> str:
        """The class with its baseline and critic, such as ``ScoreFunction(baseline=LeaveOneOut())``."""
        parts = {"baseline": self.baseline, "critic": self.critic}
        inside = ", ".join(f"{name}={type(part).__name__}()" for name, part in parts.items() if part is not None)
        return f"{type(self).__name__}({inside})"


def describe_distribution(q: Distribution) -> str:
    """Return the class name of a distribution and of the distributions inside it.

    Examples
    --------
    >>> from torch.distributions import Independent, Normal
    >>> describe_distribution(Independent(Normal(torch.zeros(3), torch.ones(3)), 1))
    'Independent(Normal)'
    """
    base = getattr(q, "base_dist", None)
    return f"{type(q).__name__}({describe_distribution(base)})" if base is not None else type(q).__name__
