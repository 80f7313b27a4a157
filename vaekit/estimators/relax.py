"""RELAX: the score function with a learned control variate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from vaekit.estimators.conditional_noise import ConditionalEstimator
from vaekit.estimators.critic import build_head, squeeze_output
from vaekit.estimators.node_sample import NodeSample

MAX_LOGIT = 20.0  # clamp of the network's input: an impossible category has a perturbed logit of -inf


class RELAX(ConditionalEstimator):
    r"""Score function with a network as control variate, trained to minimize the variance of the gradient.

    .. math:: (f(b) - c(\tilde z))\, \nabla \log q(b) + \nabla c(z) - \nabla c(\tilde z), \quad
              c(z) = \eta f(\sigma(z / \tau)) + r(z), \quad z \sim p(z), \quad \tilde z \sim p(z | b)

    with a network r of the noise behind the value, and of the context if there is one. Without a temperature c = r
    alone. The cost may then be a step function, NumPy or a simulator.

    Shapes: values ``[3 num_samples, *batch, *event]``: the discrete ones, then the relaxed ones as auxiliary samples;
    without a temperature ``[num_samples, ...]``. Bias: none. Cost: ``3 num_samples`` evaluations, two thirds of them at
    relaxed values, and three backward passes through the cost; without a temperature ``num_samples`` evaluations and no
    backward pass. Nodes: Bernoulli, OneHotCategorical, and ``Independent`` vectors of them.

    Grathwohl, Choi, Wu, Roeder and Duvenaud (2018), Backpropagation through the Void: Optimizing Control Variates for
    Black-Box Gradient Estimation.

    Parameters
    ----------
    control_variate : nn.Module
        Maps the flattened noise, followed by the context, ``[..., size (+ features)]``, to ``[..., 1]`` or ``[...]``.
        In a model, a ``vaekit.networks.MLP`` receives its sizes.
    temperature : float or None
        Initial temperature of the relaxation, positive. None uses the network alone.
    scale : float
        Initial value of eta.
    num_samples : int
        Number of independent samples.

    Raises
    ------
    EstimatorError
        If the temperature is not positive.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> network = torch.nn.Linear(1, 1)
    >>> estimator = vaekit.estimators.RELAX(network)
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, estimator).mean().backward()
    >>> round(logit.grad.item(), 2), network.weight.grad is not None  # the same backward pass trains the network
    (0.08, True)
    """

    def __init__(
        self,
        control_variate: nn.Module,
        temperature: float | None = 0.5,
        scale: float = 1.0,
        num_samples: int = 1,
    ) -> None:
        super().__init__(temperature, scale, True, num_samples)
        self.control_variate_network = control_variate
        self.head: nn.Module = nn.Identity()

    @property
    def requires_differentiable_cost(self) -> bool:  # type: ignore[override]
        """Whether the control variate contains the relaxed cost, which must then be differentiable."""
        return self._relaxes

    @override
    def build(self, context_features: int, size: int, ancestor_features: int = 0) -> None:
        # the last layer is initially 0, so training starts as REBAR
        self.head = build_head(self.control_variate_network, size + context_features)

    @override
    def control_variate(self, sample: NodeSample, relaxed_cost: Tensor) -> Tensor:
        event_dim = len(sample.q.event_shape)
        perturbed = torch.cat([sample.noise.perturbed, sample.noise.conditional]).clamp(-MAX_LOGIT, MAX_LOGIT)
        inputs = perturbed.flatten(-event_dim) if event_dim else perturbed[..., None]
        if sample.context is not None:
            context = sample.context.detach()
            leading = torch.broadcast_shapes(inputs.shape[:-1], context.shape[:-1])
            inputs = torch.cat([part.expand(*leading, part.shape[-1]) for part in (inputs, context)], -1)
        value = squeeze_output(self.head(self.control_variate_network(inputs)), inputs)
        return value + self.scale.to(value.dtype) * relaxed_cost if self._relaxes else value
