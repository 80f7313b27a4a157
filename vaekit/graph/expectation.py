"""Differentiable expectations: sample the nodes, evaluate the cost, fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.automatic import log_choice
from vaekit.estimators.estimator import Estimator, describe_distribution
from vaekit.estimators.func_transforms import forward_mode, in_transform
from vaekit.estimators.zero_probabilities import EVALUATED_THERE
from vaekit.exceptions import EstimatorError
from vaekit.graph.cost_terms import evaluate_term
from vaekit.graph.dependencies import Node, NodeFunction, assign_estimators, has_inputs, parse_graph
from vaekit.graph.fold import Estimate, MissingGradientPathError, check_gradient_paths, fold
from vaekit.graph.sampling import GraphSample, sample_graph

_Cost = Callable[..., Tensor] | NodeFunction | Mapping[str, Callable[..., Tensor] | NodeFunction]
_Q = Distribution | Mapping[str, Distribution | Callable[..., Distribution] | NodeFunction]
_Estimators = Estimator | str | Mapping[str, Estimator | str]
_T = TypeVar("_T")


def expectation(
    cost: _Cost,
    q: _Q,
    estimator: _Estimators = "auto",
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
) -> Tensor:
    r"""Return E_q[cost] with its Monte Carlo (or exact) value and an estimate of its gradient.

    ``backward`` computes

    .. math:: \nabla_\theta E_{z \sim q_\theta}[f_\theta(z)]

    with a separate estimator for each random node.

    Parameters
    ----------
    cost : Callable, NodeFunction or dict of them
        Function of the nodes that its parameters name. It returns ``[*sample, *batch]``, summed over event dimensions
        but not over the batch. The functions of a dictionary are added, and each is credited only to the nodes that
        it names and their ancestors. The result may be a NumPy array, which keeps its precision, if no node needs a
        gradient path.
    q : Distribution or dict of Distribution, Callable or NodeFunction
        Distribution with batch shape ``[*batch]`` of each node. A function returns the conditional distribution of a
        node, and its parameters name the parents. All nodes have the same number of batch dimensions: a node that a
        batch ``[B]`` shares has batch shape ``[1]``, as ``[]`` would confuse the batch of its children with samples.
    estimator : Estimator, str or dict of them
        Estimator of each node. ``"auto"`` logs its choice, the first that applies: an exact sum over a small support,
        ``Pathwise`` if the distribution and the cost allow it, ``DisARM`` for binary variables without joint samples,
        and the score function with leave-one-out.
    num_samples : int or None
        None gives each node its own sample dimension of ``estimator.num_samples``. K draws K joint samples on one
        dimension, so that a chain of nodes costs K evaluations.
    context : Tensor or None, shape (*batch, features)
        Input of learned baselines and critics.

    Returns
    -------
    Tensor, shape (*batch)
        The expectation.

    Raises
    ------
    EstimatorError
        If an estimator does not support its node, or a cost has a wrong shape, or no gradient path to a node that
        needs one.

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
    cost: _Cost,
    q: _Q,
    estimator: _Estimators = "auto",
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
    check_paths: bool = True,
) -> Estimate:
    """Return the expectation with the mean of each cost term and the samples; arguments as in :func:`expectation`.

    ``check_paths`` may be False if the same cost and estimators were checked before.
    """
    if _needs_python(cost, q, estimator):
        from vaekit.graph.compilation import outside_graph  # slow to import

        options = {"num_samples": num_samples, "context": context, "check_paths": check_paths}
        return outside_graph(evaluate, cost, q, estimator, **options)
    nodes, functions = parse_graph(cost, q)
    estimators = assign_estimators(estimator, [node.name for node in nodes])

    def evaluate_sample(graph_sample: GraphSample) -> Estimate:
        terms = {name: evaluate_term(function, graph_sample, name) for name, function in functions.items()}
        if check_paths and forward_mode():
            _check_paths_in_reverse_mode(functions, graph_sample)
        return fold(graph_sample, terms, check_paths=check_paths)

    return sample_and_evaluate(nodes, estimators, evaluate_sample, num_samples=num_samples, context=context)


def _check_paths_in_reverse_mode(functions: Mapping[str, NodeFunction], graph_sample: GraphSample) -> None:
    """Check gradient paths with a second evaluation, because autograd does not record a graph in forward mode."""
    samples, estimators = graph_sample.samples, graph_sample.estimators
    values = {n: s.value.detach() for n, s in samples.items() if estimators[n].requires_differentiable_cost}
    if not values:
        return

    def check(values: dict[str, Tensor]) -> Tensor:
        replaced = {name: s._replace(value=values.get(name, s.value)) for name, s in samples.items()}
        second = graph_sample._replace(samples=replaced)
        terms = {n: evaluate_term(f, second, n) for n, f in functions.items() if set(f.inputs) - set(f.optional)}
        cost_nodes = [node for node in second.nodes if any(node.name in term.names for term in terms.values())]
        check_gradient_paths(second._replace(nodes=cost_nodes), terms)
        return next(iter(values.values())).sum()

    torch.func.vjp(check, values)


def _needs_python(cost: Any, q: Any, estimator: Any) -> bool:
    """Return whether torch compiles, and the expectation cannot be a part of its graph."""
    if not torch.compiler.is_compiling():
        return False
    functions = list(cost.values()) if isinstance(cost, Mapping) else [cost]
    functions += [item for item in (q.values() if isinstance(q, Mapping) else ()) if not isinstance(item, Distribution)]
    estimators = list(estimator.values()) if isinstance(estimator, Mapping) else [estimator]
    uses_auto = isinstance(estimator, Mapping) and isinstance(q, Mapping) and len(estimator) < len(q)
    differentiates = any(getattr(each, "differentiates_cost", True) for each in estimators)  # True for "auto"
    return uses_auto or differentiates or not all(map(has_inputs, functions))


def sample_and_evaluate(
    nodes: list[Node],
    estimators: Mapping[str, Estimator | None],
    evaluate_sample: Callable[[GraphSample], _T],
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
) -> _T:
    """Sample the nodes and return ``evaluate_sample(graph_sample)``; choose and log estimators that are None.

    If a gradient path to a node with a chosen estimator is missing, all nodes are sampled again with another choice.
    """
    undifferentiable: set[str] = set()
    graph_sample: GraphSample | None = None
    while True:
        try:
            graph_sample = sample_graph(
                nodes, estimators, num_samples=num_samples, context=context, undifferentiable=undifferentiable
            )
            result = evaluate_sample(graph_sample)
        except MissingGradientPathError as error:
            if estimators[error.node] is not None:
                raise
            undifferentiable.add(error.node)
            continue
        except Exception as error:
            if graph_sample is not None and any(s.completed is not None for s in graph_sample.samples.values()):
                error.add_note(EVALUATED_THERE)
            if not (isinstance(error, RuntimeError) and in_transform()):
                raise
            raise EstimatorError(
                "expectation: evaluation failed inside a transform of torch.func, or in forward mode: "
                f"{str(error).splitlines()[0]} Use torch.autograd.grad and a batch dimension instead of the transform."
            ) from error
        for name, estimator in graph_sample.estimators.items():
            if estimators[name] is None:
                q = graph_sample.samples[name].q
                log_choice(name, describe_distribution(q), type(estimator).__name__)
        return result
