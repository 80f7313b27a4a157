"""The unordered-set estimator: distinct states, weighted by the probability of sampling them in any order."""

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
    r"""Distinct states ``S``, sampled without replacement and each weighted by its probability of being the first.

    .. math:: \nabla_\theta E_q[f(z)] = E_S\Big[\sum_{s \in S} \nabla_\theta q_\theta(s)\, R(S, s)
        \Big(f(s) - \sum_{t \in S} q(t)\, R_{-s}(S, t) f(t)\Big)\Big], \quad R(S, s) = \frac{p_{-s}(S - s)}{p(S)}

    with ``p(S)`` the probability of the set, and ``p_{-s}`` and ``R_{-s}`` the same after ``s`` was sampled. The inner
    sum is the set's estimate of the expected cost without ``s``, a baseline that needs no further evaluation.

    Shapes: values ``[num_samples, *batch, *event]``, weights ``q(s) R(S, s)``. Bias: none; no variance if the set
    contains all states. Cost: ``num_samples`` evaluations without a backward pass for the gradient of this node, the
    probability of every state, and a sum over the 2^num_samples subsets. Nodes: Bernoulli, Categorical,
    OneHotCategorical, Binomial, and ``Independent`` vectors of them, of at most 4096 states together.

    Kool, van Hoof and Welling (2020), Estimating Gradients for Discrete Random Variables by Sampling without
    Replacement.

    Parameters
    ----------
    num_samples : int
        Size of the set, 2 to 8. A node with fewer states has all of them in the set.

    Raises
    ------
    EstimatorError
        If ``num_samples`` is out of range, or the node has too many states.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Categorical
    >>> logits = torch.zeros(4, requires_grad=True)
    >>> q = Categorical(logits=logits.expand(100_000, 4))
    >>> cost = lambda state: state.float()  # 0, 1, 2 or 3
    >>> vaekit.expectation(cost, q, vaekit.estimators.UnorderedSet(num_samples=2)).mean().backward()
    >>> [round(value, 1) for value in (8 * logits.grad).tolist()]  # exact: -3, -1, 1, 3
    [-3.0, -1.0, 1.0, 3.0]
    """

    def __init__(self, num_samples: int = 2) -> None:
        super().__init__(num_samples)
        if not 2 <= num_samples <= MAX_SAMPLES:
            raise EstimatorError(
                f"UnorderedSet: num_samples={num_samples} must be 2 to {MAX_SAMPLES}: the baseline needs two states, "
                "and the weights are sums over all subsets. Use RaoBlackwell(num_samples=...) for more states."
            )

    @override
    def num_evaluations(self, q: Distribution) -> int:
        return min(self.num_samples, self.count_states(q))

    def _sample(self, q: Distribution, shape: torch.Size, common_noise_dims: tuple[int, ...]) -> NodeSample:
        value, all_log_prob = self.list_states(q)
        index = perturb(all_log_prob.detach()).topk(min(self.num_samples, len(value)), 0).indices
        log_prob = all_log_prob.gather(0, index)
        inside, outside = log_prob.detach(), all_log_prob.detach().scatter(0, index, -math.inf).logsumexp(0)
        table = completions(inside, outside)
        bit = 1 << torch.arange(len(inside), device=inside.device)
        # a softmax instead of a division by p(S), so that the weights sum to 1 up to the last digit
        weight = (inside + table[bit]).softmax(0)
        second = inside + table[bit[:, None] | bit]  # [s, t, *batch]: s is the first, t the second
        diagonal = torch.eye(len(inside), dtype=torch.bool, device=inside.device)
        diagonal = diagonal.reshape(*diagonal.shape, *[1] * (inside.dim() - 1))
        second = second.masked_fill(diagonal, torch.finfo(second.dtype).min).softmax(1)
        return NodeSample(select_states(value, index, q), weight, log_prob, q, second)

    @override
    def correction(self, sample: NodeSample, cost: Tensor) -> Tensor:
        assert sample.log_prob is not None  # always present in samples of this class
        detached = cost.detach()
        others = (sample.noise * detached[None]).sum(1)
        # the baseline is q(s) f(s) + (1 - q(s)) others
        centered = -sample.log_prob.detach().expm1() * (detached - others)
        return with_gradient_of(centered, cost) * likelihood_ratio(sample.log_prob)


def completions(inside: Tensor, outside: Tensor) -> Tensor:
    """Return the log-probability that the next samples without replacement complete S, for each subset sampled so far.

    Parameters
    ----------
    inside : Tensor, shape (k, *batch)
        Log-probabilities of the elements of S.
    outside : Tensor, shape (*batch)
        Log-probability of all states outside S.

    Returns
    -------
    Tensor, shape (2^k, *batch)
        The bits of the index are the elements of the subset. The entry of the empty subset is not meaningful.
    """
    k = len(inside)
    element, subset = torch.arange(k, device=inside.device), torch.arange(2**k, device=inside.device)
    sampled = (subset[:, None] >> element & 1).bool().reshape(2**k, k, *[1] * outside.dim())
    remaining = inside.masked_fill(sampled, -math.inf)  # [2^k, k, *batch]
    # the remaining mass is a sum, because 1 - (the sampled mass) would cancel
    mass = torch.logaddexp(remaining.logsumexp(1), outside)
    step = (remaining - mass[:, None]).masked_fill(sampled, -math.inf)
    full = (subset == 2**k - 1).reshape(2**k, *[1] * outside.dim())
    table = torch.where(full, 0.0, torch.full_like(mass, -math.inf))
    for _ in range(k - 1):  # each pass completes the subsets with one element less
        table = torch.where(full, 0.0, (step + table[subset[:, None] | 1 << element]).logsumexp(1))
    return table
