"""Estimators of a gradient report: labels, unbiasedness, and the estimators that support a distribution."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch.distributions import Distribution

from vaekit import estimators as catalog
from vaekit._core.components import Component
from vaekit.estimators import Baseline, Estimator, ScoreFunction
from vaekit.exceptions import VaekitError

UNNAMED_ARGUMENTS = {"num_samples", "baseline", "network", "control_variate"}


def is_unbiased(estimator: Any) -> bool:
    """Return whether an estimator is unbiased for every cost; for a dictionary, whether all are.

    ``"auto"`` is unbiased. Sticking the landing is unbiased for some costs only, such as the ELBO, and counts as
    biased.

    Examples
    --------
    >>> from vaekit.estimators import GumbelSoftmax, LeaveOneOut
    >>> is_unbiased(ScoreFunction(baseline=LeaveOneOut())), is_unbiased(GumbelSoftmax())
    (True, False)
    """
    if isinstance(estimator, Mapping):
        return all(map(is_unbiased, estimator.values()))
    return isinstance(estimator, str) or (estimator.unbiased and not estimator.stick_the_landing)


def label(component: Any) -> str:
    """Return the name of an estimator with the arguments that differ from their defaults.

    Examples
    --------
    >>> from vaekit.estimators import GumbelSoftmax, LeaveOneOut
    >>> label(ScoreFunction(num_samples=4, baseline=LeaveOneOut()))
    'ScoreFunction(4, LeaveOneOut)'
    >>> label(GumbelSoftmax(hard=True, temperature=0.1))
    'GumbelSoftmax(temperature=0.1, hard)'
    """
    if isinstance(component, Mapping):
        return ", ".join(f"{node}: {label(item)}" for node, item in component.items())
    if not isinstance(component, Component):
        return str(component)
    parameters = inspect.signature(type(component)).parameters
    parts = []
    for name, value in vars(component).get("_arguments", {}).items():
        default = parameters[name].default if name in parameters else None
        if value is True and default is False:
            parts.append(name)
        elif value != default:
            parts.append(label(value) if name in UNNAMED_ARGUMENTS else f"{name}={label(value)}")
    return type(component).__name__ + (f"({', '.join(parts)})" if parts else "")


def compatible_estimators(q: Distribution) -> tuple[dict[str, Estimator], dict[str, str]]:
    """Return the exported estimators that support a distribution.

    Each estimator has its default arguments. A further entry sets each boolean argument that is False by default, such
    as ``hard``. The score function is repeated with each baseline that does not need a network.

    Parameters
    ----------
    q : Distribution
        Distribution of a node.

    Returns
    -------
    estimators : dict[str, Estimator]
        Estimators by label.
    omitted : dict[str, str]
        Reasons for the omission of other estimators, by label.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli, Normal
    >>> estimators, reasons = vaekit.diagnostics.compatible_estimators(Bernoulli(logits=torch.zeros(3)))
    >>> "DisARM" in estimators, "Pathwise" in estimators
    (True, False)
    >>> reasons["RELAX"]
    'requires the argument control_variate'
    """
    estimators: dict[str, Estimator] = {}
    omitted: dict[str, str] = {}
    for cls in _exported_subclasses(Estimator):
        if not cls.supports(q):
            continue
        if required := _required_arguments(cls):
            omitted[cls.__name__] = f"requires the argument {required}"
            continue
        variants: list[dict[str, Any]] = [{}]
        variants += [{n: True} for n, p in inspect.signature(cls).parameters.items() if p.default is False]
        for baseline in _exported_subclasses(Baseline) if cls is ScoreFunction else []:
            if required := _required_arguments(baseline):
                omitted[f"ScoreFunction({baseline.__name__})"] = f"requires the argument {required}"
            else:
                variants.append({"baseline": baseline()})
        for arguments in variants:
            try:
                estimator = cls(**arguments)
                estimator.num_evaluations(q)  # raises an error if there are too many states
            except VaekitError as error:
                omitted[cls.__name__] = str(error)
            else:
                estimators[label(estimator)] = estimator
    return estimators, omitted


def _exported_subclasses(base: type[Any]) -> list[Any]:
    """Return the concrete subclasses of a class that ``vaekit.estimators`` exports."""
    classes = [item for name in catalog.__all__ if inspect.isclass(item := getattr(catalog, name))]
    return [cls for cls in classes if issubclass(cls, base) and not inspect.isabstract(cls)]


def _required_arguments(cls: type) -> str:
    """Return the names of the arguments without a default, such as a network."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(cls).parameters.items()
    return ", ".join(name for name, p in parameters if p.default is p.empty and p.kind not in variadic)
