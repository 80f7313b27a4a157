"""Flags that name a class: each starts from that class's defaults, whatever the configuration has in its place."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from vaekit._core.components import Component
from vaekit.exceptions import ConfigError

# Where a bare name is looked up, by the key that it is given to: a Gaussian is a latent, or a likelihood.
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


def expand_class_defaults(arguments: list[str]) -> list[str]:
    """Return the arguments, with all those of a class where a flag below ``--model.`` names one of vaekit's.

    The parser would keep those arguments of the configuration's class that the new one has too, and all if it is the
    same class: ``--model.estimator GumbelSoftmax`` would be another estimator in each configuration.

    Raises
    ------
    ConfigError
        If a flag would undo an earlier one.
    """
    completed = list(arguments)
    for i, (key, text) in _flags(arguments):
        config = _config(text)
        filled = with_defaults(config, key)
        if filled is config:
            continue
        for j, (earlier, _) in _flags(arguments[:i]):
            if _short(earlier).startswith(f"{_short(key)}."):
                raise ConfigError(
                    f"{arguments[i].partition('=')[0]} names a class, with its defaults, and would undo "
                    f"{arguments[j].partition('=')[0]} before it: name the class first"
                )
        if "=" in arguments[i]:
            completed[i] = f"--{key}={json.dumps(filled)}"
        else:
            completed[i + 1] = json.dumps(filled)
    return completed


def with_defaults(config: Any, key: str) -> Any:
    """Return the configuration of a component with all of its arguments, in the components within it too.

    What is no such configuration, or names no class of vaekit that fits the key, comes back as it is.

    Parameters
    ----------
    config
        ``{"class_path": ..., "init_args": {...}}``.
    key
        What it is given to, such as ``"model.estimator"``.

    Examples
    --------
    >>> with_defaults({"class_path": "ReinMax", "init_args": {"num_samples": 2}}, "model.estimator")["init_args"]
    {'temperature': 1.0, 'num_samples': 2}
    """
    if not isinstance(config, Mapping):
        return config
    cls, given = component_class(config.get("class_path"), key), config.get("init_args") or {}
    if cls is None or not isinstance(given, Mapping):
        return config
    arguments = {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty
    }
    given = {name: with_defaults(value, name) for name, value in given.items()}
    return {**config, "init_args": {**arguments, **given}}


def component_class(path: Any, key: str) -> type | None:
    """Return the class of vaekit that is meant; nothing else is imported."""
    *keys, name = key.split(".")
    package = "latents" if keys[-1:] == ["latents"] else PACKAGES.get(name)
    if not isinstance(path, str):
        return None
    if "." in path:
        package = next((p for p in PACKAGES.values() if path.startswith(f"vaekit.{p}.")), None)
    if package is None:
        return None
    found = getattr(import_module(f"vaekit.{package}"), path.rpartition(".")[2], None)
    return found if isinstance(found, type) and issubclass(found, Component) else None


def _flags(arguments: list[str]) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield the places, keys and values of the flags below ``--model.``."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.startswith("--model."):
            yield i, (name.removeprefix("--"), value if equals else "".join(arguments[i + 1 : i + 2]))


def _config(text: str) -> Any:
    """Return what a flag's value stands for: a bare name, or JSON."""
    if not text.lstrip().startswith("{"):
        return {"class_path": text}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # the parser says what is wrong with it
        return None


def _short(key: str) -> str:
    return key.replace(".init_args", "")
