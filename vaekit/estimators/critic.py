"""Networks with one output: the critic, which predicts the cost-to-go, and their last layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from vaekit._core.components import Component
from vaekit.estimators.running_moments import RunningMoments


class Critic(Component, nn.Module):
    r"""Prediction of a node's cost-to-go before the node is sampled, from the context and the values of its ancestors.

    .. math:: V_k \approx E\Big[\sum_{t \in \text{terms that } k \text{ influences}} f_t \,\Big|\, x,
              z_{\text{ancestors of } k}\Big]

    The prediction is standardized by the running mean and deviation of earlier costs. With a vaekit network it starts
    at the moving average. The critic is trained by regression on the costs themselves, not on returns that contain
    predictions. Its loss is a zero-valued term of the expectation, so calling ``backward`` on the expectation trains
    it without a second loss.

    Sutton (1988), Learning to Predict by the Methods of Temporal Differences; Schulman, Moritz, Levine, Jordan and
    Abbeel (2016), High-Dimensional Continuous Control Using Generalized Advantage Estimation.

    Parameters
    ----------
    network : nn.Module
        Maps features ``[*samples, *batch, features]`` to ``[*samples, *batch, 1]`` or ``[*samples, *batch]``. The
        features are the context's, followed by the flattened values of the ancestors, in sampling order. In a model,
        the context is the encoder's features, and a ``vaekit.networks.MLP`` receives its sizes. A node without
        parents and context does not have features: then the prediction is the running mean, without the network.

    Examples
    --------
    In a chain of two coins, the second one shows heads more often after a head. The first one is credited with its
    own cost and, by half each, with the cost of the second one and with its prediction.

    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> from vaekit.estimators import Critic, ScoreFunction
    >>> logits = torch.zeros(100, requires_grad=True)
    >>> loss = vaekit.expectation(
    ...     {"first": lambda a: a, "second": lambda b: 2 * b},
    ...     {"a": Bernoulli(logits=logits), "b": lambda a: Bernoulli(logits=a)},
    ...     {name: ScoreFunction(critic=Critic(torch.nn.Linear(1, 1)), lam=0.5) for name in "ab"},
    ...     num_samples=4,
    ... )
    >>> loss.shape
    torch.Size([100])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.running = RunningMoments(0.9)
        self.head: nn.Module = nn.Identity()

    def build(self, features: int) -> None:
        """Create the layers of a vaekit network, with one output that is initially 0."""
        self.head = build_head(self.network, features)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """Return the prediction, ``[*samples, *batch]``, with the gradient of the network only."""
        mean, std = self.running.mean().to(features), self.running.std().to(features)
        if features.shape[-1] == 0:
            return mean.expand(features.shape[:-1])
        return mean + std * squeeze_output(self.head(self.network(features.detach())), features)

    def loss(self, cost: Tensor, prediction: Tensor) -> Tensor:
        """Return the squared error in units of the running standard deviation."""
        return ((cost - prediction) / self.running.std().to(cost)).square()

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Update the running moments with weighted costs ``[*samples, *batch]``."""
        self.running.update(cost, weight)


def build_head(network: nn.Module, features: int) -> nn.Module:
    """Create the layers of a vaekit network; return its last layer, with one output and zero weights."""
    build: Any = getattr(network, "build", None)
    if build is None:  # a complete network of the user
        return nn.Identity()
    head = nn.Linear(build(features), 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def squeeze_output(output: Tensor, features: Tensor) -> Tensor:
    """Remove the last dimension of an output ``[..., 1]``; an output ``[...]`` remains unchanged."""
    return output.squeeze(-1) if output.dim() == features.dim() else output
