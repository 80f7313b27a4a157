"""Normalizing flow as a prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.distributions.normalizing_flow import NormalizingFlow
from vaekit.latents.coupling_layers import Transform, check_coupling_layers, coupling_layers
from vaekit.latents.gaussian import MIN_SCALE
from vaekit.latents.positive import positive
from vaekit.latents.prior import Prior


class FlowPrior(Prior):
    r"""A normalizing flow: standard normal noise after learned coupling layers T, and a learned location and scale.

    .. math:: z = m + s\, T(\epsilon), \qquad \epsilon \sim \mathcal{N}(0, I)

    Training starts from a standard normal prior.

    Parameters
    ----------
    transform : str
        ``"spline"`` or ``"affine"``, as for :class:`~vaekit.latents.Flow`.
    num_layers : int
        Number of coupling layers.

    Raises
    ------
    ConfigError
        If ``transform`` is unknown, or ``num_layers`` is below 1.
    MissingPackageError
        If zuko is not installed: ``pip install "vaekit[flows]"``.

    Notes
    -----
    Dinh, Sohl-Dickstein and Bengio (2017), Density Estimation Using Real NVP; Durkan, Bekasov, Murray and Papamakarios
    (2019), Neural Spline Flows.

    Examples
    --------
    >>> import torch, vaekit
    >>> latent = vaekit.latents.Gaussian(2, prior=FlowPrior())
    >>> model = vaekit.MixedVAE(64, vaekit.likelihoods.Bernoulli(), latents={"z": latent})
    >>> p = model.networks.prior("z", {}, torch.zeros(()))
    >>> round(p.log_prob(torch.zeros(2)).item(), 2)  # at first that of a standard normal vector
    -1.84
    """

    def __init__(self, transform: Transform = "spline", num_layers: int = 4) -> None:
        super().__init__()
        check_coupling_layers("FlowPrior", transform, num_layers)
        self.transform, self.num_layers = transform, num_layers

    @override
    def build(self, dim: int) -> None:
        self.layers = coupling_layers(dim, 0, self.transform, self.num_layers)
        self.loc = nn.Parameter(torch.zeros(dim))
        self.raw_scale = nn.Parameter(torch.zeros(dim))

    @override
    def distribution(self, like: Tensor) -> Distribution:
        # training needs densities of values, so that the layers map values to noise
        return NormalizingFlow(self.layers().inv, self.loc, positive(self.raw_scale, MIN_SCALE))
