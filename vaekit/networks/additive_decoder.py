"""Additive decoder: one small network per unit."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from vaekit.exceptions import ConfigError
from vaekit.networks.network import Network

KNOT_RANGE = 2.0  # initial knots of a unit, in standard deviations of a standard normal prior


class Additive(Network):
    r"""Decoder with one small network per unit, whose contributions are added up.

    .. math:: \log \rho = \sum_u f_u(z_u) + V s + b - \log \sum_g \exp\Big(\sum_u f_u(z_u) + V s + b\Big)_g,
        \qquad f_u(z) = W_u\, [z,\, \mathrm{ReLU}(a_u z + c_u)]

    Each gene thus depends on each unit by its own curve, but no unit changes the effect of another one or of a
    covariate s. Units are dimensions, categories or topics. :func:`vaekit.analysis.loadings` lists the genes of both
    directions of a unit, which may differ, unlike those of :class:`vaekit.networks.Linear`.

    The curves are piecewise linear, with ``hidden`` knots that all genes share. The hidden layers of all units are one
    elementwise product, and their last layers together are the matrix of the likelihood's head. There is therefore no
    tensor of the size (observations, units, genes).

    Parameters
    ----------
    hidden : int
        Number of hidden features, and of knots, per unit.
    dropout : float
        Probability of dropping a hidden feature in training, in [0, 1).

    Raises
    ------
    ConfigError
        If ``hidden`` is not positive, or ``dropout`` is not in [0, 1).

    Notes
    -----
    Moinfar and Theis (2024), Unsupervised deep disentangled representation of single-cell omics (DRVI). DRVI adds the
    contributions up in log space or, by default, in count space (log-sum-exp), and its networks see the covariates.
    Sums in log space have one matrix product, keep batch effects out of the units, and contain the linear decoder.

    Examples
    --------
    >>> import torch
    >>> network = Additive(hidden=4)
    >>> network.build_decoder(units=3, covariates=2)  # 3 values, 3 x 4 hidden features, 2 covariates
    17
    >>> network(torch.zeros(5, 5)).shape
    torch.Size([5, 17])
    """

    is_additive: ClassVar[bool] = True

    def __init__(self, hidden: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        if hidden < 1:
            raise ConfigError(f"Additive: hidden={hidden} must be a positive number of features per unit.")
        if not 0 <= dropout < 1:
            raise ConfigError(f"Additive: dropout={dropout} must be in [0, 1).")
        self.hidden, self.dropout = hidden, dropout

    @override
    def build(self, in_features: int) -> int:
        return self.build_decoder(in_features, 0)

    @override
    def build_decoder(self, units: int, covariates: int) -> int:
        self.units = units
        direction = torch.ones(self.hidden)
        direction[1::2] = -1  # half of the features are 0 above their knot
        knots = torch.linspace(-KNOT_RANGE, KNOT_RANGE, self.hidden) if self.hidden > 1 else torch.zeros(1)
        self.slope = nn.Parameter(direction.repeat(units, 1))
        self.offset = nn.Parameter((-direction * knots).repeat(units, 1))
        return units * (1 + self.hidden) + covariates

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., units + units * hidden + covariates]``, the covariates unchanged."""
        z, covariates = x[..., : self.units], x[..., self.units :]
        features = F.relu(torch.addcmul(self.offset, z.unsqueeze(-1), self.slope)).flatten(-2)
        return torch.cat([z, F.dropout(features, self.dropout, self.training), covariates], -1)
