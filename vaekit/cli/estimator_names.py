"""Estimators as they are written on a command line: a name, or a call with named arguments."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from vaekit.exceptions import ConfigError


def estimator_config(text: str) -> dict[str, Any]:
    """Return the configuration that a text stands for; nothing is evaluated.

    Raises
    ------
    ConfigError
        If it is neither a name nor a call with named arguments that are plain values or such calls.

    Examples
    --------
    >>> estimator_config("ReinMax")
    {'class_path': 'ReinMax'}
    >>> estimator_config("ScoreFunction(num_samples=2, baseline=LeaveOneOut())")["init_args"]
    {'num_samples': 2, 'baseline': {'class_path': 'LeaveOneOut'}}
    """
    try:
        found = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        found = None
    if not (isinstance(found, dict) and "class_path" in found):
        raise ConfigError(
            f"{text!r} is no estimator: a name is needed, such as ReinMax, or a call with named arguments, such as "
            '"ScoreFunction(num_samples=2, baseline=LeaveOneOut())"'
        )
    return found


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with all arguments of the estimator, so that none is taken over from another one.

    Where a configuration names an estimator already, the parser keeps those of its arguments that the new one has too.

    Examples
    --------
    >>> with_defaults({"class_path": "ReinMax", "init_args": {"num_samples": 2}})["init_args"]
    {'temperature': 1.0, 'num_samples': 2}
    """
    import vaekit.estimators

    cls = getattr(vaekit.estimators, config["class_path"], None)
    if not isinstance(cls, type):  # the parser tells what there is
        return config
    arguments = {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty
    }
    return {**config, "init_args": {**arguments, **config.get("init_args", {})}}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return {"class_path": node.id}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        arguments = {keyword.arg: _value(keyword.value) for keyword in node.keywords}
        if None in arguments:  # **mapping
            raise ValueError
        return {"class_path": node.func.id, **({"init_args": arguments} if arguments else {})}
    return ast.literal_eval(node)
