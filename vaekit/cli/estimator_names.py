"""Estimators as they are written on a command line: a name, or a call with named arguments."""

from __future__ import annotations

import ast
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


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return {"class_path": node.id}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        arguments = {keyword.arg: _value(keyword.value) for keyword in node.keywords}
        if None in arguments:  # **mapping
            raise ValueError
        return {"class_path": node.func.id, **({"init_args": arguments} if arguments else {})}
    return ast.literal_eval(node)
