"""Linear decoder."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from vaekit.networks.network import Network


class Linear(Network):
    r"""Network without layers: the heads that read it are linear in its input.

    As a decoder of counts, it makes the logarithm of the composition linear in the latents z and the covariates s,

    .. math:: \log \rho = W z + V s + b - \log \sum_g \exp(W z + V s + b)_g

    with one matrix W of units and genes, the loadings (:func:`vaekit.analysis.loadings`). A unit is a dimension, a
    category or a topic. The effects of batches and other covariates are linear, too. The size factor multiplies the
    composition afterwards, so no unit has to represent it.

    Notes
    -----
    A rotation of several Gaussian dimensions does not change the likelihood, as in factor analysis, so the loadings of
    single dimensions differ between seeds. Topics (:class:`vaekit.latents.Dirichlet`), activities
    (:class:`vaekit.latents.Gamma`) and categories are not rotated.

    Svensson, Gayoso, Yosef and Pachter (2020), Interpretable factor models of single-cell RNA-seq via variational
    autoencoders.

    Examples
    --------
    >>> import torch, vaekit
    >>> network = Linear()
    >>> network.build(8), network(torch.ones(1)).item()
    (8, 1.0)
    >>> from vaekit.latents import Gaussian
    >>> decoder, likelihood = Linear(), vaekit.likelihoods.NegativeBinomial()
    >>> model = vaekit.VAE(500, vaekit.networks.MLP([32]), {"z": Gaussian(10)}, decoder, likelihood)
    >>> model.networks.likelihood.composition.weight.shape
    torch.Size([500, 10])
    """

    is_additive: ClassVar[bool] = True

    @override
    def build(self, in_features: int) -> int:
        return in_features

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x
