"""Components: classes that record their arguments, so that a checkpoint contains them as plain data.

A checkpoint must load with ``weights_only=True``, without pickled objects. Each component therefore has a ``config`` in
the form of the YAML files, ``{"class_path": ..., "init_args": {...}}``, and :func:`from_config` creates it again. Only
class paths of vaekit and of trusted packages are imported (:mod:`vaekit._core.class_paths`).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import numbers
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vaekit._core.arguments import check_arguments, type_hints
from vaekit._core.class_paths import check_class_path
from vaekit._core.component_names import component_base, find_class, resolve_arguments, suggest_class
from vaekit.exceptions import ConfigError, did_you_mean


class Component:
    """Base class of everything that a configuration can name: networks, latents, estimators, models, data.

    An argument that is annotated with a component also accepts its name, such as ``likelihood="nb"``.

    Attributes
    ----------
    short_names : tuple[str, ...]
        Common names of the class, besides its own; subclasses do not inherit them.
    kept_arguments : tuple[str, ...]
        Arguments with a default that keep their configured values, like required ones, if a flag names the class.
    """

    short_names: ClassVar[tuple[str, ...]] = ()
    kept_arguments: ClassVar[tuple[str, ...]] = ()
    _arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _record_arguments(cls.__init__)  # type: ignore[method-assign]

    @property
    def config(self) -> dict[str, Any]:
        """The class path and the arguments, as plain data."""
        arguments = {name: to_config(value, name) for name, value in self.__dict__.get("_arguments", {}).items()}
        return {"class_path": class_path(type(self)), "init_args": arguments}


def _record_arguments(init: Any) -> Any:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_arguments" not in self.__dict__:  # only the outermost constructor records
            owner = f"{type(self).__name__}: "
            call = signature.bind(self, *args, **kwargs)
            call.apply_defaults()
            arguments = resolve_arguments(init, dict(list(call.arguments.items())[1:]), owner, Component)
            check_arguments(init, arguments, owner)
            object.__setattr__(self, "_arguments", arguments)
            call.arguments.update(arguments)
            args, kwargs = call.args[1:], call.kwargs
        init(self, *args, **kwargs)

    return wrapper


def class_path(cls: type) -> str:
    """Return the shortest public import path of a class, such as ``vaekit.latents.Gaussian``."""
    parts = cls.__module__.split(".")
    for end in range(1, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:end]))
        if cls.__name__ in getattr(module, "__all__", ()) and getattr(module, cls.__name__) is cls:
            return f"{'.'.join(parts[:end])}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def to_config(value: Any, name: str = "value") -> Any:
    """Return ``value`` with dictionaries, lists, strings, numbers, booleans and None only.

    Raises
    ------
    ConfigError
        If a part of it is neither plain data nor a :class:`Component`.
    """
    if isinstance(value, Component):
        return value.config
    if isinstance(value, Mapping):
        return {str(key): to_config(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_config(item, f"{name}[{i}]") for i, item in enumerate(value)]
    plain_types: Any = {bool: bool | np.bool_, int: numbers.Integral, float: numbers.Real, str: str | Path}
    for plain_type, accepted in plain_types.items():
        if isinstance(value, accepted):  # NumPy's scalars are not plain data
            return plain_type(value)
    if value is None:
        return None
    raise ConfigError(
        f"{name} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint cannot store as plain "
        "data. Pass a vaekit component (for a network: vaekit.networks.MLP)."
    )


def from_config(config: Any, base: type | None = None) -> Any:
    """Create the components that a plain ``config`` describes; return other values unchanged.

    Parameters
    ----------
    config : Any
        Plain data.
    base : type or None
        Base class of the component, which a class path without a package then may name: ``NegativeBinomial``.

    Raises
    ------
    ConfigError
        If a class path is outside vaekit and the trusted packages, does not exist or is not a component, or if an
        argument is unknown or missing.
    """
    if isinstance(config, list):
        return [from_config(item, base) for item in config]
    if not isinstance(config, Mapping):
        return config
    if "class_path" not in config:
        return {key: from_config(item, base) for key, item in config.items()}
    path, init_args = str(config["class_path"]), config.get("init_args") or {}
    cls = _import_component(path) if base is None or "." in path else _named_component(path, base)
    if not isinstance(init_args, Mapping):
        raise ConfigError(f"{path}: init_args={init_args!r} must be a mapping of arguments.")
    if inspect.isabstract(cls):
        raise ConfigError(f"{path} is an abstract class. Name one of its subclasses.")
    hints = type_hints(cls.__init__)
    arguments = {key: from_config(item, component_base(hints.get(key), Component)) for key, item in init_args.items()}
    parameters = inspect.signature(cls).parameters
    for key in arguments:
        if key not in parameters:
            raise ConfigError(f"{path}: argument {key!r} not found. {did_you_mean(key, parameters)}")
    required = [key for key, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if missing := [key for key in required if key not in arguments]:
        raise ConfigError(f"{path}: argument {', '.join(map(repr, missing))} is missing.")
    return cls(**arguments)


def _named_component(name: str, base: type) -> type[Component]:
    cls = find_class(base, name)
    if cls is None:
        raise ConfigError(f"class {name!r} is not a {base.__name__}. {suggest_class(base, name)}")
    return cls


def _import_component(path: str) -> type[Component]:
    check_class_path(path, packages=("vaekit",))  # as a string, before anything is imported
    module, _, name = path.rpartition(".")
    if not module:
        raise ConfigError(f"class path {path!r} does not name a package. Classes outside vaekit need one.")
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"class path {path!r}: module {error.name!r} not found.") from error
    cls = getattr(package, name, None)
    if not (isinstance(cls, type) and issubclass(cls, Component)):
        names = getattr(package, "__all__", [])
        raise ConfigError(f"class path {path!r} does not name a component. {did_you_mean(name, names)}")
    return cls
