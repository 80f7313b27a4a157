"""Expectations inside functions that ``torch.compile`` compiles; imported while one is compiled, and not before.

(Importing torch's compiler takes seconds.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from vaekit.exceptions import EstimatorError
from vaekit.graph.gradient_path import has_gradient_path

_REASON = (
    "An expectation runs outside the compiled graph if a cost or distribution is a plain function, an estimator is "
    "'auto', or differentiates the cost with torch.autograd.grad. Give functions as Named and estimators by class, or "
    "compile without fullgraph=True."
)
_KNOWN = "reason" in inspect.signature(torch.compiler.disable).parameters
_disable: Any = torch.compiler.disable(reason=_REASON) if _KNOWN else torch.compiler.disable


@_disable
def outside_graph(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return ``function(*args, **kwargs)``, called as if nothing were compiled."""
    return function(*args, **kwargs)


@torch.compiler.allow_in_graph
def check_path(message: str, every: bool, value: Tensor, *outputs: Tensor) -> Tensor:
    """Return zero if outputs have a gradient path to ``value``: the first of them, or every one.

    It is a node of the compiled graph: the compiler's own tensors have no say, and the error comes when the graph is
    first called, or handed to the backend.

    Raises
    ------
    EstimatorError
        With the message, if there is no path.
    """
    if not isinstance(value, FakeTensor):
        found = [has_gradient_path(output, value) for output in outputs]
        if not (all(found) if every else any(found)):
            raise EstimatorError(message)
    return value.detach().new_zeros(())
