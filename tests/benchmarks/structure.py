"""Measure the structure of the package: ``python tests/benchmarks/structure.py``.

Print a table, and one JSON object as the last line:

  files            Python files of the package
  lines            their lines
  code_lines       lines without docstrings, comments, imports and blank lines
  repeated_lines   code lines in blocks of at least six that occur more than once
  longest_file     lines of the longest file
  boxes            top-level directories and files of the package
  layers           boxes on the longest path of imports
  edges            imports between two boxes, those inside functions included
  cycles           groups of files that import each other
  isinstance       isinstance() and issubclass() with a class of the package
  type_checks      comparisons of type(), case patterns with a class of the package, and hasattr()
  modules          modules of the package behind ``import vaekit.models``
  voice_findings   violations of the rules in tests/voice.py, in the package and its documentation
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from import_map import PACKAGE, box_graph, cycles, file_graph, longest_path, modules
from voice import docstrings, findings

BLOCK_LINES = 6
COUNT_MODULES = "import sys, vaekit.models; print(sum(name.split('.')[0] == 'vaekit' for name in sys.modules))"


def code_lines(text: str) -> list[str]:
    """Return the stripped lines that are not docstrings, comments, imports or blank."""
    tree = ast.parse(text)
    ignored = [*docstrings(tree), *(node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))]
    numbers = {number for node in ignored for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [line for number, line in lines if number not in numbers and line and not line.startswith("#")]


def repeated_lines(texts: list[str]) -> int:
    """Return the number of code lines in blocks that occur more than once."""
    places = defaultdict(list)
    for file, lines in enumerate(map(code_lines, texts)):
        for start in range(len(lines) - BLOCK_LINES + 1):
            places[tuple(lines[start : start + BLOCK_LINES])].append((file, start))
    repeated = [place for block in places.values() if len(block) > 1 for place in block]
    return len({(file, start + offset) for file, start in repeated for offset in range(BLOCK_LINES)})


def own_names(tree: ast.Module) -> set[str]:
    """Return the names of a file that are classes or modules of the package, or tuples of such classes."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname or PACKAGE.name for alias in node.names if alias.name.startswith(PACKAGE.name)}
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Tuple | ast.BinOp)
            and mentions(node.value, names)
        ):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def mentions(node: ast.AST, names: set[str]) -> bool:
    """Return whether an expression contains one of the names."""
    return any(isinstance(child, ast.Name) and child.id in names for child in ast.walk(node))


def calls(tree: ast.AST, *functions: str) -> Iterator[ast.Call]:
    """Yield the calls of the functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            yield node


def isinstance_checks(tree: ast.Module) -> list[ast.expr]:
    """Return the isinstance and issubclass checks on a class of the package."""
    names = own_names(tree)
    return [call for call in calls(tree, "isinstance", "issubclass") if mentions(call.args[1], names)]


def type_checks(tree: ast.Module) -> list[ast.AST]:
    """Return the other checks of a type: comparisons of type(), class patterns and hasattr()."""
    names = own_names(tree)
    comparisons = [node for node in ast.walk(tree) if isinstance(node, ast.Compare) and any(calls(node, "type"))]
    patterns = [node for node in ast.walk(tree) if isinstance(node, ast.MatchClass) and mentions(node.cls, names)]
    return [*comparisons, *patterns, *calls(tree, "hasattr")]


def count_modules(package: Path) -> int:
    """Return the number of modules that ``import vaekit.models`` imports, in a new process."""
    command = [sys.executable, "-c", COUNT_MODULES]
    process = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True)
    return int(process.stdout)


def measure(package: Path) -> dict[str, int]:
    """Return the figures of the table."""
    texts = [file.read_text() for file in modules(package).values()]
    trees = [ast.parse(text) for text in texts]
    boxes = box_graph(package)
    documentation = [package.parent / name for name in ("README.md", "CONTRIBUTING.md", "docs")]
    return {
        "files": len(texts),
        "lines": sum(text.count("\n") for text in texts),
        "code_lines": sum(len(code_lines(text)) for text in texts),
        "repeated_lines": repeated_lines(texts),
        "longest_file": max(text.count("\n") for text in texts),
        "boxes": len(boxes),
        "layers": longest_path(boxes),
        "edges": sum(map(len, boxes.values())),
        "cycles": len(cycles(file_graph(package))),
        "isinstance": sum(len(isinstance_checks(tree)) for tree in trees),
        "type_checks": sum(len(type_checks(tree)) for tree in trees),
        "modules": count_modules(package),
        "voice_findings": len(findings([package, *documentation])[0]),
    }


def list_checks(package: Path) -> None:
    """Print the place of each check of a type."""
    for file in modules(package).values():
        tree = ast.parse(file.read_text())
        for check in [*isinstance_checks(tree), *type_checks(tree)]:
            print(f"{file.relative_to(package.parent)}:{check.lineno}: {ast.unparse(check)}")


def main() -> None:
    """Print the table, and the same figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", action="store_true", help="also print the place of each check of a type")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="directory of the package to measure")
    arguments = parser.parse_args()
    if arguments.checks:
        list_checks(arguments.package)
    figures = measure(arguments.package)
    for name, value in figures.items():
        print(f"{name:16s}{value:8,d}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
