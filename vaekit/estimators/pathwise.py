"""Pathwise gradients, also called the reparameterization trick."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from typing_extensions import override

from vaekit.estimators.derivatives import likelihood_ratio
from vaekit.estimators.discrete_support import is_one_hot, unwrap_independent
from vaekit.estimators.estimator import Estimator, describe_distribution
from vaekit.estimators.func_transforms import in_transform
from vaekit.estimators.moving_support import support_moves
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import common_noise_shape
from vaekit.exceptions import EstimatorError


class Pathwise(Estimator):
    r"""Differentiate through the value: ``z = g(theta, noise)``, explicitly or implicitly.

    .. math:: \nabla_\theta E_q[f_\theta(z)] = E[\nabla_z f_\theta(z)\, \nabla_\theta z + \nabla_\theta f_\theta(z)]

    With ``stick_the_landing``, less the score ``\nabla_\theta \log q_\theta(z)`` at the value held fixed, whose
    mean is 0. It is meant for the negative evidence lower bound with a Monte Carlo divergence,
    ``f = log q(z) - log p(x, z)``, where the score is just what the last term holds: the gradient that is left has
    no variance where q is the posterior. Weigh ``log q`` by ``beta`` and ``beta - 1`` scores remain. A cost without
    ``log q(z)``, an analytic divergence included, gains a term of noise, not a bias; in a bound that is not a
    plain expectation, such as the importance-weighted one, the term's mean is not 0.

    Shapes: values ``[num_samples, *batch, *event]``. Bias: none, where the cost is continuous in the value (for second
    derivatives its gradient too; and,
    to stick the landing, the support of q does not depend on its parameters); a cost with no gradient path to it
    is an error. Cost: ``num_samples`` evaluations and their backward pass. Nodes: whatever has ``rsample`` (Normal,
    Laplace, Logistic, Student-t, Gamma, Beta, Dirichlet, VonMises, LogGamma, TruncatedNormal, mixtures, ...).

    Kingma and Welling (2014), Auto-Encoding Variational Bayes; Rezende, Mohamed and Wierstra (2014), Stochastic
    Backpropagation; Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients; Roeder, Wu and
    Duvenaud (2017), Sticking the Landing.

    Parameters
    ----------
    num_samples
        Independent draws.
    stick_the_landing
        Whether to take the score away.

    Raises
    ------
    EstimatorError
        If ``stick_the_landing`` is asked for and the distribution has no log-density, or one whose support moves.
    """

    requires_differentiable_cost = True
    higher_order = True
    supports_importance_weighting = True

    def __init__(self, num_samples: int = 1, stick_the_landing: bool = False) -> None:
        super().__init__(num_samples)
        self.stick_the_landing = stick_the_landing

    @classmethod
    def supports(cls, q: Distribution) -> bool:
        """Tell whether ``q`` can be drawn as a differentiable function of its parameters."""
        return bool(q.has_rsample) and not is_one_hot(q)  # torch's straight-through one-hot is biased

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw with a gradient (see the base class)."""
        shape, base = shape, unwrap_independent(q)[0]
        if type(base) is Normal and (common_noise_dims or in_transform()):  # torch's own rsample fails inside vmap
            noise = torch.randn(
                common_noise_shape(shape + base.loc.shape, common_noise_dims),
                dtype=base.loc.dtype,
                device=base.loc.device,
            )
            value = base.loc + base.scale * noise
        else:
            value = q.rsample(shape)
        log_prob = self._log_prob(q, value.detach()) if self.stick_the_landing else None
        return NodeSample(value, uniform_weight(value, q), log_prob, q)

    @property
    def suits_evaluation(self) -> bool:  # type: ignore[override]
        """Whether the samples have no correction."""
        return not self.stick_the_landing

    @property
    def has_correction(self) -> bool:
        """Whether the landing is stuck."""
        return self.stick_the_landing

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return minus the score to stick the landing, else nothing; its derivatives have the mean 0 as well."""
        if draw.log_prob is None:
            return super().correction(draw, cost)
        return -likelihood_ratio(draw.log_prob)

    @staticmethod
    def _log_prob(q: Distribution, value: Tensor) -> Tensor:
        """Return the log-density; raise if there is none, or the mean of its gradient is not 0."""
        if type(q).log_prob is Distribution.log_prob:
            raise EstimatorError(
                "Pathwise: stick_the_landing=True needs a log-density, and "
                f"{describe_distribution(q)} does not have one. Use Pathwise()."
            )
        if support_moves(q):
            raise EstimatorError(
                f"Pathwise(stick_the_landing=True) needs a support that does not depend on the parameters, and that of "
                f"{describe_distribution(q)} does: the mean of the score is not 0. Use Pathwise()"
            )
        return q.log_prob(value)
