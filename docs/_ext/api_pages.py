"""Functions for the templates of the API pages."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module

import vaekit

for name in ("objectives", "regularizers", "returns"):  # attributes of vaekit whose files are elsewhere
    sys.modules[f"vaekit.{name}"] = getattr(vaekit, name)


def top_level_names(module: str) -> list[str]:
    """Return the names of a package that are also names of ``vaekit``, where their pages are."""
    if module == "vaekit":
        return []
    package = import_module(module)
    return [name for name in vaekit.__all__ if getattr(package, name, None) is getattr(vaekit, name)]


def inherited_methods(module: str, name: str) -> list[str]:
    """Return the public methods that a class inherits from other classes of vaekit, as full names.

    A method that overrides another without a docstring counts as inherited.
    """
    cls = getattr(import_module(module), name)
    methods: dict[str, str] = {}
    for base in cls.__mro__:
        for member, value in vars(base).items():
            documented = inspect.isfunction(value) and value.__doc__ and not member.startswith("_")
            if documented and base.__module__.startswith("vaekit."):
                methods.setdefault(member, f"{base.__module__}.{base.__qualname__}")
    own = f"{cls.__module__}.{cls.__qualname__}"
    return [f"{base}.{member}" for member, base in methods.items() if base != own]
