"""Docstrings for Sphinx: escaped shapes, no fields of named tuples, text for references to internal objects."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc, pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import ObjectEntry
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

SHAPE_STAR = re.compile(r"(``.*?``|^\s*>>>.*)|(?<=[(\s])\*(?=[a-z])")


def escape_shapes(app: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Escape the star of a shape such as ``(*batch)``, which would begin an emphasis."""
    lines[:] = [SHAPE_STAR.sub(lambda match: match[1] or r"\*", line) for line in lines]


def skip_tuple_fields(app: Sphinx, kind: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Skip the fields of a named tuple: the section Attributes of its class describes them."""
    return True if str(getattr(value, "__doc__", "")).startswith("Alias for field number") else None


def resolve_internal(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Resolve a reference by importing its object: a link to its public page, or text for an internal object.

    A name without an object stays unresolved, so that the build reports it.
    """
    if node.get("refdomain") != "py":
        return None
    value = _find(node["reftarget"], *_owner(node))
    if value is None:
        return None
    found = _public_entry(env, value)
    return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, content) if found else content


def _public_entry(env: BuildEnvironment, value: Any) -> ObjectEntry | None:
    """Return the entry of an object in the index, by its public name or that of its class."""
    objects = env.domains.python_domain.objects
    module, qualified = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    cls, _, member = qualified.partition(".")
    owner = objects.get(f"{module}.{cls}")
    return objects.get(f"{owner.node_id}.{member}") if owner and member else owner


def _owner(node: pending_xref) -> tuple[str, str]:
    """Return the module and the name of the object whose docstring contains a reference."""
    signature: Any = node
    while signature is not None and not isinstance(signature, desc):
        signature = signature.parent
    if signature is None:
        return node.get("py:module") or "vaekit", ""
    return signature[0].get("module", ""), signature[0].get("fullname", "")


def _find(target: str, module: str, name: str) -> Any:
    """Return the object of vaekit that a docstring of ``module.name`` refers to, or None."""
    file = getattr(_import(f"{module}.{name}"), "__module__", module)
    scopes = ["", f"{module}.{name}.", f"{module}.{name.partition('.')[0]}.", f"{module}.", f"{file}."]
    names = [scope + target for scope in scopes if (scope + target).startswith("vaekit")]
    found = [value for value in map(_import, names) if value is not None]
    return next((value for value in found if str(getattr(value, "__module__", "vaekit")).startswith("vaekit")), None)


def _import(name: str) -> Any:
    """Return the object of a full name, or None."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:split]))
            for part in parts[split:]:
                value = getattr(value, part)
        except (ImportError, AttributeError, ValueError):
            continue
        return value
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the handlers, the first one before that of napoleon."""
    app.connect("autodoc-process-docstring", escape_shapes, priority=400)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("missing-reference", resolve_internal)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
