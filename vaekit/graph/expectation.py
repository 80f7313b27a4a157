"""An expectation that can be differentiated: draw the nodes, evaluate the cost, fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.automatic import log_choice
from vaekit.estimators.estimator import Estimator, describe_distribution
from vaekit.estimators.func_transforms import forward_mode, in_transform
from vaekit.estimators.zero_probabilities import EVALUATED_THERE
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import Node, NodeFunction, assign_estimators, parse_graph
from vaekit.graph.fold import CostTerm, Estimate, MissingGradientPathError, check_gradient_paths, describe_cost, fold
from vaekit.graph.sampling import GraphSample, sample_graph

_T = TypeVar("_T")

__all__ = ["Draw", "Named", "Result", "evaluate", "expectation"]


def expectation(
    cost: Callable[..., Tensor] | NodeFunction | Mapping[str, Callable[..., Tensor] | NodeFunction],
    q: Distribution | Mapping[str, Distribution | Callable[..., Distribution] | NodeFunction],
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
        nodes that it names and their ancestors. It may return a NumPy array where no node relies on a path, which
        keeps its precision. A cost has one value per entry of the batch: a sum over the batch is an error.
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
    if _needs_python(cost, q, estimator):
        from vaekit.graph.compilation import outside_graph  # which takes seconds to import

        return outside_graph(expectation, cost, q, estimator, num_samples=num_samples, context=context)
    return evaluate(cost, q, estimator, num_samples=num_samples, context=context).total


def evaluate(
    cost: Callable[..., Tensor] | NodeFunction | Mapping[str, Callable[..., Tensor] | NodeFunction],
    q: Distribution | Mapping[str, Distribution | Callable[..., Distribution] | NodeFunction],
    estimator: Estimator | str | Mapping[str, Estimator | str] = "auto",
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
    check_paths: bool = True,
) -> Estimate:
    """Return the expectation with the mean of each cost term and the draws; arguments as in :func:`expectation`.

    ``check_paths`` may be False where the same cost and estimators were checked before: it walks the graph.
    """
    if _needs_python(cost, q, estimator):
        from vaekit.graph.compilation import outside_graph

        return outside_graph(
            evaluate, cost, q, estimator, num_samples=num_samples, context=context, check_paths=check_paths
        )
    nodes, functions = parse_graph(cost, q)
    chosen = assign_estimators(estimator, [node.name for node in nodes])

    def folded(drawn: GraphSample) -> Estimate:
        terms = {name: evaluate_term(function, drawn, name) for name, function in functions.items()}
        if check_paths and forward_mode():
            _look_for_paths(functions, drawn)
        return fold(drawn, terms, check_paths=check_paths)

    return attempt(nodes, chosen, folded, num_samples=num_samples, context=context)


def _look_for_paths(functions: Mapping[str, NodeFunction], drawn: GraphSample) -> None:
    """Check the gradient paths of nodes to the costs that name them, by evaluating these anew in reverse mode.

    In forward mode autograd records no graph that could be read.
    """
    values = {n: d.value.detach() for n, d in drawn.samples.items() if drawn.estimators[n].requires_differentiable_cost}
    if not values:
        return

    def costs(values: dict[str, Tensor]) -> Tensor:
        draws = {name: draw._replace(value=values.get(name, draw.value)) for name, draw in drawn.samples.items()}
        anew = drawn._replace(samples=draws)
        terms = {n: evaluate_term(f, anew, n) for n, f in functions.items() if set(f.inputs) - set(f.optional)}
        named = [node for node in drawn.nodes if any(node.name in term.names for term in terms.values())]
        check_gradient_paths(anew._replace(nodes=named), terms)
        return next(iter(values.values())).sum()

    torch.func.vjp(costs, values)


def _needs_python(cost: Any, q: Any, estimator: Any) -> bool:
    """Return whether torch compiles, and there is work to do outside of its graph: see ``vaekit.graph.compilation``."""
    if not torch.compiler.is_compiling():
        return False
    functions = [*(cost.values() if isinstance(cost, Mapping) else [cost])]
    functions += [item for item in (q.values() if isinstance(q, Mapping) else ()) if not isinstance(item, Distribution)]
    estimators = list(estimator.values()) if isinstance(estimator, Mapping) else [estimator]
    return (
        (isinstance(estimator, Mapping) and isinstance(q, Mapping) and len(estimator) < len(q))
        or not all(isinstance(function, NodeFunction) for function in functions)
        or any(not isinstance(each, Estimator) or each.differentiates_cost for each in estimators)
    )  # fmt: skip


def attempt(
    nodes: list[Node],
    chosen: Mapping[str, Estimator | str],
    work: Callable[[GraphSample], _T],
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
) -> _T:
    """Draw the nodes, and return what ``work`` makes of them.

    Where it misses a gradient path to a node whose estimator ``"auto"`` chose, another is chosen, and all are drawn
    again; what was chosen in the end is logged.
    """
    undifferentiable: set[str] = set()
    drawn: GraphSample | None = None
    while True:
        try:
            drawn = sample_graph(
                nodes, chosen, num_samples=num_samples, context=context, undifferentiable=undifferentiable
            )
            result = work(drawn)
        except MissingGradientPathError as silent:
            if chosen[silent.node] != "auto":
                raise
            undifferentiable.add(silent.node)  # `auto` had tried the pathwise estimator: take another
            continue
        except Exception as error:
            if drawn is not None and any(draw.completed is not None for draw in drawn.samples.values()):
                error.add_note(EVALUATED_THERE)
            if not (isinstance(error, RuntimeError) and in_transform()):
                raise
            raise EstimatorError(
                "the expectation could not be worked out inside a transform of torch.func, or in forward mode: "
                f"{str(error).splitlines()[0]} Use torch.autograd.grad and a batch dimension instead of the transform."
            ) from error
        for node in nodes:
            if chosen[node.name] == "auto":
                found = drawn.estimators[node.name]
                log_choice(node.name, describe_distribution(drawn.samples[node.name].q), type(found).__name__)
        return result


def evaluate_term(function: NodeFunction, drawn: GraphSample, name: str = "cost") -> CostTerm:
    """Evaluate a cost term; a NumPy array, a number or a tensor of another type becomes a floating-point tensor."""
    values = drawn.values
    value: Any = function.function(**{node: values[node] for node in function.inputs})
    like = drawn.samples[drawn.nodes[0].name].weight
    tensor = as_floating_point(value, like, name)
    if isinstance(value, int | float | np.number) and not function.inputs:
        # a number of no node is the same for every entry of the batch; of a node, it may be their sum (see fold.align)
        tensor = tensor.expand(drawn.batch)
    return CostTerm(tensor, function.inputs, function.optional)


def as_floating_point(value: Any, like: Tensor, name: str) -> Tensor:
    """Return a cost as a floating-point tensor on the device of ``like``, in at least float32 and without rounding.

    Parameters
    ----------
    value
        Result of a cost function: a tensor, a NumPy array, a number, a list of numbers.
    like
        Tensor on the device of the result.
    name
        Name of the cost term, for messages.

    Raises
    ------
    EstimatorError
        If the cost is not real, or of an unsigned type: its differences would wrap around below 0.
    """
    if not isinstance(value, Tensor):
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, RuntimeError) as error:  # ragged; tensors with a gradient or on another device
            raise EstimatorError(
                f"{describe_cost(name)} is a {type(value).__name__} that is no array: {error}"
            ) from error
        if array.dtype.kind not in "biuf" or np.ma.is_masked(value):
            raise EstimatorError(
                f"{describe_cost(name)} is a {type(value).__name__} (dtype {array.dtype}), not real numbers. "
                "Return a tensor, an array or a number per sample."
            )
        _reject_unsigned(array.dtype.kind == "u", name, array.dtype)
        # lossless, for integers too, and in the native byte order, which torch requires
        dtype = np.promote_types(array.dtype, np.float32)
        own = np.array(array, dtype=min(dtype, np.dtype(np.float64)), order="C")  # a view may have negative strides
        return torch.from_numpy(own).to(like.device)
    if value.is_complex():
        raise EstimatorError(f"{describe_cost(name)} is complex (dtype={value.dtype}). Return a real cost.")
    if value.is_floating_point():
        return value.float() if value.dtype.itemsize < 4 else value
    _reject_unsigned(value.dtype in UNSIGNED, name, value.dtype)
    return value.to(torch.float64 if value.dtype in (torch.int32, torch.int64) else like.dtype)


UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def _reject_unsigned(unsigned: bool, name: str, dtype: Any) -> None:
    """Raise an error for a cost of unsigned integers."""
    if unsigned:
        raise EstimatorError(
            f"{describe_cost(name)} has the unsigned type {dtype}: differences of it wrap around below 0. "
            "Convert to a floating-point type before the arithmetic."
        )
