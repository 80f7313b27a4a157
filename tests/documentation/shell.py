"""Blocks of shell commands as data: words, variables, redirections and pipes of each command."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field


@dataclass
class Command:
    """A simple command. ``target`` is the file of ``> file``, ``pipe`` the rest of the line after ``|``."""

    words: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    target: str = ""
    appends: bool = False
    pipe: str = ""

    @property
    def program(self) -> str:
        """The name of the program without its directory."""
        return self.words[0].rpartition("/")[2] if self.words else ""


def read_commands(text: str, language: str = "bash") -> list[Command]:
    """Return the commands of a block. In a console session, lines without a prompt are output.

    Examples
    --------
    >>> [c.words for c in read_commands("a -b 'c d' && e  # comment")]
    [['a', '-b', 'c d'], ['e']]
    """
    lines = text.replace("\\\n", " ").splitlines()
    if language == "console":
        lines = [line.lstrip()[2:] for line in lines if line.lstrip().startswith(("$ ", "> "))]
    return [command for line in lines for command in _line_commands(line)]


def _line_commands(line: str) -> list[Command]:
    tokens = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    tokens.whitespace_split = True
    words, commands = list(tokens), []
    current = Command([])
    while words:
        word = words.pop(0)
        if word in ("&&", ";", "&"):
            commands.append(current)
            current = Command([])
        elif word in (">", ">>"):
            current.target, current.appends = words.pop(0), word == ">>"
        elif word == "|":
            current.pipe, words = shlex.join(words), []
        elif not current.words and (variable := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", word)):
            current.variables[variable.group(1)] = variable.group(2)
        else:
            current.words.append(word)
    return [each for each in [*commands, current] if each.words or each.variables]
