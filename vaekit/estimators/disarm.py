"""DisARM: gradients of discrete variables from antithetic pairs of values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.antithetic import antithetic, sum_variables
from vaekit.estimators.discrete_support import get_logits, is_bernoulli, is_one_hot, log_prob
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.noise import zero_with_gradient
from vaekit.exceptions import EstimatorError


class DisARM(Estimator):
    r"""Compare the costs of a pair of antithetic values: ``ARM`` with its uniform variables integrated out.

    .. math:: \nabla_\phi E[f(b)] = E[\tfrac12 (f(b) - f(\tilde b)) (b - \tilde b)\, \sigma(|\phi|)]

    for the logit :math:`\phi` of each binary variable. A one-hot categorical variable is made from binary ones
    (stick-breaking): category by category in a fixed order, is it this one, given that it is none before? With
    :math:`\alpha_c = \log \pi_c - \log \sum_{j > c} \pi_j`, the logit of that question, and
    :math:`m < M` the places of the two values of a pair,

    .. math:: \tfrac12 (f_m - f_M) \left[\sigma(|\alpha_m|) \nabla \alpha_m
              - \nabla \log \frac{\pi_M}{\sum_{j > m} \pi_j}\right]

    where the second term is the score of the questions that only the later value got to. The most probable
    categories come first, which lowers the variance. All variables of a vector are mirrored together, and the cost
    sees whole vectors.

    Shapes: values ``[2 num_pairs, *batch, *event]``, first the values, then their mirror images, each of which has
    the distribution of the node. Bias: none. Cost: ``2 num_pairs`` evaluations and no backward pass through the
    cost for the gradient of this node. Nodes: Bernoulli, OneHotCategorical, ``Independent`` vectors of them.

    Dong, Mnih and Tucker (2020), DisARM: An Antithetic Gradient Estimator for Binary Latent Variables; Dong, Mnih
    and Tucker (2021), Coupled Gradient Estimators for Discrete Latent Variables.

    Parameters
    ----------
    num_pairs
        Independent pairs.

    Raises
    ------
    EstimatorError
        If ``num_pairs`` is less than 1.
    """

    supports_joint_samples = False
    common_random_numbers = True

    def __init__(self, num_pairs: int = 1) -> None:
        if num_pairs < 1:
            raise EstimatorError(f"DisARM: num_pairs is {num_pairs}, it must be at least 1")
        super().__init__(num_samples=2 * num_pairs)
        self.num_pairs = num_pairs

    @classmethod
    def supports(cls, q: Distribution) -> bool:
        """Tell whether ``q`` is made of Bernoulli or one-hot categorical variables."""
        return is_bernoulli(q) or is_one_hot(q)

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw pairs (see the base class); the noise is the place of each category in the order."""
        logits = get_logits(q).detach()
        uniform = torch.rand((self.num_pairs, *logits.shape), dtype=logits.dtype, device=logits.device)
        if is_bernoulli(q):
            value, place = torch.cat(antithetic(logits, uniform)).to(logits.dtype), None
        else:
            order = logits.argsort(-1, descending=True)
            place = order.argsort(-1)
            ordered = logits.gather(-1, order)
            tail = ordered.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]  # log of the probability of this and later ones
            after = torch.cat([tail, torch.full_like(ordered[..., :1], -torch.inf)], -1)
            # past the last possible category this is NaN, no answer is yes, and none is needed
            answers = torch.cat(antithetic(ordered - after, uniform))
            chosen = answers.to(torch.uint8).argmax(-1, keepdim=True)  # the place of the first yes
            value = (place == chosen).to(logits.dtype)
        score = log_prob(q, value)
        return NodeSample(value, uniform_weight(value, q, score.dtype), score, q, place)

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the pair's estimate in both of its rows (see the base class)."""
        logits, (first, second) = get_logits(draw.q), draw.value.chunk(2)
        if draw.noise is None:
            score = (first - second) * logits.detach().abs().sigmoid() * zero_with_gradient(logits)
        else:
            score = self._stick_breaking(logits, draw.noise, first, second)
        difference = torch.sub(*cost.detach().chunk(2))
        pair = 0.5 * difference * sum_variables(score, draw.q)
        return torch.cat([pair, pair])

    @staticmethod
    def _stick_breaking(logits: Tensor, place: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return for each categorical variable what multiplies half the difference of the costs, with value 0."""
        at_first, at_second = ((place * value).sum(-1, keepdim=True) for value in (first, second))
        later = (place > torch.minimum(at_first, at_second)) | (at_first == at_second)  # the latter count for nothing
        sign = (at_second - at_first).sign().squeeze(-1)
        early, late = (torch.where(sign[..., None] > 0, *pair) > 0 for pair in ((first, second), (second, first)))
        rest = logits.masked_fill(~later, -torch.inf).logsumexp(-1)
        alpha = torch.where(early, logits, 0).sum(-1) - rest
        share = torch.where(late, logits, 0).sum(-1) - rest
        score = alpha.detach().abs().sigmoid() * (alpha - alpha.detach()) - (share - share.detach())
        return sign * score
