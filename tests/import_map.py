"""The import map of the package, read from its syntax trees.

A box is a top-level directory or file of the package. Imports inside functions and under ``TYPE_CHECKING`` count, too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "vaekit"
Graph = Mapping[str, set[str]]


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Return the file of each module, by its dotted name."""
    return {module_name(file, package): file for file in sorted(package.rglob("*.py"))}


def module_name(file: Path, package: Path = PACKAGE) -> str:
    """Return the dotted name of a file of the package."""
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(file: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports; a relative import yields one that begins with a dot."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def file_graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Return the modules that each module imports; a name that is not a module belongs to the module that has it."""
    files = modules(package)
    imports = {
        module: [name for name in imported_names(file) if name.split(".")[0] == package.name]
        for module, file in files.items()
    }
    return {
        module: {name if name in files else name.rpartition(".")[0] for name in names}
        for module, names in imports.items()
    }


def box_graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Return the boxes that each box imports."""
    boxes: dict[str, set[str]] = {}
    for module, imports in file_graph(package).items():
        boxes.setdefault(box(module), set()).update(box(name) for name in imports)
    return {name: imports - {name} for name, imports in boxes.items()}


def box(module: str) -> str:
    """Return the box of a module."""
    return (*module.split("."), "__init__")[1]


def cycles(graph: Graph) -> list[list[str]]:
    """Return the groups of nodes that import each other, directly or through others."""
    reachable = {node: descendants(graph, node) for node in graph}
    groups = {frozenset(other for other in reachable[node] if node in reachable[other]) for node in graph}
    return sorted(sorted(group) for group in groups if group)


def descendants(graph: Graph, start: str) -> set[str]:
    """Return the nodes that a path of one edge or more leads to."""
    reached: set[str] = set()
    pending = [start]
    while pending:
        new = graph.get(pending.pop(), set()) - reached
        reached |= new
        pending.extend(new)
    return reached


def longest_path(graph: Graph) -> int:
    """Return the number of nodes on the longest path of an acyclic graph."""
    lengths: dict[str, int] = {}

    def length(node: str) -> int:
        if node not in lengths:
            lengths[node] = 1 + max((length(other) for other in graph[node]), default=0)
        return lengths[node]

    return max(map(length, graph))
