"""Every public function and class has an example in its docstring, which the doctests run."""

import doctest
import inspect
from types import ModuleType
from typing import Any

import pytest

import vaekit

NEEDS_AN_EXTRA = {"vaekit.analysis.integration_scores"}  # scib-metrics
PACKAGES = [name for name in vaekit.__all__ if isinstance(getattr(vaekit, name), ModuleType)]


def public_objects() -> dict[str, Any]:
    """Return the functions and classes that vaekit and its public packages export, each once, by path."""
    found: dict[int, tuple[str, Any]] = {}
    for path, module in [("vaekit", vaekit), *((f"vaekit.{name}", getattr(vaekit, name)) for name in PACKAGES)]:
        for name in exported_names(module):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(id(value), (f"{path}.{name}", value))
    return dict(found.values())


def exported_names(module: ModuleType) -> list[str]:
    """Return ``__all__``, or the public names that a module without it defines."""
    defined = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return getattr(module, "__all__", [name for name in defined if not name.startswith("_")])


def runs_an_example(text: str) -> bool:
    """Return whether a docstring has an example of which more than the import is run."""
    examples = doctest.DocTestParser().get_examples(text)
    executed = [example.source for example in examples if not example.options.get(doctest.SKIP)]
    return any(not source.startswith(("import ", "from ")) for source in executed)


OBJECTS = public_objects()


def test_every_package_exports_something():
    assert {"analysis", "estimators", "graph", "plotting"} <= set(PACKAGES)
    assert len(OBJECTS) > 140


@pytest.mark.parametrize("path", OBJECTS)
def test_has_an_example(path):
    own = vars(OBJECTS[path]).get("__doc__") if inspect.isclass(OBJECTS[path]) else OBJECTS[path].__doc__
    assert path in NEEDS_AN_EXTRA or runs_an_example(own or ""), f"{path} has no example in its docstring"


def test_an_import_is_not_an_example():
    assert not runs_an_example(">>> import vaekit\n>>> vaekit.load('x')  # doctest: +SKIP\n")
    assert runs_an_example(">>> import vaekit\n>>> vaekit.__version__ > ''\nTrue\n")
