"""Normal noise after an invertible transform."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from typing_extensions import override

NUM_POINTS = 256  # of the noise, for mean and variance
POINTS_AT_ONCE = 8


class NormalizingFlow(Distribution):
    r"""The distribution of ``z = loc + scale * T(noise)`` with standard normal noise and an invertible transform T.

    .. math:: \log q(z) = \log \mathcal{N}(\epsilon; 0, I) - \log |\det T'(\epsilon)| - \sum_d \log s_d

    The log-density of its own sample is known from the sampling; that of any other value needs the inverse of T. Both
    have the derivatives of the formula. Mean and variance have no formula. They are averages over 256 fixed points of
    the noise, a randomized quasi-Monte Carlo rule with mirrored points. The computation is in at least float32, also
    under autocast.

    Parameters
    ----------
    transform : Transform
        T, a transform of vectors in the interface of zuko (``call_and_ladj``).
    loc, scale : Tensor, shape (*batch, D)
        Location and scale.

    Notes
    -----
    Rezende and Mohamed (2015), Variational Inference with Normalizing Flows; Owen (1995), Randomly Permuted
    (t,m,s)-Nets and (t,s)-Sequences.
    """

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, transform: Any, loc: Tensor, scale: Tensor) -> None:
        self.transform, self.loc, self.scale = transform, loc, scale
        self._drawn: tuple[Tensor, Tensor] | None = None  # the last sample and its log-density
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @override
    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalizingFlow:
        new = self._get_checked_instance(NormalizingFlow, _instance)
        shape = torch.Size(batch_shape) + self.event_shape
        NormalizingFlow.__init__(new, self.transform, self.loc.expand(shape), self.scale.expand(shape))
        return new

    @override
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        with torch.autocast(self.loc.device.type, enabled=False):
            standardized, log_det = self.transform.call_and_ladj(noise)
        value = self.loc + self.scale * standardized
        self._drawn = value, self._log_density(noise, log_det)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density ``[*sample, *batch]`` of values ``[*sample, *batch, D]``."""
        # without a gradient path through the value, its noise moves with the parameters
        is_same_function = value.requires_grad or not torch.is_grad_enabled()
        if self._drawn is not None and value is self._drawn[0] and is_same_function:
            return self._drawn[1]
        with torch.autocast(self.loc.device.type, enabled=False):
            noise, log_det = self.transform.inv.call_and_ladj((value - self.loc) / self.scale)
        return self._log_density(noise, -log_det)

    def _log_density(self, noise: Tensor, log_det: Tensor) -> Tensor:
        """Return the log-density of the image of the noise, for the log-determinant of T there."""
        log_normal = -(noise.square() / 2 + math.log(2 * math.pi) / 2 + self.scale.log()).sum(-1)
        return log_normal - log_det

    @property
    def mean(self) -> Tensor:
        """Mean of each dimension, by the fixed points."""
        return self.loc + self.scale * self._standardized_moments()[0]

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, by the fixed points."""
        first, second = self._standardized_moments()
        return self.scale.square() * (second - first.square())

    def _standardized_moments(self) -> Tensor:
        """Return the means of T and of its square over the fixed points, ``[2, *batch, D]``."""
        total = self.loc.new_zeros(2, *self._extended_shape())
        with torch.autocast(self.loc.device.type, enabled=False):
            for points in _noise_points(self.event_shape[0]).to(self.loc).split(POINTS_AT_ONCE):
                noise = points.reshape(len(points), *[1] * len(self.batch_shape), -1)
                image = self.transform(noise.expand(len(points), *self._extended_shape()))
                total = total + torch.stack([image, image.square()]).sum(1)
        return total / NUM_POINTS


@functools.lru_cache(maxsize=16)
def _noise_points(dim: int) -> Tensor:
    """Return points with a standard normal distribution, float64 ``[NUM_POINTS, dim]``, each with its mirror image."""
    uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0).draw(NUM_POINTS // 2, dtype=torch.float64)
    half = torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6))
    return torch.cat([half, -half])
