"""Pathwise gradients, also called the reparameterization trick."""

from __future__ import annotations

import torch
from torch.distributions import Distribution

from vaekit.estimators.base import Draw, Estimator, uniform_weight
from vaekit.estimators.discrete import is_one_hot


class Pathwise(Estimator):
    r"""Differentiate through the value: ``z = g(theta, noise)``, explicitly or implicitly.

    .. math:: \nabla_\theta E_q[f(z)] = E[\nabla_z f(z)\, \nabla_\theta z]

    Shapes: values ``[num_samples, *batch, *event]``. Bias: none, where the cost is continuous in the value;
    a cost with no gradient path to it is an error. Cost: ``num_samples`` evaluations and their backward pass.
    Nodes: whatever has ``rsample`` (Normal, Laplace, Logistic, Student-t, Gamma, Beta, Dirichlet, ...).

    Kingma and Welling (2014), Auto-Encoding Variational Bayes; Rezende, Mohamed and Wierstra (2014), Stochastic
    Backpropagation; Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients.

    Parameters
    ----------
    num_samples
        Independent draws.
    """

    relies_on_path = True

    @classmethod
    def fits(cls, q: Distribution) -> bool:
        """Tell whether ``q`` can be drawn as a differentiable function of its parameters."""
        return bool(q.has_rsample) and not is_one_hot(q)  # torch's straight-through one-hot is biased

    def draw(self, q: Distribution, sample_shape: torch.Size | None = None) -> Draw:
        """Draw with a gradient (see the base class)."""
        value = q.rsample(self.shape(sample_shape))
        return Draw(value, uniform_weight(value, q), None, q)
