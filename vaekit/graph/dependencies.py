"""What a graph is made of, read off signatures: nodes with their parents, cost terms with the nodes they name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.distributions import Distribution

from vaekit.estimators.estimator import Estimator
from vaekit.exceptions import EstimatorError, did_you_mean


class NodeFunction(NamedTuple):
    """A function of nodes that names them, where its own signature does not: called with keywords.

    Attributes
    ----------
    function
        Called as ``function(**{name: value})``.
    inputs
        Nodes that it depends on.
    optional
        Those of them that it takes as ``**values`` and may not use.
    """

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    optional: tuple[str, ...] = ()


class Node(NamedTuple):
    """A random node: its distribution, or the function that makes it from its parents.

    Attributes
    ----------
    name, q
        As given.
    parents
        Nodes that ``q`` is a function of.
    ancestors
        Nodes that it depends on, itself included.
    """

    name: str
    q: Distribution | NodeFunction
    parents: tuple[str, ...]
    ancestors: frozenset[str]


def parse_graph(cost: Any, q: Any) -> tuple[list[Node], dict[str, NodeFunction]]:
    """Read nodes (parents first) and cost terms off their signatures."""
    single = not isinstance(q, Mapping)
    given = {"value": q} if single else dict(q)
    costs = dict(cost) if isinstance(cost, Mapping) else {"cost": cost}
    if not given:
        raise EstimatorError("q has no nodes")
    functions: dict[str, Distribution | NodeFunction] = {}
    for name, item in given.items():
        if not isinstance(item, Distribution) and not callable(item) and not isinstance(item, NodeFunction):
            raise EstimatorError(
                f"q[{name!r}] is a {type(item).__name__}; a distribution, or a function that returns one"
            )
        functions[name] = item if isinstance(item, Distribution) else _named(item, given, f"q[{name!r}]")
    if single:
        terms = {name: _positional(item) for name, item in costs.items()}
    else:
        terms = {
            name: _named(item, given, "cost" if name == "cost" else f"cost[{name!r}]") for name, item in costs.items()
        }
    return _sorted(functions), terms


def _named(function: Any, nodes: Mapping[str, Any], what: str) -> NodeFunction:
    """Read which nodes a function depends on."""
    if not isinstance(function, NodeFunction):
        target = function.forward if isinstance(function, nn.Module) else function
        required: list[str] = []
        optional: list[str] = []
        for parameter in inspect.signature(target).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                optional += [name for name in nodes if name not in required]
            elif parameter.name in nodes or (
                parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
            ):
                required.append(parameter.name)
        function = NodeFunction(function, (*required, *optional), tuple(optional))
    for name in function.inputs:
        if name not in nodes:
            raise EstimatorError(f"{what} has a parameter {name!r}, which is no node of q. {did_you_mean(name, nodes)}")
    return function


def _positional(function: Any) -> NodeFunction:
    """Wrap a cost of the only node, whose parameter may have any name, or none."""
    if isinstance(function, NodeFunction):
        if not set(function.inputs) <= {"value"}:
            raise EstimatorError(
                f"the cost names {list(function.inputs)}; the only node of a single q is named 'value'"
            )
        return function
    try:
        target = function.forward if isinstance(function, nn.Module) else function
        takes_value = bool(inspect.signature(target).parameters)
    except ValueError:  # a builtin without a signature, such as torch.sum
        takes_value = True
    return NodeFunction(lambda value: function(value), ("value",)) if takes_value else NodeFunction(function, ())


def _sorted(functions: Mapping[str, Distribution | NodeFunction]) -> list[Node]:
    """Order nodes so that parents come first, else as declared."""
    parents = {name: item.inputs if isinstance(item, NodeFunction) else () for name, item in functions.items()}
    done: dict[str, Node] = {}
    while len(done) < len(functions):
        ready = next((n for n in functions if n not in done and all(p in done for p in parents[n])), None)
        if ready is None:
            raise EstimatorError(
                f"q has a cycle among {[n for n in functions if n not in done]}: no node can come first"
            )
        ancestors = frozenset({ready}).union(*(done[p].ancestors for p in parents[ready]))
        done[ready] = Node(ready, functions[ready], parents[ready], ancestors)
    return list(done.values())


def assign_estimators(estimator: Any, names: list[str]) -> dict[str, Estimator | str]:
    """Give each node its estimator, or ``"auto"``."""
    if not isinstance(estimator, Mapping):
        estimator = dict.fromkeys(names, estimator)
    for name in estimator:
        if name not in names:
            raise EstimatorError(f"estimator names {name!r}, which is no node of q. {did_you_mean(name, names)}")
    for name in names:
        found = estimator.get(name, "auto")
        if not (isinstance(found, Estimator) or found == "auto"):
            raise EstimatorError(f"the estimator of node {name!r} is {found!r}: an Estimator, or 'auto'")
    return {name: estimator.get(name, "auto") for name in names}
