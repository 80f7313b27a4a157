"""DisARM: gradients of discrete variables from antithetic pairs of values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.discrete_support import get_logits, is_bernoulli, log_prob, unwrap_independent
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import zero_with_gradient
from vaekit.estimators.support import DiscreteEstimator
from vaekit.exceptions import EstimatorError


class DisARM(DiscreteEstimator):
    r"""Difference of the costs of two antithetic values: ``ARM`` with its uniform variables integrated out.

    .. math:: \nabla_\phi E[f(b)] = E[\tfrac12 (f(b) - f(\tilde b)) (b - \tilde b)\, \sigma(|\phi|)]

    for the logit :math:`\phi` of each binary variable. A one-hot categorical variable is a sequence of binary
    decisions (stick-breaking): in a fixed order, each category is accepted or rejected, given that all earlier ones
    were rejected. With :math:`\alpha_c = \log \pi_c - \log \sum_{j > c} \pi_j`, the logit of this decision, and
    :math:`m < M` the positions of the two values of a pair,

    .. math:: \tfrac12 (f_m - f_M) \left[\sigma(|\alpha_m|) \nabla \alpha_m
              - \nabla \log \frac{\pi_M}{\sum_{j > m} \pi_j}\right]

    where the second term is the score of the decisions that only the later value reaches. The most probable
    categories come first, which lowers the variance. All variables of a vector are mirrored together, so the cost
    always receives a whole vector.

    Shapes: values ``[2 num_pairs, *batch, *event]``, first the values, then their mirror images, which have the
    distribution of the node, too. Bias: none. Cost: ``2 num_pairs`` evaluations and no backward pass through the cost
    for the gradient of this node. Nodes: Bernoulli, OneHotCategorical, ``Independent`` vectors of them.

    Dong, Mnih and Tucker (2020), DisARM: An Antithetic Gradient Estimator for Binary Latent Variables; Dong, Mnih
    and Tucker (2021), Coupled Gradient Estimators for Discrete Latent Variables.

    Parameters
    ----------
    num_pairs : int
        Number of independent pairs.

    Raises
    ------
    EstimatorError
        If ``num_pairs`` is less than 1.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, vaekit.estimators.DisARM()).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.08
    """

    supports_joint_samples = False
    common_random_numbers = True

    def __init__(self, num_pairs: int = 1) -> None:
        if num_pairs < 1:
            raise EstimatorError(f"DisARM: num_pairs={num_pairs} must be at least 1.")
        super().__init__(num_samples=2 * num_pairs)
        self.num_pairs = num_pairs

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        logits = get_logits(q).detach()
        uniform = torch.rand((self.num_pairs, *logits.shape), dtype=logits.dtype, device=logits.device)
        if is_bernoulli(q):
            value, position = torch.cat(antithetic(logits, uniform)).to(logits.dtype), None
        else:
            order = logits.argsort(-1, descending=True)
            position = order.argsort(-1)
            ordered = logits.gather(-1, order)
            tail = ordered.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]  # log-probability of this and later categories
            after = torch.cat([tail, torch.full_like(ordered[..., :1], -torch.inf)], -1)
            # NaN after the last possible category: no decision there accepts, and none is needed
            accepted = torch.cat(antithetic(ordered - after, uniform))
            first_accepted = accepted.to(torch.uint8).argmax(-1, keepdim=True)
            value = (position == first_accepted).to(logits.dtype)
        score = log_prob(q, value)
        return NodeSample(value, uniform_weight(value, q, score.dtype), score, q, position)

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        logits, (first, second) = get_logits(sample.q), sample.value.chunk(2)
        if sample.noise is None:
            score = (first - second) * logits.detach().abs().sigmoid() * zero_with_gradient(logits)
        else:
            score = _stick_breaking(logits, sample.noise, first, second)
        pair = 0.5 * torch.sub(*cost.detach().chunk(2)) * sum_variables(score, sample.q)
        return torch.cat([pair, pair])


def antithetic(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return Bernoulli values, as booleans, from uniform variables in [0, 1) and from their mirror images.

    Both members of a pair have the Bernoulli distribution. They differ as often as the members of any such pair can.
    """
    return uniform >= (-logits).sigmoid(), uniform < logits.sigmoid()


def sum_variables(score: Tensor, q: Distribution) -> Tensor:
    """Sum ``[samples, *batch, *variables]`` over the variables that ``Independent`` declares to be one event."""
    event_dim = unwrap_independent(q)[1]
    return score.flatten(-event_dim).sum(-1) if event_dim else score


def _stick_breaking(logits: Tensor, position: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the zero-valued factor of half the difference of the costs, one per categorical variable."""
    at_first, at_second = ((position * value).sum(-1, keepdim=True) for value in (first, second))
    later = (position > torch.minimum(at_first, at_second)) | (at_first == at_second)  # equal values cancel anyway
    sign = (at_second - at_first).sign().squeeze(-1)
    early, late = (torch.where(sign[..., None] > 0, *pair) > 0 for pair in ((first, second), (second, first)))
    rest = logits.masked_fill(~later, -torch.inf).logsumexp(-1)
    alpha = torch.where(early, logits, 0).sum(-1) - rest
    log_fraction = torch.where(late, logits, 0).sum(-1) - rest
    score = alpha.detach().abs().sigmoid() * (alpha - alpha.detach()) - (log_fraction - log_fraction.detach())
    return sign * score
