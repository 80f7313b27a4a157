"""Classes that flags name: a class starts from its own defaults, regardless of the configuration's arguments."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from vaekit._core.component_names import class_names, find_class
from vaekit.estimators import Critic, Estimator, TemperatureSchedule
from vaekit.estimators.baselines import Baseline
from vaekit.latents import Latent
from vaekit.likelihoods import Likelihood
from vaekit.models.objectives import Objective
from vaekit.models.regularizers import Regularizer
from vaekit.networks import Network

# A bare class name is looked up by the key it is assigned to: Gaussian is a latent or a likelihood.
BASES: dict[str, type] = {
    "estimator": Estimator,
    "baseline": Baseline,
    "critic": Critic,
    "temperature": TemperatureSchedule,
    "likelihood": Likelihood,
    "objective": Objective,
    "latents": Latent,
    "regularizer": Regularizer,
    **dict.fromkeys(("encoder", "decoder", "network", "control_variate"), Network),
}


def expand_class_defaults(key: str, text: str) -> str:
    """Return the value of a flag, with all default arguments if it names a component.

    Without them, jsonargparse would keep the configuration's arguments that the new class has, too:
    ``--model.estimator GumbelSoftmax`` would be another estimator in each configuration.

    Examples
    --------
    >>> expand_class_defaults("model.estimator", "ReinMax")
    '{"class_path": "ReinMax", "init_args": {"temperature": 1.0, "num_samples": 1}}'
    >>> expand_class_defaults("model.likelihood", "poisson")
    '{"class_path": "Poisson", "init_args": {"gene_shift": null, "thinning": 0.0}}'
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
        if parameter.default is not parameter.empty and name not in getattr(cls, "kept_arguments", ())
    }
    path = config["class_path"] if "." in config["class_path"] else cls.__name__
    arguments = {**defaults, **{name: with_defaults(value, name) for name, value in arguments.items()}}
    return {**config, "class_path": path, "init_args": arguments}


def component_class(path: Any, key: str) -> type | None:
    """Return the vaekit class that a path or bare name refers to, or None; modules outside vaekit are not imported."""
    if not isinstance(path, str):
        return None
    *parents, name = key.split(".")
    base = Latent if parents[-1:] == ["latents"] else BASES.get(name)
    package, _, name = path.rpartition(".")
    if package:
        classes = [class_names(each).get(name) for each in BASES.values()]
    else:
        package, classes = "vaekit", [] if base is None else [find_class(base, name)]
    return next((cls for cls in classes if cls is not None and f"{cls.__module__}.".startswith(f"{package}.")), None)


def replace_short_names(config: Any, key: str = "") -> Any:
    """Return a configuration with the class names that other names of components stand for; else ``config`` itself.

    Examples
    --------
    >>> replace_short_names({"model": {"init_args": {"likelihood": "nb", "latent_dim": 3}}})
    {'model': {'init_args': {'likelihood': 'NegativeBinomial', 'latent_dim': 3}}}
    """
    if isinstance(config, str):
        *parents, name = key.split(".")
        is_class_path = name == "class_path"
        cls = None if "." in config else component_class(config, ".".join(parents) if is_class_path else key)
        return config if cls is None else cls.__name__
    if not isinstance(config, Mapping):
        return config
    replaced = {name: replace_short_names(value, f"{key}.{name}") for name, value in config.items()}
    return config if replaced == config else replaced


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
