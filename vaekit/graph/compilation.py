"""Expectations inside functions that ``torch.compile`` compiles.

The module is imported only during a compilation, because importing torch's compiler takes seconds.
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
    "An expectation runs outside the compiled graph if a cost or distribution is a plain function, or an estimator is "
    "'auto' or differentiates the cost with torch.autograd.grad. Give functions as NodeFunction and estimators by "
    "class, or compile without fullgraph=True."
)
_accepts_reason = "reason" in inspect.signature(torch.compiler.disable).parameters
_disable: Any = torch.compiler.disable(reason=_REASON) if _accepts_reason else torch.compiler.disable


@_disable
def outside_graph(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return ``function(*args, **kwargs)``, executed without compilation."""
    return function(*args, **kwargs)


@torch.compiler.allow_in_graph
def check_path(message: str, every: bool, value: Tensor, *outputs: Tensor) -> Tensor:
    """Return zero if any output, or ``every`` output, has a gradient path to ``value``; else raise an EstimatorError.

    The check is a node of the compiled graph. It does not run on the compiler's own tensors: the error is raised when
    the graph is first called, or passed to the backend.
    """
    if not isinstance(value, FakeTensor):
        has_path = [has_gradient_path(output, value) for output in outputs]
        if not (all(has_path) if every else any(has_path)):
            raise EstimatorError(message)
    return value.detach().new_zeros(())
