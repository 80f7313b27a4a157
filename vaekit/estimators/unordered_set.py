"""The unordered-set estimator: distinct states, weighed by the chance of drawing them in any order."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.estimators.derivatives import likelihood_ratio, with_gradient_of
from vaekit.estimators.node_sample import NodeSample
from vaekit.estimators.support import FiniteSupportEstimator, perturb, select_states
from vaekit.exceptions import EstimatorError

MAX_SAMPLES = 8


class UnorderedSet(FiniteSupportEstimator):
    r"""Draw distinct states ``S`` without replacement, and weigh each by its chance of having come first.

    .. math:: \nabla_\theta E_q[f(z)] = E_S\Big[\sum_{s \in S} \nabla_\theta q_\theta(s)\, R(S, s)
        \Big(f(s) - \sum_{t \in S} q(t)\, R_{-s}(S, t) f(t)\Big)\Big], \quad R(S, s) = \frac{p_{-s}(S - s)}{p(S)}

    with ``p(S)`` the probability of the set, and ``p_{-s}`` and ``R_{-s}`` the same where ``s`` was taken before.
    The inner sum is the expected cost as the set tells it to ``s``, a baseline that needs no further evaluation.

    Shapes: values ``[num_samples, *batch, *event]``, weights ``q(s) R(S, s)``. Bias: none; no variance where the
    set holds all states. Cost: ``num_samples`` evaluations without a backward pass for the gradient of this node,
    the probability of every state, and a sum over the 2^num_samples subsets. Nodes: Bernoulli, Categorical,
    OneHotCategorical, Binomial, and ``Independent`` vectors of them, of at most 4096 states together.

    Kool, van Hoof and Welling (2020), Estimating Gradients for Discrete Random Variables by Sampling without
    Replacement.

    Parameters
    ----------
    num_samples
        Size of the set, 2 to 8; all states, where there are fewer.

    Raises
    ------
    EstimatorError
        If ``num_samples`` is out of range, or the node has too many states.
    """

    def __init__(self, num_samples: int = 2) -> None:
        super().__init__(num_samples)
        if not 2 <= num_samples <= MAX_SAMPLES:
            raise EstimatorError(
                f"UnorderedSet: num_samples is {num_samples}, it must be 2 to {MAX_SAMPLES} (its baseline needs two "
                "states, and its weights are sums over all subsets); for more use RaoBlackwell(num_samples=...)"
            )

    def num_evaluations(self, q: Distribution) -> int:
        """Return the size of the set."""
        return min(self.num_samples, self.count_states(q))

    @override
    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        """Draw a set by the largest perturbed log-probabilities (see the base class)."""
        value, log_prob = self.list_states(q)
        everything = log_prob.detach()
        index = perturb(everything).topk(min(self.num_samples, len(value)), 0).indices
        log_prob = log_prob.gather(0, index)
        chosen, outside = log_prob.detach(), everything.scatter(0, index, -math.inf).logsumexp(0)
        table = completions(chosen, outside)
        bit = 1 << torch.arange(len(chosen), device=chosen.device)
        # normalized here rather than divided by p(S), so that the weights sum to 1 to the last digit
        weight = (chosen + table[bit]).softmax(0)
        second = chosen + table[bit[:, None] | bit]  # [s, t, *batch]: s came first, t second
        diagonal = torch.eye(len(chosen), dtype=torch.bool, device=chosen.device)
        diagonal = diagonal.reshape(*diagonal.shape, *[1] * (chosen.dim() - 1))
        second = second.masked_fill(diagonal, torch.finfo(second.dtype).min).softmax(1)
        return NodeSample(select_states(value, index, q), weight, log_prob, q, second)

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the cost of each state, less what the others tell of the expected cost, times its score."""
        assert draw.log_prob is not None  # draw() above always fills it
        seen = cost.detach()
        others = (draw.noise * seen[None]).sum(1)
        # the baseline is q(s) f(s) + (1 - q(s)) others
        centred = -draw.log_prob.detach().expm1() * (seen - others)
        return with_gradient_of(centred, cost) * likelihood_ratio(draw.log_prob)


def completions(chosen: Tensor, outside: Tensor) -> Tensor:
    """Return the log-probability that, a subset of S being drawn, the next draws without replacement complete S.

    Parameters
    ----------
    chosen
        ``[k, *batch]``, log-probabilities of the elements of S.
    outside
        ``[*batch]``, log of the mass outside S.

    Returns
    -------
    Tensor
        ``[2^k, *batch]``; a subset is the number whose bits are its elements. Not worked out for the empty one.
    """
    k = len(chosen)
    element, subset = torch.arange(k, device=chosen.device), torch.arange(2**k, device=chosen.device)
    drawn = (subset[:, None] >> element & 1).bool().reshape(2**k, k, *[1] * outside.dim())
    left = chosen.masked_fill(drawn, -math.inf)  # [2^k, k, *batch]
    # the mass left is a sum of what is there: 1 - (what was drawn) would cancel
    mass = torch.logaddexp(left.logsumexp(1), outside)
    step = (left - mass[:, None]).masked_fill(drawn, -math.inf)
    full = (subset == 2**k - 1).reshape(2**k, *[1] * outside.dim())
    table = torch.where(full, 0.0, torch.full_like(mass, -math.inf))
    for _ in range(k - 1):  # each pass is right for subsets of one element fewer
        table = torch.where(full, 0.0, (step + table[subset[:, None] | 1 << element]).logsumexp(1))
    return table
