"""Sections that are generated from the package: the help of every command, and the packaged configurations.

A comment ``<!-- commands -->`` or ``<!-- configurations -->`` in a page is replaced by the section.
"""

from __future__ import annotations

import contextlib
import io
import os

from sphinx.application import Sphinx

from vaekit._core.config_store import packaged_configs
from vaekit.cli.main import COMMANDS, main
from vaekit.cli.packaged_configs import first_sentence

COLUMNS = "92"  # of a block of code in the theme


def command_help(*arguments: str) -> str:
    """Return the output of a command of vaekit."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main(list(arguments))
    return output.getvalue()


def commands_section() -> str:
    """Return the help of each command under a heading with the label ``command-NAME``."""
    os.environ["COLUMNS"] = COLUMNS
    parts = [f"```text\n{command_help('--help')}```\n"]
    for name in COMMANDS:
        parts.append(f"(command-{name})=\n## vaekit {name}\n\n```text\n{command_help(name, '--help')}```\n")
    return "\n".join(parts)


def configurations_section() -> str:
    """Return a table of the packaged configurations, and the text of each under a heading ``config-NAME``."""
    configs = packaged_configs()
    rows = [f"| [`{name}`](#config-{name}) | {first_sentence(path)} |" for name, path in configs.items()]
    parts = ["| configuration | data and model |\n|---|---|\n" + "\n".join(rows) + "\n"]
    for name, path in configs.items():
        parts.append(f"(config-{name})=\n## {name}\n\n```yaml\n{path.read_text(encoding='utf-8')}```\n")
    return "\n".join(parts)


SECTIONS = {"<!-- commands -->": commands_section, "<!-- configurations -->": configurations_section}


def insert_sections(app: Sphinx, document: str, source: list[str]) -> None:
    """Replace the comments in a page."""
    for comment, section in SECTIONS.items():
        if comment in source[0]:
            source[0] = source[0].replace(comment, section())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", insert_sections)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
