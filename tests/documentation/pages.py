"""Code on the pages of the documentation: fenced blocks, commands in running text, and tables of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "data/README.md"]
    if "_build" not in path.parts and path.name != "CHANGELOG.md"
)
SHELLS, PYTHONS = {"bash", "console", "sh", "shell"}, {"python", "py", "pycon"}
OTHERS = {"text", "yaml", "toml", "json", "math", "mermaid", "bibtex", "latex"}  # not run
FENCE = re.compile(r"^([ \t>]*)(`{3,}|~{3,}|:{3,})(.*)$")
REASON = re.compile(r"<!--\s*not run:\s*(.+?)\s*-->")
COMMAND = re.compile(r"^\s*(\$ )?(vaekit|pip|make|pytest|python3?) ", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    ``line`` is the number of its first line in ``page``. ``reason`` is the text of ``<!-- not run: reason -->`` in the
    line before the block, or "".
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str

    @property
    def place(self) -> str:
        """The file and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page: Path, text: str | None = None) -> list[Block]:
    """Return the fenced blocks of code of a page; directives that contain other blocks, such as tabs, are opened."""
    lines = (page.read_text() if text is None else text).splitlines()
    blocks: list[Block] = []
    opened: list[str] = []  # marks of the directives around the line
    start, reason = 0, ""
    while start < len(lines):
        fence = FENCE.match(lines[start])
        if fence is None:
            if lines[start].strip():
                note = REASON.search(lines[start])
                reason = note.group(1) if note else ""
            start += 1
            continue
        indent, mark, info = fence.groups()
        language = language_of(info)
        if opened and not info.strip() and mark.startswith(opened[-1]):
            opened.pop()
        elif language is None:
            opened.append(mark)
        else:
            end = next((i for i in range(start + 1, len(lines)) if _closes(lines[i], mark)), len(lines))
            content = [line.removeprefix(indent) for line in lines[start + 1 : end]]
            blocks.append(Block(page, start + 2, language, "\n".join(content), reason))
            start, reason = end, ""
        start += 1
    return blocks


def _closes(line: str, mark: str) -> bool:
    return line.strip(" \t>").startswith(mark) and not line.strip(" \t>" + mark[0])


def language_of(info: str) -> str | None:
    """Return the language of a fence; None if it is a directive whose content is text, such as a tab or a note."""
    directive = re.match(r"\s*\{([\w:-]+)\}\s*(\S*)", info)
    if directive is None:
        return next(iter(info.split()), "")
    name, argument = directive.groups()
    if name in ("code-block", "code", "code-cell", "sourcecode"):
        return argument
    return name if name in ("math", "mermaid") else None


def inline_commands(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the line number and text of commands in back quotes outside of blocks."""
    lines = page.read_text().splitlines()
    for block in read_blocks(page):
        for index in range(block.line - 1, block.line - 1 + block.text.count("\n") + 1):
            lines[index] = ""
    text = "\n".join(lines)
    for found in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
        command = " ".join(found.group(1).split())
        if re.match(r"(vaekit|make|pytest|python|pip) \S", command):
            yield text.count("\n", 0, found.start()) + 1, command


def sections(page: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, heading and text of each section; the text includes that under the headings above it."""
    above: dict[int, str] = {}
    line, level, heading, lines = 1, 0, "", []
    inside = False
    for number, content in enumerate([*page.read_text().splitlines(), "# "], start=1):
        inside ^= bool(re.match(r"^\s*(```|~~~)", content))
        title = None if inside else re.match(r"^(#+) (.*)", content)
        if title is None:
            lines.append(content)
            continue
        text = "\n".join(lines)
        above = {depth: part for depth, part in above.items() if depth < level}
        yield line, heading, "\n".join([*above.values(), text])
        above[level] = "\n".join(part for part in lines if not part.startswith("|"))
        line, level, heading, lines = number, len(title.group(1)), title.group(2), []


def number_tables(text: str) -> list[list[str]]:
    """Return the tables in which a fifth of the cells or more are numbers."""
    tables = [group.splitlines() for group in re.findall(r"(?:^\|.*\|[ \t]*\n?)+", text, re.MULTILINE)]
    return [table for table in tables if _fraction_of_numbers(table[2:]) >= 0.2]


def _fraction_of_numbers(rows: list[str]) -> float:
    cells = [cell.strip() for row in rows for cell in row.strip().strip("|").split("|")]
    numbers = [cell for cell in cells if re.match(r"^[*<>~+-]*[\d.]", cell)]
    return len(numbers) / max(len(cells), 1)
