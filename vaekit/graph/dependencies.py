"""Dependencies of a graph, as its functions declare them: nodes with their parents, cost terms with their inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.distributions import Distribution

from vaekit.estimators.estimator import Estimator
from vaekit.exceptions import EstimatorError, did_you_mean


class NodeFunction(NamedTuple):
    """A function with the names of the nodes that it depends on, for functions whose signature does not name them.

    Attributes
    ----------
    function : Callable
        Called as ``function(**{name: value})``.
    inputs : tuple[str, ...]
        Nodes that it depends on.
    optional : tuple[str, ...]
        The inputs that the function accepts as ``**values`` and may ignore.
    """

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    optional: tuple[str, ...] = ()


class Node(NamedTuple):
    """A random node."""

    name: str
    q: Distribution | NodeFunction  # a function returns the distribution for values of the parents
    parents: tuple[str, ...]  # inputs of q
    ancestors: frozenset[str]  # nodes that it depends on, itself included


def parse_graph(cost: Any, q: Any) -> tuple[list[Node], dict[str, NodeFunction]]:
    """Return the nodes, parents first, and the cost terms by name."""
    has_names = isinstance(q, Mapping)
    distributions = dict(q) if has_names else {"value": q}
    if not distributions:
        raise EstimatorError("expectation: q={} has no nodes. Give a distribution or a dictionary of them.")
    for name, item in distributions.items():
        if not isinstance(item, Distribution):
            distributions[name] = _parse_function(item, distributions, f"q[{name!r}]")
    terms = {}
    for name, item in (cost if isinstance(cost, Mapping) else {"cost": cost}).items():
        label = "cost" if name == "cost" else f"cost[{name!r}]"
        terms[name] = _parse_function(item, distributions, label, positional=not has_names)
    return _sort_nodes(distributions), terms


def _parse_function(function: Any, nodes: Mapping[str, Any], label: str, positional: bool = False) -> NodeFunction:
    """Return the function with its inputs; ``positional`` calls it with the only node's value, under any name."""
    if not has_inputs(function):
        if not callable(function):
            kind = "function of nodes" if label.startswith("cost") else "distribution or a function of nodes"
            raise EstimatorError(f"{label} is a {type(function).__name__}. Give a {kind}.")
        function = _read_signature(function, nodes, positional)
    for name in function.inputs:
        if name not in nodes:
            raise EstimatorError(f"{label}: node {name!r} not found in q. {did_you_mean(name, nodes)}")
    return function


def has_inputs(function: Any) -> bool:
    """Return whether a function names its inputs, so that its signature does not matter."""
    return isinstance(function, NodeFunction)


def _read_signature(function: Callable[..., Any], nodes: Mapping[str, Any], positional: bool) -> NodeFunction:
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # builtins such as torch.sum do not have a signature
        if not positional:
            raise
        return NodeFunction(lambda value: function(value), ("value",))
    if positional:
        return NodeFunction(lambda value: function(value), ("value",)) if parameters else NodeFunction(function, ())
    required: list[str] = []
    optional: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            optional += [name for name in nodes if name not in required]
        elif parameter.name in nodes or (
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        ):
            required.append(parameter.name)
    return NodeFunction(function, (*required, *optional), tuple(optional))


def _sort_nodes(distributions: Mapping[str, Distribution | NodeFunction]) -> list[Node]:
    """Return the nodes, parents first and otherwise as declared."""
    parents = {name: () if isinstance(q, Distribution) else q.inputs for name, q in distributions.items()}
    nodes: dict[str, Node] = {}
    while len(nodes) < len(distributions):
        remaining = [name for name in distributions if name not in nodes]
        name = next((name for name in remaining if all(parent in nodes for parent in parents[name])), None)
        if name is None:
            raise EstimatorError(f"expectation: q has a cycle among {remaining}. Remove one of these dependencies.")
        ancestors = frozenset({name}).union(*(nodes[parent].ancestors for parent in parents[name]))
        nodes[name] = Node(name, distributions[name], parents[name], ancestors)
    return list(nodes.values())


def assign_estimators(estimator: Any, names: list[str]) -> dict[str, Estimator | None]:
    """Return the estimator of each node; None stands for ``"auto"``."""
    estimators = estimator if isinstance(estimator, Mapping) else dict.fromkeys(names, estimator)
    for name in estimators:
        if name not in names:
            raise EstimatorError(f"estimator: node {name!r} not found in q. {did_you_mean(name, names)}")
    assigned: dict[str, Estimator | None] = {}
    for name in names:
        item = estimators.get(name, "auto")
        if not isinstance(item, Estimator) and item != "auto":
            raise EstimatorError(f"estimator={item!r} of node {name!r} must be an Estimator or 'auto'.")
        assigned[name] = None if item == "auto" else item
    return assigned
