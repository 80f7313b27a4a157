"""An expectation that can be differentiated: draw the nodes, evaluate the cost, fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.automatic import log_choice
from vaekit.estimators.base import Draw, Estimator, describe
from vaekit.fold import Result, SilentNodeError, Term, fold
from vaekit.sampling import Sample, sample
from vaekit.signatures import Named, Node, assign, parse

_T = TypeVar("_T")

__all__ = ["Draw", "Named", "Result", "evaluate", "expectation"]


def expectation(
    cost: Callable[..., Tensor] | Named | Mapping[str, Callable[..., Tensor] | Named],
    q: Distribution | Mapping[str, Distribution | Callable[..., Distribution] | Named],
    estimator: Estimator | str | Mapping[str, Estimator | str] = "auto",
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
) -> Tensor:
    r"""Return E_q[cost]: a tensor with its Monte Carlo (or exact) value and an estimate of its gradient.

    .. math:: \nabla_\theta E_{z \sim q_\theta}[f_\theta(z)]

    is what ``backward`` gives, each random node by its own estimator.

    Parameters
    ----------
    cost
        Function of the nodes that its parameters name, returning ``[*rows, *batch]`` (axes of rows lead; sum
        over event dimensions). A dictionary of such functions is their sum, each term credited only to the
        nodes that it names and their ancestors. It may return a NumPy array where no node relies on a path.
    q
        A distribution with batch shape ``[*batch]``; or a dictionary of them, in which a function stands for a
        conditional distribution, the nodes that its parameters name being its parents. All nodes have the same
        number of batch dimensions: a node that is drawn once for a whole batch has size 1 there, ``[1]`` beside
        ``[B]``. Were its batch shape ``[]``, the batch of its children would be taken for its rows.
    estimator
        An estimator, ``"auto"``, or a dictionary of them by node. ``"auto"`` sums exactly over small supports,
        else goes pathwise where the distribution and the cost allow it, else takes ``DisARM`` for binary variables
        (not in joint trajectories) and the score function with leave-one-out for others; it logs its choice.
    num_samples
        None: each node has its own axis of ``estimator.num_samples`` rows. K: K joint trajectories on one axis,
        a single draw a node, so that a chain of nodes costs K evaluations.
    context
        ``[*batch, features]``, what learned baselines and critics see.

    Returns
    -------
    Tensor
        ``[*batch]``.

    Raises
    ------
    EstimatorError
        If an estimator does not fit its node, a cost has a wrong shape, or no gradient path to a node that
        relies on one.

    Notes
    -----
    Schulman, Heess, Weber and Abbeel (2015), Gradient Estimation Using Stochastic Computation Graphs.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> theta = torch.tensor(0.0, requires_grad=True)
    >>> loss = vaekit.expectation(lambda b: (b - 0.45) ** 2, Bernoulli(logits=theta), vaekit.estimators.Enumerate())
    >>> loss.backward()
    >>> round(theta.grad.item(), 6)  # p (1 - p) ((1 - 0.45)^2 - 0.45^2)
    0.025
    """
    return evaluate(cost, q, estimator, num_samples=num_samples, context=context).total


def evaluate(
    cost: Callable[..., Tensor] | Named | Mapping[str, Callable[..., Tensor] | Named],
    q: Distribution | Mapping[str, Distribution | Callable[..., Distribution] | Named],
    estimator: Estimator | str | Mapping[str, Estimator | str] = "auto",
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
    check_paths: bool = True,
) -> Result:
    """Return the expectation with the mean of each cost term and the draws; arguments as in :func:`expectation`.

    ``check_paths`` may be False where the same cost and estimators were checked before: it walks the graph.
    """
    nodes, functions = parse(cost, q)
    chosen = assign(estimator, [node.name for node in nodes])

    def folded(drawn: Sample) -> Result:
        terms = {name: evaluate_term(function, drawn) for name, function in functions.items()}
        return fold(drawn, terms, check_paths=check_paths)

    return attempt(nodes, chosen, folded, num_samples=num_samples, context=context)


def attempt(
    nodes: list[Node],
    chosen: Mapping[str, Estimator | str],
    work: Callable[[Sample], _T],
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
) -> _T:
    """Draw the nodes, and return what ``work`` makes of them.

    Where it misses a gradient path to a node whose estimator ``"auto"`` chose, another is chosen, and all are drawn
    again; what was chosen in the end is logged.
    """
    undifferentiable: set[str] = set()
    while True:
        drawn = sample(nodes, chosen, num_samples=num_samples, context=context, undifferentiable=undifferentiable)
        try:
            result = work(drawn)
        except SilentNodeError as silent:
            if chosen[silent.node] != "auto":
                raise
            undifferentiable.add(silent.node)  # `auto` had tried the pathwise estimator: take another
            continue
        for node in nodes:
            if chosen[node.name] == "auto":
                found = drawn.estimators[node.name]
                log_choice(node.name, describe(drawn.draws[node.name].q), type(found).__name__)
        return result


def evaluate_term(function: Named, drawn: Sample) -> Term:
    """Evaluate a cost term; what is no floating-point tensor (NumPy, a comparison) becomes one."""
    values = drawn.values
    value: Any = function.function(**{node: values[node] for node in function.names})
    like = drawn.draws[drawn.nodes[0].name].weight
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    elif not value.is_floating_point():
        value = value.to(like.dtype)
    return Term(value, function.names, function.optional)
