"""Measure-valued (weak) derivatives: differences of costs at perturbed values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Poisson
from typing_extensions import override

from vaekit.estimators.discrete_support import log_prob, unwrap_independent
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.weak_derivatives import changes, decomposition


class MeasureValued(Estimator):
    r"""Write the derivative of a density as a difference of two densities, and compare the cost under both.

    .. math:: \nabla_\theta E_q[f(z)] = c_\theta\, (E_{q^+}[f(z)] - E_{q^-}[f(z)])

    Each variable is perturbed in turn, the others at their sampled values; ``q^+`` and ``q^-`` share their noise,
    and where ``q^-`` is ``q`` the draw itself serves. With W Rayleigh and M double-sided Maxwell noise they are for a
    Normal location ``m + s W`` and ``m - s W``, scale ``m + s M`` and ``z``; for a Poisson rate ``z + 1`` and ``z``;
    for Gamma see ``weak_derivatives``; for a discrete probability its state and ``z``, as in a local expectation.

    Shapes: values ``[num_samples * (1 + D * M), *batch, *event]``, the draws first with weight 1 / num_samples,
    then those of weight 0 with one of the D variables perturbed. Bias: none. Cost: as many evaluations, with
    M = 3 for Normal, 4 for Gamma, 1 for Poisson and Bernoulli, K - 1 for K categories; no backward pass, so that
    the cost may be a step function. Nodes: these and ``Independent`` vectors of them.

    Heidergott and Vázquez-Abad (2000), Measure-Valued Differentiation for Stochastic Processes: The Finite Horizon
    Case; Rosca, Figurnov, Mohamed and Mnih (2019), Measure-Valued Derivatives for Approximate Bayesian Inference;
    Mohamed, Rosca, Figurnov and Mnih (2020), Monte Carlo Gradient Estimation in Machine Learning.

    Parameters
    ----------
    num_samples
        Independent draws, each with its own perturbed values.

    Raises
    ------
    EstimatorError
        If ``num_samples`` is below 1.
    """

    supports_joint_samples = False
    common_random_numbers = True
    uses_auxiliary_samples = True
    lists_states = True
    handles_zero_probabilities = True

    @classmethod
    def supports(cls, q: Distribution) -> bool:
        """Tell whether a decomposition of the density of ``q`` is known."""
        return decomposition(unwrap_independent(q)[0]) is not None

    def num_evaluations(self, q: Distribution) -> int:
        """Return the number of draws and of perturbed values."""
        base, declared = unwrap_independent(q)
        variables = base.batch_shape[len(base.batch_shape) - declared :].numel()
        return self.num_samples * (1 + variables * changes(base))

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw values, and append those with one variable perturbed (see the base class)."""
        base, declared = unwrap_independent(q)
        rank = len(base.batch_shape) - declared
        batch, variables = base.batch_shape[:rank], base.batch_shape[rank:].numel()
        decompose = decomposition(base)
        assert decompose is not None  # fits() tells
        real, other, slope = decompose(base, self.num_samples)
        real = real.reshape(self.num_samples, *batch, variables, *base.event_shape)
        other = other.reshape(len(other), 1, *real.shape)  # [changes, 1, num_samples, *batch, variables, *base_event]
        own = torch.eye(variables, dtype=torch.bool, device=real.device)
        own = own.reshape(variables, *[1] * (1 + rank), variables, *[1] * len(base.event_shape))
        value = torch.cat([real, torch.where(own, other, real).flatten(0, 2)]).reshape(-1, *batch, *q.event_shape)
        score = log_prob(q, value)
        weight = uniform_weight(value, q, score.dtype) * (len(value) / self.num_samples)
        weight[self.num_samples :] = 0
        slope = slope.reshape(*slope.shape[:2], *batch, variables).movedim(-1, 1)
        return NodeSample(value, weight, score, q, slope)

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the differences of the costs times the parameters' slopes, in the rows of the draws."""
        slope, real, other = draw.noise, cost.detach()[: self.num_samples], cost.detach()[self.num_samples :]
        count, variables = slope.shape[:2]
        other = other.reshape(changes(unwrap_independent(draw.q)[0]), variables, *real.shape)
        positive, negative = self._possible(draw, other, real)[:count], other[count:]
        # the draws are the negative part of those parameters whose own does not follow
        negative = torch.cat([negative, real.expand(count - len(negative), variables, *real.shape)])
        change = (slope * (positive - negative)).sum((0, 1))
        return torch.cat([change, change.new_zeros(len(cost) - len(change), *change.shape[1:])])

    def _possible(self, draw: NodeSample, other: Tensor, real: Tensor) -> Tensor:
        """Return the costs of perturbed values; where a state of probability 0 has none, that of the draw."""
        base = unwrap_independent(draw.q)[0]
        if not (base.has_enumerate_support or isinstance(base, Poisson)):
            return other
        assert draw.log_prob is not None  # draw() above always fills it
        before, changed = draw.log_prob.detach()[: self.num_samples], draw.log_prob.detach()[self.num_samples :]
        ratio = (changed.reshape(*other.shape[:2], *before.shape) - before).exp()
        return torch.where((ratio > 0) | other.isfinite(), other, real)
