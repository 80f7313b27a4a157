"""Components remember the arguments they were made with, so that a checkpoint holds them as plain data.

A checkpoint must load with ``weights_only=True``: no pickled objects. Each component therefore has a
``config`` of the same form as the YAML files, ``{"class_path": ..., "init_args": {...}}``, and
:func:`from_config` makes it again. Only class paths inside vaekit, or inside packages that are trusted
(:mod:`vaekit._core.class_paths`), are followed.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import numbers
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaekit._core.arguments import check_arguments
from vaekit._core.class_paths import check_class_path
from vaekit.exceptions import ConfigError, did_you_mean


class Component:
    """Base of everything that a configuration can name: networks, latents, estimators, models, data."""

    _arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    @property
    def config(self) -> dict[str, Any]:
        """The class path and arguments, as plain data (see :func:`plain`)."""
        arguments = {name: to_config(value, name) for name, value in self.__dict__.get("_arguments", {}).items()}
        return {"class_path": class_path(type(self)), "init_args": arguments}


def _recording(init: Any) -> Any:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_arguments" not in self.__dict__:  # the outermost constructor: super().__init__ comes later
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = dict(list(bound.arguments.items())[1:])
            check_arguments(init, arguments, f"{type(self).__name__}: ")
            object.__setattr__(self, "_arguments", arguments)
        init(self, *args, **kwargs)

    return wrapper


def class_path(cls: type) -> str:
    """Return the shortest public import path of a class, such as ``vaekit.latents.Gaussian``."""
    parts = cls.__module__.split(".")
    for end in range(1, len(parts) + 1):
        package = sys.modules.get(".".join(parts[:end]))
        if cls.__name__ in getattr(package, "__all__", ()) and getattr(package, cls.__name__) is cls:
            return f"{'.'.join(parts[:end])}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def to_config(value: Any, name: str = "value") -> Any:
    """Return ``value`` made of dict, list, str, numbers, booleans and None only.

    Raises
    ------
    ConfigError
        If some part of it is neither plain nor a :class:`Component`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | numbers.Integral | numbers.Real):  # NumPy's scalars are no plain data
        return (
            str(value)
            if isinstance(value, str)
            else int(value)
            if isinstance(value, numbers.Integral)
            else float(value)
        )
    if type(value).__name__ == "bool":  # NumPy's
        return bool(value)
    if isinstance(value, Component):
        return value.config
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_config(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_config(item, f"{name}[{i}]") for i, item in enumerate(value)]
    raise ConfigError(
        f"{name} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint cannot hold as plain "
        "data: pass a vaekit component (for a network: vaekit.networks.MLP)"
    )


def from_config(config: Any) -> Any:
    """Make the components that a plain ``config`` describes; anything else comes back as it is.

    Raises
    ------
    ConfigError
        If a class path leads outside vaekit and the trusted packages, to nothing, or to something that is no
        component; if an argument is unknown.
    """
    if isinstance(config, list):
        return [from_config(item) for item in config]
    if not isinstance(config, Mapping):
        return config
    if "class_path" not in config:
        return {key: from_config(item) for key, item in config.items()}
    cls = _resolve(str(config["class_path"]))
    given = config.get("init_args") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{config['class_path']}: init_args is a {type(given).__name__}, not a mapping of arguments")
    if inspect.isabstract(cls):
        raise ConfigError(f"{config['class_path']} is abstract: name one of its subclasses")
    arguments = {key: from_config(item) for key, item in given.items()}
    known = inspect.signature(cls).parameters
    for key in arguments:
        if key not in known:
            raise ConfigError(f"{config['class_path']} has no argument {key!r}. {did_you_mean(key, known)}")
    required = [key for key, p in known.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if missing := [key for key in required if key not in arguments]:
        raise ConfigError(f"{config['class_path']} lacks the argument {', '.join(map(repr, missing))}")
    return cls(**arguments)


def _resolve(path: str) -> type[Component]:
    check_class_path(path, packages=("vaekit",))  # as a string, before anything is imported
    module, _, name = path.rpartition(".")
    if not module:
        raise ConfigError(f"class path {path!r} names no package: nothing outside vaekit is looked for")
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"class path {path!r}: there is no module {error.name!r}") from error
    found = getattr(package, name, None)
    if not (isinstance(found, type) and issubclass(found, Component)):
        raise ConfigError(
            f"class path {path!r} names no component. {did_you_mean(name, getattr(package, '__all__', []))}"
        )
    return found
