"""Which classes a configuration or a checkpoint may name: those of a few packages, told from the text alone.

A file from somebody else must run no code. What it names as ``class_path`` is imported and called, so the name is
checked as a string before anything is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vaekit.exceptions import ConfigError

ALLOWED = ("vaekit", "torch", "pytorch_lightning")
MAX_VALUES = 100_000  # in one configuration: a few aliases of YAML can stand for billions

_PATH = re.compile(r"[^\W\d_]\w*(\.[^\W\d_]\w*)*")  # no component begins with an underscore: nothing private
_trusted: dict[str, None] = {}  # in the order in which they were named


def trust(packages: Iterable[str]) -> None:
    """Allow the classes of further packages, from now on in this process: to load them is to run their code.

    Raises
    ------
    ConfigError
        If a name is none of a package.
    """
    if isinstance(packages, str):
        packages = [packages]
    for package in packages:
        if not isinstance(package, str) or not all(part.isidentifier() for part in package.split(".")):
            raise ConfigError(f"trust: {package!r} is no package; give a name such as 'mypackage'")
        _trusted[package] = None


def trusted() -> tuple[str, ...]:
    """Return the packages that were trusted in this process besides those of :data:`ALLOWED`."""
    return tuple(_trusted)


def check_class_path(path: Any, where: str = "", packages: Iterable[str] = ALLOWED) -> str:
    """Return a class path that leads into one of the packages or a trusted one; nothing is imported.

    Parameters
    ----------
    path
        A class path, or the bare name of a class.
    where
        What names it, for the message.
    packages
        Packages that are allowed without being trusted.

    Raises
    ------
    ConfigError
        If it leads elsewhere, or is no path of a class.

    Examples
    --------
    >>> check_class_path("vaekit.latents.Gaussian"), check_class_path("Gaussian")
    ('vaekit.latents.Gaussian', 'Gaussian')
    >>> check_class_path("os.system")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    vaekit.exceptions.ConfigError: class path 'os.system' leads outside vaekit, torch, pytorch_lightning...
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(path, str):
        raise ConfigError(f"{prefix}class_path is a {type(path).__name__}, not the name of a class")
    name = path if len(path) <= 80 else path[:80] + "..."
    allowed = (*packages, *_trusted)
    if "." in path and not any(path.startswith(f"{package}.") for package in allowed):
        head = path.split(".")[0]
        advice = f"; if you trust it, pass --trust {head} (in Python: trust=[{head!r}])" if head.isidentifier() else ""
        raise ConfigError(
            f"{prefix}class path {name!r} leads outside {', '.join(allowed)}, and nothing of it was imported{advice}"
        )
    own = next((package for package in _trusted if path.startswith(f"{package}.")), "")
    if not _PATH.fullmatch(path[len(own) + 1 :] if own else path):
        raise ConfigError(f"{prefix}class path {name!r} is no path of a public class, such as 'vaekit.GaussianVAE'")
    return path


def check_class_paths(config: Any, where: str = "") -> None:
    """Check every ``class_path`` of a configuration that was read as plain data.

    Raises
    ------
    ConfigError
        If one is refused by :func:`check`, or there are too many values.
    """
    left = MAX_VALUES
    waiting = [("", config)]
    while waiting:
        key, value = waiting.pop()
        left -= 1
        if left < 0:
            raise ConfigError(f"{where}: more than {MAX_VALUES} values, where a configuration has some hundred")
        if isinstance(value, Mapping):
            for name in ("class_path", "_class_path"):
                if name in value:
                    check_class_path(value[name], ": ".join(filter(None, (where, key))))
            waiting += [(f"{key}.{name}" if key else str(name), item) for name, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{key}[{i}]", item) for i, item in enumerate(value)]
