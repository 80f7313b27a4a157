"""Multi-layer perceptron."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from vaekit.exceptions import ConfigError
from vaekit.networks.network import Network


class MLP(Network):
    """Linear layers, each followed by layer normalization, an activation and dropout.

    Layer normalization, not batch normalization: statistics of the batch after a latent would make the cost of one
    observation depend on the sample of another one, which biases every score-function estimator.

    Parameters
    ----------
    hidden : list of int
        Width of each layer. The last one is the number of outputs.
    dropout : float
        Probability of dropping an activation in training, in [0, 1).
    normalize : bool
        Whether to normalize over the features of each layer.

    Raises
    ------
    ConfigError
        If there is no layer, a width is not positive, or ``dropout`` is not in [0, 1).

    Examples
    --------
    >>> import torch
    >>> network = MLP([32, 16])
    >>> network.build(8)
    16
    >>> network(torch.zeros(5, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(self, hidden: list[int], dropout: float = 0.0, normalize: bool = True) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ConfigError(f"MLP: hidden={hidden} must contain one positive width per layer.")
        if not 0 <= dropout < 1:
            raise ConfigError(f"MLP: dropout={dropout} must be in [0, 1).")
        self.hidden, self.dropout, self.normalize = list(hidden), dropout, normalize
        self.layers = nn.Sequential()

    @override
    def build(self, in_features: int) -> int:
        for width in self.hidden:
            self.layers.append(nn.Linear(in_features, width))
            if self.normalize:
                self.layers.append(nn.LayerNorm(width))
            self.layers.append(nn.ReLU())
            if self.dropout:
                self.layers.append(nn.Dropout(self.dropout))
            in_features = width
        return in_features

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
