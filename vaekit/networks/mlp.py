"""Multi-layer perceptron."""

from __future__ import annotations

from torch import Tensor, nn

from vaekit.exceptions import ConfigError
from vaekit.networks.dropout import Dropout
from vaekit.networks.network import Network


class MLP(Network):
    """Linear layers, each followed by layer normalization, an activation and dropout.

    Layer rather than batch normalization: statistics over the batch, downstream of a latent variable, would
    make one cell's cost depend on another's draw and bias every score-type estimator.

    Parameters
    ----------
    hidden
        Width of each layer; the last is the number of outputs.
    dropout
        Probability of dropping an activation in training.
    normalize
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
            raise ConfigError(f"MLP: hidden is {hidden}, it must hold one positive width a layer")
        if not 0 <= dropout < 1:
            raise ConfigError(f"MLP: dropout is {dropout}, it must lie in [0, 1)")
        self.hidden, self.dropout, self.normalize = list(hidden), dropout, normalize
        self.layers = nn.Sequential()

    def build(self, in_features: int) -> int:
        """Make the layers (see the base class)."""
        for width in self.hidden:
            self.layers.append(nn.Linear(in_features, width))
            if self.normalize:
                self.layers.append(nn.LayerNorm(width))
            self.layers.append(nn.ReLU())
            if self.dropout:
                self.layers.append(Dropout(self.dropout))
            in_features = width
        return in_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's activations."""
        return self.layers(x)
