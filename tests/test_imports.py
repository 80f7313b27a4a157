"""Imports point in one direction, and the layout of the package follows from that."""

from collections import Counter

import pytest
from import_map import PACKAGE, box_graph, cycles, file_graph, imported_names, modules

BASE = {"exceptions", "_core", "batch"}
GRAPH = BASE | {"distributions", "networks", "estimators", "graph"}
MODELS = GRAPH | {"latents", "likelihoods", "models"}
DIAGNOSTICS = MODELS | {"diagnostics", "plotting"}
ALLOWED = {
    "__init__": set(),  # names its modules as strings, and imports them on first use
    "exceptions": set(),
    "batch": set(),
    "_core": {"exceptions"},
    "data": BASE,
    "distributions": BASE,
    "networks": BASE,
    "optim": BASE,
    "plotting": {"exceptions", "_core"},
    "estimators": BASE | {"distributions", "networks"},
    "graph": GRAPH,
    "latents": GRAPH,
    "likelihoods": GRAPH,
    "models": MODELS | {"optim"},
    "diagnostics": DIAGNOSTICS,
    "callbacks": DIAGNOSTICS | {"optim", "data"},
    "analysis": DIAGNOSTICS | {"data"},
    "cli": DIAGNOSTICS | {"optim", "data", "callbacks", "analysis", "__init__"},  # the version
}
ROOT_FILES = {"__init__.py", "batch.py", "exceptions.py"}


def forbidden_edges():
    graph = box_graph()
    return sorted(f"{box} -> {name}" for box in graph for name in graph[box] - ALLOWED[box])


def forbidden_imports():
    """A relative import, one of the whole package, which leads everywhere, and one of matplotlib outside plotting."""
    names = [(module, name) for module, file in modules().items() for name in imported_names(file)]
    return [
        f"{module}: {name}"
        for module, name in names
        if name.startswith(".")
        or name == "vaekit"
        or (name.split(".")[0] == "matplotlib" and not module.startswith("vaekit.plotting"))
    ]


def shared_file_names():
    counts = Counter(file.name for file in modules().values() if file.name != "__init__.py")
    return sorted(name for name, count in counts.items() if count > 1)


VIOLATIONS = {
    "each box has a row": lambda: sorted(box_graph().keys() ^ ALLOWED),
    "imports point in one direction": forbidden_edges,
    "imports name a module": forbidden_imports,
    "no cycle of boxes": lambda: cycles(box_graph()),
    "no cycle of files": lambda: cycles(file_graph()),
    "the root holds directories": lambda: sorted({file.name for file in PACKAGE.glob("*.py")} - ROOT_FILES),
    "a file name occurs once": shared_file_names,
}


@pytest.mark.parametrize("rule", VIOLATIONS)
def test_layout(rule):
    violations = VIOLATIONS[rule]()
    assert not violations, "\n".join(map(str, violations))


@pytest.mark.parametrize(
    ("graph", "groups"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [["a", "b", "c"]]),
        ({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}, [["a", "b"], ["c", "d"]]),
    ],
)
def test_cycles(graph, groups):
    assert cycles(graph) == groups
