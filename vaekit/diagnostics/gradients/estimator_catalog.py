"""The estimators that a report is about: their names, whether they are unbiased, which ones a node can have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch.distributions import Distribution

import vaekit.estimators as exported
from vaekit._core.components import Component
from vaekit.estimators import Baseline, Estimator, ScoreFunction
from vaekit.exceptions import VaekitError


def is_unbiased(estimator: Any) -> bool:
    """Tell whether an estimator is known to be unbiased; a dictionary of them, if all are.

    ``"auto"`` chooses unbiased ones only. Sticking the landing is unbiased for some costs (a bound on the evidence that
    is a plain mean), and does not count here.

    Examples
    --------
    >>> from vaekit.estimators import GumbelSoftmax, LeaveOneOut
    >>> is_unbiased(ScoreFunction(baseline=LeaveOneOut())), is_unbiased(GumbelSoftmax())
    (True, False)
    """
    if isinstance(estimator, Mapping):
        return all(map(is_unbiased, estimator.values()))
    return not isinstance(estimator, Estimator) or (estimator.unbiased and not estimator.stick_the_landing)


def label(component: Any) -> str:
    """Name an estimator with the arguments that differ from their defaults, in one short line.

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
    defaults = inspect.signature(type(component)).parameters
    parts = []
    for name, value in vars(component).get("_arguments", {}).items():
        default = defaults[name].default if name in defaults else None
        if isinstance(value, Component):
            parts.append(label(value))
        elif value is True and default is False:
            parts.append(name)
        elif value != default:
            parts.append(str(value) if name == "num_samples" else f"{name}={value}")
    return type(component).__name__ + (f"({', '.join(parts)})" if parts else "")


def compatible_estimators(q: Distribution) -> tuple[dict[str, Estimator], dict[str, str]]:
    """Return every exported estimator that fits a distribution, and why others that would are left out.

    Each has its default arguments, and a second row for each switch (``hard``, say) turned on; the score function
    comes with each baseline that needs no network.

    Returns
    -------
    estimators, left_out
        Estimators, and reasons, by name.
    """
    found: dict[str, Estimator] = {}
    left_out: dict[str, str] = {}
    classes = [part for name in exported.__all__ if inspect.isclass(part := getattr(exported, name))]
    baselines = [c for c in classes if issubclass(c, Baseline) and not inspect.isabstract(c)]
    for cls in classes:
        if not issubclass(cls, Estimator) or inspect.isabstract(cls) or not cls.supports(q):
            continue
        variants: list[dict[str, Any]] = [{}]
        for name, parameter in inspect.signature(cls).parameters.items():
            if parameter.default is False:
                variants.append({name: True})
        if cls is ScoreFunction:
            for baseline in baselines:
                if _needs(baseline):
                    left_out[f"ScoreFunction({baseline.__name__})"] = f"needs its own {_needs(baseline)}"
                else:
                    variants.append({"baseline": baseline()})
        if _needs(cls):
            left_out[cls.__name__] = f"needs its own {_needs(cls)}"
            continue
        for arguments in variants:
            try:
                estimator = cls(**arguments)
                estimator.num_evaluations(q)  # refuses too many states
            except VaekitError as error:
                left_out[cls.__name__] = str(error)
            else:
                found[label(estimator)] = estimator
    return found, left_out


def _needs(cls: type) -> str:
    """Return the arguments without a default, such as a network."""
    return ", ".join(
        name
        for name, p in inspect.signature(cls).parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    )
