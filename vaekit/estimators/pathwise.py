"""Pathwise gradients, also called the reparameterization trick."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from typing_extensions import override

from vaekit.distributions.precise import implements
from vaekit.estimators.derivatives import likelihood_ratio
from vaekit.estimators.discrete_support import is_one_hot, unwrap_independent
from vaekit.estimators.estimator import Estimator, describe_distribution
from vaekit.estimators.func_transforms import in_transform
from vaekit.estimators.moving_support import support_moves
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import common_noise_shape
from vaekit.exceptions import EstimatorError


class Pathwise(Estimator):
    r"""Derivative through the value: ``z = g(theta, noise)``, explicitly or implicitly.

    .. math:: \nabla_\theta E_q[f_\theta(z)] = E[\nabla_z f_\theta(z)\, \nabla_\theta z + \nabla_\theta f_\theta(z)]

    ``stick_the_landing`` subtracts the score ``\nabla_\theta \log q_\theta(z)`` at the fixed value, whose mean is 0. It
    is meant for the negative ELBO with a Monte Carlo KL divergence, ``f = log q(z) - log p(x, z)``, where the score is
    exactly the gradient of ``log q`` by its parameters. The remaining gradient has no variance if q is the posterior.
    If ``log q`` has the weight ``beta``, ``beta - 1`` scores remain. A cost without ``log q(z)``, such as one with an
    analytic KL divergence, gains noise but no bias. In a bound that is not a plain expectation, such as the
    importance-weighted one, the mean of the subtracted term is not 0.

    Shapes: values ``[num_samples, *batch, *event]``. Bias: none if the cost is continuous in the value. Second
    derivatives also need a continuous gradient, and ``stick_the_landing`` a support that does not depend on the
    parameters. A cost without a gradient path to the value is an error. Cost: ``num_samples`` evaluations with a
    backward pass. Nodes: all with ``rsample`` (Normal, Laplace, Logistic, Student-t, Gamma, Beta, Dirichlet, VonMises,
    LogGamma, TruncatedNormal, mixtures, ...).

    Kingma and Welling (2014), Auto-Encoding Variational Bayes; Rezende, Mohamed and Wierstra (2014), Stochastic
    Backpropagation; Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients; Roeder, Wu and
    Duvenaud (2017), Sticking the Landing.

    Parameters
    ----------
    num_samples : int
        Number of independent samples.
    stick_the_landing : bool
        Whether to subtract the score.

    Raises
    ------
    EstimatorError
        If ``stick_the_landing`` is True and the distribution has no log-density or a support that moves.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Normal
    >>> mean = torch.ones((), requires_grad=True)
    >>> q = Normal(mean.expand(100_000), 1.0)
    >>> vaekit.expectation(lambda z: z**2, q, vaekit.estimators.Pathwise()).mean().backward()
    >>> round(mean.grad.item(), 1)  # exact: 2 mean
    2.0
    """

    requires_differentiable_cost = True
    higher_order = True
    supports_importance_weighting = True

    def __init__(self, num_samples: int = 1, stick_the_landing: bool = False) -> None:
        super().__init__(num_samples)
        self.stick_the_landing = stick_the_landing

    @property
    def suits_evaluation(self) -> bool:  # type: ignore[override]
        """Whether the samples have no correction."""
        return not self.stick_the_landing

    @property
    def has_correction(self) -> bool:  # type: ignore[override]
        """Whether the score is subtracted."""
        return self.stick_the_landing

    @classmethod
    @override
    def supports(cls, q: Distribution) -> bool:
        return bool(q.has_rsample) and not is_one_hot(q)  # torch's straight-through one-hot is biased

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        base = unwrap_independent(q)[0]
        if type(base) is Normal and (common_noise_dims or in_transform()):  # torch's own rsample fails inside vmap
            noise_shape = common_noise_shape(shape + base.loc.shape, common_noise_dims)
            value = base.loc + base.scale * torch.randn(noise_shape, dtype=base.loc.dtype, device=base.loc.device)
        else:
            value = q.rsample(shape)
        log_prob = _score_log_prob(q, value.detach()) if self.stick_the_landing else None
        return NodeSample(value, uniform_weight(value, q), log_prob, q)

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        if sample.log_prob is None:
            return super().correction(sample, cost)
        return -likelihood_ratio(sample.log_prob)  # its higher derivatives have mean 0 as well


def _score_log_prob(q: Distribution, value: Tensor) -> Tensor:
    """Return the log-density; raise an error if it does not exist, or the mean of its gradient is not 0."""
    if not implements(q, "log_prob"):
        raise EstimatorError(
            "Pathwise: stick_the_landing=True needs a log-density, and "
            f"{describe_distribution(q)} does not have one. Use Pathwise()."
        )
    if support_moves(q):
        raise EstimatorError(
            "Pathwise: stick_the_landing=True needs a support that does not depend on the parameters. The support of "
            f"{describe_distribution(q)} does, so the mean of the score is not 0. Use Pathwise()."
        )
    return q.log_prob(value)
