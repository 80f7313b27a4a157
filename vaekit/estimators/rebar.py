"""REBAR: the score function with a relaxation of the cost as its control variate."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from vaekit.estimators.conditional_noise import ConditionalEstimator
from vaekit.estimators.node_sample import NodeSample


class REBAR(ConditionalEstimator):
    r"""Score function with the cost of a relaxed value as control variate, made unbiased by conditioning.

    .. math:: (f(b) - \eta f(\tilde y))\, \nabla \log q(b) + \eta \nabla f(y) - \eta \nabla f(\tilde y), \quad
              y = \sigma(z / \tau), \quad \tilde y = \sigma(\tilde z / \tau), \quad \tilde z \sim p(z | b)

    (a softmax for categorical variables). Scale and temperature are learned: they follow the gradient of the
    estimate's variance, which takes second derivatives of the cost.

    Shapes: values ``[3 num_samples, *batch, *event]``: the discrete ones, then the relaxed ones as auxiliary samples.
    Bias: none. Cost: ``3 num_samples`` evaluations, two thirds of them at relaxed values, and two backward passes
    through the cost (three if scale and temperature are learned). Nodes: Bernoulli, OneHotCategorical, and
    ``Independent`` vectors of them.

    Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), REBAR: Low-Variance, Unbiased Gradient Estimates for
    Discrete Latent Variable Models.

    Parameters
    ----------
    temperature : float
        Initial temperature of the relaxation, positive.
    scale : float
        Initial value of eta.
    learnable : bool
        Whether both are learned.
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
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, vaekit.estimators.REBAR()).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.08
    """

    requires_differentiable_cost = True

    def __init__(
        self, temperature: float = 0.5, scale: float = 1.0, learnable: bool = True, num_samples: int = 1
    ) -> None:
        super().__init__(temperature, scale, learnable, num_samples)

    @override
    def scheduled_values(self) -> dict[str, Tensor]:
        return {"temperature": self.temperature}

    @override
    def control_variate(self, sample: NodeSample, relaxed_cost: Tensor) -> Tensor:
        return self.scale.to(relaxed_cost.dtype) * relaxed_cost
