"""Commands built from typed functions: signatures give types and defaults, numpy docstrings the help."""

from __future__ import annotations

import argparse
import inspect
import math
import re
import shutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, NoReturn

from docstring_parser import parse
from jsonargparse import ArgumentParser, DefaultHelpFormatter
from jsonargparse._typehints import ActionTypeHint  # has no public name
from typing_extensions import override

from vaekit.cli.common_arguments import DESCRIPTIONS, REFERENCE, VALUE_NAMES
from vaekit.cli.console import HELP_WIDTH, HelpFlag, silence_libraries
from vaekit.exceptions import ConfigError

MAX_FLAG_WIDTH = 30  # columns
NULLS = ("null", "Null", "NULL", "~")  # in YAML
_TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text", list: "a list",
               tuple: "a list", Sequence: "a list", Iterable: "a list", dict: "a mapping",
               Mapping: "a mapping"}  # fmt: skip


def describe_types(hint: Any) -> str:
    """Return the types and words of an annotation as text.

    Examples
    --------
    >>> describe_types(int | Literal["auto"] | None)
    "an integer or 'auto'"
    """
    names: list[str] = []
    for option in union_members(hint):
        if typing.get_origin(option) is Literal:
            names += map(repr, typing.get_args(option))
        elif option is not types.NoneType:
            option = typing.get_origin(option) or option
            names.append(_TYPE_NAMES.get(option, getattr(option, "__name__", str(option))))
    return " or ".join(dict.fromkeys(names))


def union_members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


class CommandHelp(DefaultHelpFormatter):
    """Help of a command on one screen: a line per argument, with its default unless that is None or False."""

    def __init__(self, prog: str) -> None:
        super().__init__(
            prog, max_help_position=MAX_FLAG_WIDTH, width=min(HELP_WIDTH, shutil.get_terminal_size().columns)
        )

    @override
    def _get_help_string(self, action: argparse.Action) -> str:
        none = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        text = re.sub(r"\bNone: ", "Default: ", str(action.help))
        return text if none else f"{text} Default: {action.default}."

    @override
    def _format_action_invocation(self, action: argparse.Action) -> str:
        value = "" if action.nargs == 0 or isinstance(action, HelpFlag) else _value_name(action)
        return " ".join(filter(None, (", ".join(action.option_strings), value)))

    @override
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (  # an example stays on one line, to be copied
            part if part.startswith("example: ") else super(CommandHelp, self)._fill_text(part, width, indent)
            for part in text.split("\n")
        )
        return "\n".join(lines)


class Flag(ActionTypeHint):
    """Action of a typed argument: an error names the flag and the types that it accepts."""

    @override
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not args:
            return super().__call__(**kwargs)
        try:
            if self._typehint is str or args[2] not in NULLS:  # None is an omitted flag
                return super().__call__(*args)
        except (TypeError, ValueError):
            pass
        name = self.option_strings[-1] if self.option_strings else self.dest
        raise ConfigError(f"{name}={args[2]!r} must be {describe_types(self._typehint)}.")


class CommandParser(ArgumentParser):
    """Parser of a command: flags and files in any order, flags of lists that may be repeated, errors of one line.

    Attributes
    ----------
    rare_flags : list of Action
        Flags that only ``--help=all`` describes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, add_help=False, **kwargs)
        self.rare_flags: list[argparse.Action] = []
        self._positionals.title, self._optionals.title = "arguments", "flags"
        self.add_argument("-h", "--help", action=HelpFlag)

    def short_help(self) -> str:
        """Return the help without rare flags."""
        helps = [action.help for action in self.rare_flags]
        try:
            for action in self.rare_flags:
                action.help = argparse.SUPPRESS
            text = self.format_help()
        finally:
            for action, description in zip(self.rare_flags, helps, strict=True):
                action.help = description
        return f"{text}\nall flags: {self.prog} --help=all\n" if self.rare_flags else text

    def full_help(self) -> str:
        """Return the help with rare flags."""
        return self.format_help()

    @override
    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        return super().parse_args(self._files_first(list(args)), *rest, **kwargs)

    def _files_first(self, words: list[str]) -> list[str]:
        """Return the words with positional arguments first, and the values of repeated flags of lists in one place.

        Before version 3.13, argparse does not find optional positional arguments after a flag.
        """
        files: list[str] = []
        flags: list[str] = []
        lists: dict[str, list[str]] = {}
        target, room = files, math.inf  # list of the next values, and how many of them
        for word in words:
            flag, equals, value = word.partition("=")
            action = self._option_string_actions.get(flag)
            if action is None:
                target.append(word)
                room -= 1
            elif action.nargs == "+":
                target, room = lists.setdefault(action.option_strings[-1], []), math.inf
                target.extend([value] if equals else [])
            else:
                flags.append(word)
                target, room = flags, 0 if action.nargs == 0 or equals else 1
            if not room:
                target, room = files, math.inf
        return [*files, *flags, *(word for flag, values in lists.items() for word in (flag, *values))]

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConfigError(f"{' '.join(message.split())}. See {self.prog} --help")


def command_parser(function: Callable[..., Any]) -> CommandParser:
    """Return the parser of a function: keyword-only parameters become flags, others positional arguments.

    ``-o`` is short for ``--output``. A list takes several values, and a dataclass becomes one flag per field.
    """
    docstring = parse(function.__doc__ or "")
    details = " ".join((docstring.long_description or "").split())
    examples = [f"\nexample: {example.description}" for example in docstring.examples]
    parser = CommandParser(
        f"vaekit {function.__name__}", description="\n".join([docstring.short_description or "", *examples]),
        epilog=details, formatter_class=CommandHelp, print_config=None,
    )  # fmt: skip
    _add_arguments(parser, function)
    required = [action for action in parser._actions if action.required and action.option_strings]
    words = [part for action in parser._actions if not action.option_strings for part in [_usage(action)]]
    parser.usage = " ".join([parser.prog, *words, *map(_usage, required), "[FLAGS]"])
    for action in parser._actions:
        if isinstance(action, ActionTypeHint):
            action.__class__ = Flag
    return parser


def _usage(action: argparse.Action) -> str:
    """Return an argument in the usage line of a command: ``CHECKPOINT``, ``[DATA ...]`` or ``-o OUTPUT``."""
    value = _value_name(action)
    return " ".join((*action.option_strings[:1], f"[{value}]" if action.nargs in ("?", "*") else value))


def _value_name(action: argparse.Action) -> str:
    name, hint = action.dest.rpartition(".")[2], getattr(action, "_typehint", None)
    if action.option_strings and name != "output":
        numbers = set(union_members(hint)) & {int, float}
        name = (
            "N"
            if int in numbers
            else "X"
            if numbers
            else "COLUMN"
            if name.endswith("_key")
            else VALUE_NAMES.get(name, name)
        )
    return name.upper() + " ..." * (action.nargs in ("+", "*"))


def _add_arguments(parser: CommandParser, function: Callable[..., Any], prefix: str = "") -> None:
    """Add the parameters of a function or dataclass to a parser."""
    helps, rare = {}, set()
    for described in parse(function.__doc__ or "").params:
        for name in described.arg_name.split(", "):
            is_common = (described.description or "").startswith(REFERENCE)
            helps[name] = DESCRIPTIONS[name] if is_common else described.description
            rare |= {name} if described.args[0] == "other_param" else set()
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        hint, required = hints[name], parameter.default is parameter.empty
        if set(union_members(hint)) == {str, types.NoneType}:
            hint = str  # a group may be named null
        if isinstance(hint, type) and is_dataclass(hint):
            _add_arguments(parser, hint, f"{name}.")
            continue
        options: dict[str, Any] = {"help": helps[name], "type": hint}
        flags = ["-o"] * (name == "output") + [f"--{prefix}{name}"]
        item = next((typing.get_args(o)[0] for o in union_members(hint) if typing.get_origin(o) is list), None)
        if hint is bool:
            options = {"help": helps[name], "action": "store_true"}
        elif parameter.kind is not parameter.KEYWORD_ONLY and not prefix:
            flags, options["nargs"] = [name], None if required else "?"
            if item is not None:
                options |= {"type": item, "nargs": "+" if required else "*"}
        else:
            options |= {"required": required, "default": None if required else parameter.default}
            options |= {"type": item, "nargs": "+"} if item is not None else {}
        action = parser.add_argument(*flags, **options)
        if name in rare:
            parser.rare_flags.append(action)


def run_command(function: Callable[..., Any], arguments: list[str]) -> None:
    """Parse the arguments of a function and call it."""
    silence_libraries()
    values = vars(command_parser(function).parse_args(arguments))
    for name, hint in typing.get_type_hints(function).items():
        if isinstance(hint, type) and is_dataclass(hint):
            values[name] = hint(**vars(values[name]))
    function(**values)
