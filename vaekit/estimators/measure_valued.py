"""Measure-valued (weak) derivatives: differences of costs at perturbed values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.discrete_support import log_prob, num_variables, replace_each_variable, unwrap_independent
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.node_sample import NodeSample, pad_auxiliary, uniform_weight
from vaekit.estimators.weak_derivatives import decomposition, num_changes


class MeasureValued(Estimator):
    r"""Difference of the costs under two densities, whose difference is the derivative of the node's density.

    .. math:: \nabla_\theta E_q[f(z)] = c_\theta\, (E_{q^+}[f(z)] - E_{q^-}[f(z)])

    One variable is perturbed at a time, with the others at their sampled values. ``q^+`` and ``q^-`` share their
    noise. If ``q^-`` equals ``q``, the sample itself is reused. With W Rayleigh and M double-sided Maxwell noise the
    pairs are ``m + s W`` and ``m - s W`` for a Normal location, ``m + s M`` and ``z`` for a Normal scale, ``z + 1`` and
    ``z`` for a Poisson rate, and the state and ``z`` for a discrete probability. For Gamma see ``weak_derivatives``.

    Shapes: values ``[num_samples * (1 + D * M), *batch, *event]``: the samples, then auxiliary samples with one of the
    D variables perturbed. Bias: none. Cost: one evaluation per value, with M = 3 for Normal, 4 for Gamma, 1 for Poisson
    and Bernoulli, K - 1 for K categories; no backward pass, so that the cost may be a step function. Nodes: these and
    ``Independent`` vectors of them.

    Heidergott and Vázquez-Abad (2000), Measure-Valued Differentiation for Stochastic Processes: The Finite Horizon
    Case; Rosca, Figurnov, Mohamed and Mnih (2019), Measure-Valued Derivatives for Approximate Bayesian Inference;
    Mohamed, Rosca, Figurnov and Mnih (2020), Monte Carlo Gradient Estimation in Machine Learning.

    Parameters
    ----------
    num_samples : int
        Number of independent samples, each with its own perturbed values.

    Raises
    ------
    EstimatorError
        If ``num_samples`` is less than 1.

    Examples
    --------
    The cost is a step, without a gradient:

    >>> import torch, vaekit
    >>> from torch.distributions import Normal
    >>> mean = torch.zeros((), requires_grad=True)
    >>> q = Normal(mean.expand(100_000), 1.0)
    >>> vaekit.expectation(lambda z: (z > 0).float(), q, vaekit.estimators.MeasureValued()).mean().backward()
    >>> round(mean.grad.item(), 2)  # exact: 1 / sqrt(2 pi) = 0.40
    0.4
    """

    supports_joint_samples = False
    common_random_numbers = True
    uses_auxiliary_samples = True
    lists_states = True
    handles_zero_probabilities = True

    @classmethod
    @override
    def supports(cls, q: Distribution) -> bool:
        return decomposition(unwrap_independent(q)[0]) is not None

    @override
    def num_evaluations(self, q: Distribution) -> int:
        return self.num_samples * (1 + num_variables(q) * num_changes(unwrap_independent(q)[0]))

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        base, decompose = unwrap_independent(q)[0], decomposition(unwrap_independent(q)[0])
        assert decompose is not None  # implied by supports()
        value, changed, slope = decompose(base, self.num_samples)
        flat = (*q.batch_shape, num_variables(q))
        value = value.reshape(*shape, *flat, *base.event_shape)
        changed = changed.reshape(len(changed), *value.shape)
        perturbed = replace_each_variable(value, changed, len(base.event_shape)).transpose(0, 1).flatten(0, 2)
        values = torch.cat([value, perturbed]).reshape(-1, *q.batch_shape, *q.event_shape)
        score = log_prob(q, values)
        weight = uniform_weight(values, q, score.dtype, auxiliary=len(perturbed))
        return NodeSample(values, weight, score, q, slope.reshape(*slope.shape[:2], *flat).movedim(-1, 1))

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        slope, (unperturbed, perturbed) = sample.noise, cost.detach().tensor_split([self.num_samples])
        parameters, variables = slope.shape[:2]
        perturbed = perturbed.reshape(num_changes(unwrap_independent(sample.q)[0]), variables, *unperturbed.shape)
        positive, negative = self._mask_impossible(sample, perturbed, unperturbed)[:parameters], perturbed[parameters:]
        # the samples are the negative part of the last parameters
        negative = torch.cat([negative, unperturbed.expand(parameters - len(negative), variables, *unperturbed.shape)])
        change = (slope * (positive - negative)).sum((0, 1))
        return pad_auxiliary(change, len(cost) - len(change))

    def _mask_impossible(self, sample: NodeSample, perturbed: Tensor, unperturbed: Tensor) -> Tensor:
        """Return the costs of perturbed values; the sample's cost replaces non-finite ones of impossible states."""
        base: Any = unwrap_independent(sample.q)[0]
        if not base.support.is_discrete:
            return perturbed
        assert sample.log_prob is not None  # always present in samples of this class
        before, after = sample.log_prob.detach().tensor_split([self.num_samples])
        ratio = (after.reshape(*perturbed.shape[:2], *before.shape) - before).exp()
        return torch.where((ratio > 0) | perturbed.isfinite(), perturbed, unperturbed)
