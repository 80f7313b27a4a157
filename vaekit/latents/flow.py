"""Latent variables whose posterior is a normalizing flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.distributions.normalizing_flow import NormalizingFlow
from vaekit.estimators import Estimator
from vaekit.latents.coupling_layers import Transform, check_coupling_layers, coupling_layers
from vaekit.latents.gaussian import MIN_SCALE, Gaussian
from vaekit.latents.positive import positive
from vaekit.latents.prior import Prior
from vaekit.networks.precision import at_least_float32


class Flow(Gaussian):
    r"""A vector whose posterior is a normalizing flow: normal noise after coupling layers T that depend on the data.

    .. math:: z = \mu(x) + \sigma(x)\, T(\epsilon; x), \qquad \epsilon \sim \mathcal{N}(0, I)

    The posterior may therefore be skewed and have dependent dimensions and several modes. Training starts from the
    posterior of :class:`~vaekit.latents.Gaussian`, and priors and parents are the same. The KL divergence has no closed
    form and is estimated at the samples. Embeddings contain the posterior means, which are averages over 256 fixed
    points of the noise, so that they do not depend on a seed.

    Parameters
    ----------
    dim : int
        Number of dimensions.
    transform : str
        Transform of each dimension in a coupling layer: ``"spline"`` for monotonic rational-quadratic splines with 8
        bins in [-5, 5], or ``"affine"``.
    num_layers : int
        Number of coupling layers. Each transforms one half of the dimensions given x, then the other half given x and
        the first half.
    prior : Prior or None
        Learned prior, without parents; not a :class:`~vaekit.latents.VampPrior`. None: the prior of ``Gaussian``.
    estimator : Estimator or "auto"
        Gradient estimator; ``"auto"`` is ``Pathwise()``.
    parents, conditional_posterior, decoded
        As in :class:`~vaekit.latents.Gaussian`.

    Raises
    ------
    ConfigError
        If ``transform`` is unknown, ``num_layers`` is below 1, or an argument is not valid for ``Gaussian``.
    MissingPackageError
        If zuko is not installed: ``pip install "vaekit[flows]"``.

    Notes
    -----
    Rezende and Mohamed (2015), Variational Inference with Normalizing Flows; Durkan, Bekasov, Murray and Papamakarios
    (2019), Neural Spline Flows; Rozet and others, zuko.

    Examples
    --------
    >>> import torch, vaekit
    >>> model = vaekit.MixedVAE(64, vaekit.likelihoods.Bernoulli(), latents={"z": Flow(4)})
    >>> q = model.posteriors(vaekit.Batch(torch.rand(8, 64)))["z"]
    >>> q.rsample().shape, q.mean.shape
    (torch.Size([8, 4]), torch.Size([8, 4]))
    """

    has_normal_posterior = False

    def __init__(
        self,
        dim: int,
        transform: Transform = "spline",
        num_layers: int = 4,
        prior: Prior | None = None,
        estimator: Estimator | Literal["auto"] = "auto",
        parents: Sequence[str] = (),
        conditional_posterior: bool | Sequence[str] | None = None,
        decoded: bool | None = None,
    ) -> None:
        super().__init__(dim, parents, estimator, conditional_posterior, decoded, prior)
        check_coupling_layers("Flow", transform, num_layers)
        self.transform, self.num_layers = transform, num_layers

    @override
    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        super().build_layers(in_features, parent_size)
        self.layers = coupling_layers(self.size, in_features, self.transform, self.num_layers)

    @override
    def posterior(self, h: Tensor) -> Distribution:
        loc, raw = self.head_outputs(h).chunk(2, -1)
        return NormalizingFlow(self.layers(at_least_float32(h)), loc, positive(raw, MIN_SCALE))
