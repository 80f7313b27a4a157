"""Test of the unbiasedness of a gradient estimator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.diagnostics.gradients.moments import ROUNDING_FACTOR
from vaekit.diagnostics.gradients.reference import Reference


class BiasTest:
    """One-sided t-test of the second half of the estimates along the apparent bias of the first half.

    The direction of an unbiased estimator is noise and independent of the second half. The mean projection of the
    second half over its standard error then follows Student's t for any number of components. A bias makes it large.

    Parameters
    ----------
    mean : Tensor, shape (components,)
        Mean of the first half of the estimates.
    reference : Reference
        Gradient that they are compared with.
    """

    def __init__(self, mean: Tensor, reference: Reference) -> None:
        difference = mean - reference.first
        norm = difference.norm()
        fallback = torch.full_like(difference, 1 / math.sqrt(len(difference)))
        self.direction = difference / norm if norm > 0 else fallback
        self._reference = reference
        self._projections: list[Tensor] = []
        self._squared_norms = 0.0
        self._resolution = torch.finfo(torch.float64).eps

    def update(self, gradients: Tensor) -> None:
        """Add gradients of the second half, shape (count, components)."""
        self._projections.append(gradients @ self.direction.to(gradients.dtype))
        self._squared_norms += gradients.square().sum(dtype=torch.float64).item()
        self._resolution = torch.finfo(gradients.dtype).eps

    def compute(self) -> tuple[float, float]:
        """Return the statistic and its p-value, with Welch's degrees of freedom if the reference has an error."""
        from scipy import stats

        values = torch.cat(self._projections).double()
        count, num_blocks = len(values), 2
        error = values.var().item() / count if count > 1 else math.inf
        expected, reference_error = (self._reference.mean @ self.direction).item(), 0.0
        if self._reference.blocks is not None:
            blocks = self._reference.blocks.double() @ self.direction
            num_blocks = len(blocks)
            expected, reference_error = blocks.mean().item(), blocks.var().item() / num_blocks
        freedom = error**2 / (count - 1) + reference_error**2 / (num_blocks - 1)
        degrees = (error + reference_error) ** 2 / freedom if freedom > 0 else 1e6
        rounding = (ROUNDING_FACTOR * self._resolution) ** 2 * self._squared_norms / count
        z = (values.mean().item() - expected) / math.sqrt(error + reference_error + rounding + 1e-300)
        return z, float(stats.t.sf(z, degrees))
