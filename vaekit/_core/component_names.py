"""Components by name: the class of a name, and arguments in which a name stands for a component.

The annotation of an argument, such as ``likelihood: Likelihood``, determines the classes that a name can mean there:
``"Gaussian"`` is a latent or a likelihood.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vaekit._core.arguments import short_repr, type_hints
from vaekit.exceptions import ConfigError, did_you_mean


def concrete_subclasses(base: type) -> Iterator[type]:
    """Yield the public classes that can stand for a base class, itself included."""
    if not base.__name__.startswith("_") and not inspect.isabstract(base):
        yield base
    subclasses: list[type] = base.__subclasses__()
    for cls in subclasses:
        yield from concrete_subclasses(cls)


def class_names(base: type) -> dict[str, type]:
    """Return the concrete subclasses by their names and short names; classes of vaekit precede others."""
    names: dict[str, type] = {}
    classes = sorted(concrete_subclasses(base), key=lambda cls: not cls.__module__.startswith("vaekit."))
    for cls in classes:
        names.setdefault(cls.__name__, cls)
    for cls in classes:
        for name in vars(cls).get("short_names", ()):
            names.setdefault(name, cls)
    return names


def find_class(base: type, name: str) -> type | None:
    """Return the subclass that a name means, regardless of case, underscores and hyphens; None if it means none.

    Examples
    --------
    >>> from vaekit.likelihoods import Likelihood
    >>> find_class(Likelihood, "NegativeBinomial") is find_class(Likelihood, "nb")
    True
    >>> find_class(Likelihood, "zero_inflated_negative_binomial").__name__, find_class(Likelihood, "nbb")
    ('ZeroInflatedNegativeBinomial', None)
    """
    names = class_names(base)
    return names.get(name) or {_fold(key): cls for key, cls in reversed(names.items())}.get(_fold(name))


def _fold(name: str) -> str:
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()


def suggest_class(base: type, name: str) -> str:
    """Return a sentence for the end of an error message: the nearest name of a class, or all names."""
    return did_you_mean(name, class_names(base), limit=24)


def component_base(hint: Any, kind: type) -> type | None:
    """Return the first class in an annotation that is a subclass of ``kind``, also within lists and dictionaries."""
    if inspect.isclass(hint) and issubclass(hint, kind):
        return hint
    return next(filter(None, (component_base(part, kind) for part in typing.get_args(hint))), None)


def resolve_arguments(
    function: Callable[..., Any], arguments: Mapping[str, Any], owner: str, kind: type
) -> dict[str, Any]:
    """Return arguments in which each name of a component is replaced by the component with its default arguments.

    Parameters
    ----------
    function : Callable
        Constructor with annotations.
    arguments : Mapping[str, Any]
        Values by name.
    owner : str
        Prefix of the names in messages, such as ``"GaussianVAE: "``.
    kind : type
        Base class of all components.

    Raises
    ------
    ConfigError
        If a component is required, and the value is a class, an unknown name, or another object.
    """
    hints, resolved = type_hints(function), dict(arguments)
    for name, value in arguments.items():
        base = component_base(hints.get(name), kind)
        if base is not None:
            resolved[name] = _resolve(value, hints[name], base, f"{owner}{name}")
    return resolved


def _resolve(value: Any, hint: Any, base: type, name: str) -> Any:
    options = typing.get_args(hint) if not inspect.isclass(hint) and typing.get_origin(hint) is not dict else (hint,)
    if any(typing.get_origin(option) is dict for option in options) and value is not None:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name}={short_repr(value)} must be a dictionary of {base.__name__} objects by name.")
        return {key: _resolve(item, base, base, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, str) and not any(value in typing.get_args(option) for option in options):
        return _from_name(base, value, name)
    if inspect.isclass(value) and issubclass(value, base):
        raise ConfigError(f"{name}={value.__name__} is a class. Add parentheses: {value.__name__}(...).")
    accepts_others = any(not inspect.isclass(option) or not issubclass(option, base) for option in options)
    if not isinstance(value, base) and not accepts_others:
        examples = ", ".join(cls.__name__ for cls in dict.fromkeys(class_names(base).values()))
        raise ConfigError(f"{name}={short_repr(value)} must be {_article(base)}: {examples}.")
    return value


def _from_name(base: type, text: str, name: str) -> Any:
    cls = find_class(base, text)
    if cls is None:
        raise ConfigError(f"{name}={text!r} is not {_article(base)}. {suggest_class(base, text)}")
    parameters = inspect.signature(cls).parameters.values()
    if required := [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]:
        raise ConfigError(
            f"{name}={text!r}: {cls.__name__} requires {', '.join(required)}. Pass {cls.__name__}({required[0]}=...)."
        )
    return cls()


def _article(base: type) -> str:
    return f"{'an' if base.__name__[0] in 'AEIOU' else 'a'} {base.__name__}"
