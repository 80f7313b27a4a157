"""Class paths that a configuration or a checkpoint may name: those of a few packages, checked as strings.

A file of another person must not run code. A ``class_path`` in it is imported and called, so the name is checked
before anything is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vaekit.exceptions import ConfigError

ALLOWED = ("vaekit", "torch", "pytorch_lightning")
MAX_VALUES = 100_000  # per configuration: a few YAML aliases can stand for billions of values

_PUBLIC_PATH = re.compile(r"[^\W\d_]\w*(\.[^\W\d_]\w*)*")  # no component begins with an underscore
_trusted: dict[str, None] = {}  # in the order of the calls of trust()


def trust(packages: str | Iterable[str]) -> None:
    """Allow the classes of further packages in this process, which means to run their code.

    Raises
    ------
    ConfigError
        If a name is not a package name.
    """
    for package in [packages] if isinstance(packages, str) else packages:
        if not isinstance(package, str) or not all(part.isidentifier() for part in package.split(".")):
            raise ConfigError(f"trust: {package!r} is not a package name. Give a name such as 'mypackage'.")
        _trusted[package] = None


def trusted() -> tuple[str, ...]:
    """Return the packages that were trusted in this process, in addition to :data:`ALLOWED`."""
    return tuple(_trusted)


def check_class_path(path: Any, where: str = "", packages: Iterable[str] = ALLOWED) -> str:
    """Return a class path of an allowed or trusted package; import nothing.

    Parameters
    ----------
    path : str
        Class path, or the bare name of a class.
    where : str
        Position in the file, for messages.
    packages : Iterable[str]
        Packages that need no trust.

    Raises
    ------
    ConfigError
        If the path belongs to another package, or is not the path of a public class.

    Examples
    --------
    >>> check_class_path("vaekit.latents.Gaussian"), check_class_path("Gaussian")
    ('vaekit.latents.Gaussian', 'Gaussian')
    >>> check_class_path("os.system")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    vaekit.exceptions.ConfigError: class path 'os.system' is outside vaekit, torch, pytorch_lightning...
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(path, str):
        raise ConfigError(f"{prefix}class_path={path!r} must be the name of a class.")
    name = path if len(path) <= 80 else path[:80] + "..."
    allowed = (*packages, *_trusted)
    if "." in path and not path.startswith(tuple(f"{package}." for package in allowed)):
        head = path.split(".")[0]
        advice = f" If you trust it, pass --trust {head} (in Python: trust=[{head!r}])." if head.isidentifier() else ""
        raise ConfigError(f"{prefix}class path {name!r} is outside {', '.join(allowed)}; it was not imported.{advice}")
    package = next((package for package in _trusted if path.startswith(f"{package}.")), None)
    if not _PUBLIC_PATH.fullmatch(path if package is None else path[len(package) + 1 :]):
        raise ConfigError(f"{prefix}class path {name!r} is not a public class, such as 'vaekit.GaussianVAE'.")
    return path


def check_class_paths(config: Any, where: str = "") -> None:
    """Check every ``class_path`` of a configuration that was read as plain data.

    Raises
    ------
    ConfigError
        If :func:`check_class_path` rejects one, or there are too many values.
    """
    num_values = 0
    stack = [("", config)]
    while stack:
        key, value = stack.pop()
        num_values += 1
        if num_values > MAX_VALUES:
            raise ConfigError(f"{where}: more than {MAX_VALUES} values. A configuration has some hundred.")
        if isinstance(value, Mapping):
            for name in ("class_path", "_class_path"):
                if name in value:
                    check_class_path(value[name], ": ".join(filter(None, (where, key))))
            stack += [(f"{key}.{name}" if key else str(name), item) for name, item in value.items()]
        elif isinstance(value, list | tuple):
            stack += [(f"{key}[{i}]", item) for i, item in enumerate(value)]
