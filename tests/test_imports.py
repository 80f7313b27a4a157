"""Imports point one way: lower layers know nothing of higher ones, and data and models nothing of each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vaekit"

# Each may import itself and what stands in its own entry.
BASE = {"exceptions", "component", "class_paths", "atomic"}
DRAWN = BASE | {"estimators", "signatures"}
EXPECTATION = DRAWN | {
    "sampling",
    "credit",
    "fold",
    "stochastic_graph",
    "importance_weighted",
    "gradient_path",
    "compilation",
}
GRAPH = EXPECTATION | {"batch", "distributions", "networks"}
MODELS = GRAPH | {"latents", "likelihoods", "objectives", "regularizers", "models", "threads"}
ALLOWED = {
    "exceptions": set(),
    "atomic": {"exceptions"},
    "batch": set(),
    "compiled": set(),
    "threads": set(),
    "class_paths": {"exceptions"},
    "arguments": {"exceptions"},
    "component": {"exceptions", "class_paths", "arguments"},
    "estimators": BASE | {"distributions"},
    "gradient_path": {"estimators"},
    "compilation": {"exceptions", "gradient_path"},
    "signatures": BASE | {"estimators"},
    "sampling": DRAWN | {"distributions"},
    "credit": DRAWN,
    "fold": DRAWN | {"sampling", "credit", "gradient_path", "compilation"},
    "stochastic_graph": DRAWN | {"sampling", "fold", "compilation"},
    "returns": BASE,
    "importance_weighted": DRAWN | {"sampling", "fold", "stochastic_graph", "compilation"},
    "distributions": BASE,
    "networks": BASE | {"compiled"},
    "latents": GRAPH,
    "likelihoods": GRAPH | {"compiled"},
    "objectives": GRAPH,
    "regularizers": GRAPH | {"latents"},
    "models": MODELS,
    "optim": {"exceptions"},
    "diagnostics": MODELS,
    "data": BASE | {"batch", "compiled", "threads"},
    "callbacks": MODELS | {"diagnostics", "optim"},
    "analysis": MODELS | {"diagnostics", "data"},
    "cli": MODELS | {"arguments", "diagnostics", "data", "callbacks", "analysis"},
}


def imported(file: Path) -> set[str]:
    """Return the parts of vaekit that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative import"
            names = [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("vaekit.")}
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part != "__init__":
        assert imported(file) <= ALLOWED[part] | {part}
