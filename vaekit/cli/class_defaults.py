"""Classes that flags name: a class starts from its own defaults, regardless of the configuration's arguments."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from vaekit._core.components import Component

# A bare class name is looked up by the key it is assigned to: Gaussian is a latent or a likelihood.
PACKAGES = {
    "estimator": "estimators",
    "baseline": "estimators",
    "critic": "estimators",
    "temperature": "estimators",
    "likelihood": "likelihoods",
    "objective": "models.objectives",
    "encoder": "networks",
    "decoder": "networks",
    "network": "networks",
    "control_variate": "networks",
    "latents": "latents",
    "regularizer": "models.regularizers",
}


def expand_class_defaults(key: str, text: str) -> str:
    """Return the value of a flag, with all default arguments if it names a component.

    Without them, jsonargparse would keep the configuration's arguments that the new class has, too:
    ``--model.estimator GumbelSoftmax`` would be another estimator in each configuration.

    Examples
    --------
    >>> expand_class_defaults("model.estimator", "ReinMax")
    '{"class_path": "ReinMax", "init_args": {"temperature": 1.0, "num_samples": 1}}'
    >>> expand_class_defaults("model.hidden", "[64]")
    '[64]'
    """
    config: Any = {"class_path": text}
    if text.lstrip().startswith("{"):
        try:
            config = json.loads(text)
        except (ValueError, RecursionError):  # the parser reports the problem
            return text
    expanded = with_defaults(config, key)
    return text if expanded is config else json.dumps(expanded)


def with_defaults(config: Any, key: str) -> Any:
    """Return the configuration of a component with all of its arguments, nested components included.

    Anything that is not the configuration of a component that fits the key is returned unchanged.

    Parameters
    ----------
    config : Any
        ``{"class_path": ..., "init_args": {...}}``.
    key : str
        Key of the configuration that it is assigned to, such as ``"model.estimator"``.

    Examples
    --------
    >>> with_defaults({"class_path": "ReinMax", "init_args": {"num_samples": 2}}, "model.estimator")["init_args"]
    {'temperature': 1.0, 'num_samples': 2}
    """
    if not isinstance(config, Mapping):
        return config
    cls, arguments = component_class(config.get("class_path"), key), config.get("init_args") or {}
    if cls is None or not isinstance(arguments, Mapping):
        return config
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty
    }
    return {**config, "init_args": {**defaults, **{k: with_defaults(v, k) for k, v in arguments.items()}}}


def component_class(path: Any, key: str) -> type[Component] | None:
    """Return the vaekit class that a path or bare name refers to, or None; modules outside vaekit are not imported."""
    *parents, name = key.split(".")
    package = "latents" if parents[-1:] == ["latents"] else PACKAGES.get(name)
    if not isinstance(path, str):
        return None
    if "." in path:
        package = next((p for p in PACKAGES.values() if path.startswith(f"vaekit.{p}.")), None)
    if package is None:
        return None
    cls = getattr(import_module(f"vaekit.{package}"), path.rpartition(".")[2], None)
    return cls if isinstance(cls, type) and issubclass(cls, Component) else None


def resolve_estimator_key(key: str, config: Mapping[str, Any]) -> str:
    """Return ``model.estimator`` as the key of the configuration's only discrete latent.

    The key stays unchanged if the latents have no names (``DiscreteVAE``), or if not exactly one of them is discrete.

    Examples
    --------
    >>> latents = {"y": {"class_path": "Categorical"}, "z": {"class_path": "Gaussian"}}
    >>> resolve_estimator_key("model.estimator", {"model": {"init_args": {"latents": latents}}})
    'model.latents.y.estimator'
    """
    flag = "model.estimator"
    if key != flag and not key.startswith(f"{flag}."):
        return key
    latents: Any = config
    for name in ("model", "init_args", "latents"):
        latents = latents.get(name) if isinstance(latents, Mapping) else None
    named = latents.items() if isinstance(latents, Mapping) else ()
    discrete = [name for name, latent in named if _is_discrete(name, latent)]
    return f"model.latents.{discrete[0]}.estimator{key.removeprefix(flag)}" if len(discrete) == 1 else key


def _is_discrete(name: str, latent: Any) -> bool:
    path = latent.get("class_path") if isinstance(latent, Mapping) else latent
    return getattr(component_class(path, f"latents.{name}"), "discrete", False) is True
