"""A critic: what is still to be paid, as a network foresees it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vaekit._core.components import Component
from vaekit.estimators.running_moments import RunningMoments


class Critic(Component, nn.Module):
    r"""Predicts a node's cost-to-go before the node is drawn, from the context and the values of its ancestors.

    .. math:: V_k \approx E\Big[\sum_{t \in \text{terms that } k \text{ influences}} f_t \,\Big|\, x,
              z_{\text{ancestors of } k}\Big]

    The prediction is standardised by the running mean and deviation of earlier costs; a vaekit network's starts from
    the moving average. It is trained by regression on the costs themselves, not on returns that hold predictions, by a
    term of value 0 in the expectation: calling ``backward`` on the expectation trains it, with no second loss.

    Sutton (1988), Learning to Predict by the Methods of Temporal Differences; Schulman, Moritz, Levine, Jordan and
    Abbeel (2016), High-Dimensional Continuous Control Using Generalized Advantage Estimation.

    Parameters
    ----------
    network
        Module from ``[*rows, *batch, features]`` to ``[*rows, *batch, 1]`` or ``[*rows, *batch]``; the features are
        the context's, then those of the ancestors' values, flattened, in the order in which these are drawn. A
        ``vaekit.networks.MLP`` gets its sizes from the model that it becomes part of, where the context are the
        encoder's features. Where there are no features (a node without parents, no context) the prediction is the
        running mean, and the network is not used.

    Examples
    --------
    A chain of two coins, of which the second is heads more often after a head; the first is credited with what it
    costs itself and, by half, with what the second is foreseen to cost.

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
        """Make the layers of a vaekit network, and its last one with a single output, which is 0 at first."""
        build: Any = getattr(self.network, "build", None)
        if build is not None:
            self.head = nn.Linear(build(features), 1)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, seen: Tensor) -> Tensor:
        """Return the prediction, ``[*rows, *batch]``, from what it sees; it has the gradient of the network alone."""
        mean, scale = self.running.mean().to(seen), self.running.std().to(seen)
        if seen.shape[-1] == 0:
            return mean.expand(seen.shape[:-1])
        prediction = self.head(self.network(seen.detach()))
        if prediction.dim() == seen.dim() and prediction.shape[-1] == 1:
            prediction = prediction.squeeze(-1)
        return mean + scale * prediction

    def loss(self, cost: Tensor, prediction: Tensor) -> Tensor:
        """Return the squared error in units of the running deviation."""
        return ((cost - prediction) / self.running.std().to(cost)).square()

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Move the running mean and deviation towards costs ``[*rows, *batch]``, weighted."""
        self.running.update(cost, weight)
