"""Commands that the tests do not run: reasons, and checks that their files, targets and flags exist."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.documentation.pages import ROOT
from vaekit.cli.command_parser import command_parser
from vaekit.cli.main import COMMANDS, FUNCTIONS, main

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
Check = Callable[[list[str]], None]


def check_vaekit(words: list[str]) -> None:
    """Raise an AssertionError if a command of vaekit or one of its flags does not exist."""
    if len(words) == 1 or words[1] in ("--help", "--version"):
        return
    command = words[1]
    if command == "COMMAND":  # any of them
        return
    assert command in COMMANDS, f"vaekit {command}: no command has this name"
    for word in words[2:]:
        flag = word.partition("=")[0].partition("+")[0].rstrip(".,")
        if flag.startswith("-") and not re.fullmatch(r"-[\d.]+", flag) and flag not in ("--trust", "-h", "--help"):
            assert flag in flags_of(command) or is_key(flag, command), f"vaekit {command}: {flag} does not exist"


def is_key(flag: str, command: str) -> bool:
    """Return whether a flag sets an argument of a component: its section is checked, its key by runs only."""
    nested = re.match(r"--(model|data|trainer)\.(\w+)\.", flag)
    components = ("--model.", "--data.")
    return command not in FUNCTIONS and (flag.startswith(components) or bool(nested))


@functools.cache
def flags_of(command: str) -> frozenset[str]:
    """Return the flags in the full help of a command."""
    if command in FUNCTIONS:
        function = getattr(importlib.import_module(FUNCTIONS[command]), command)
        return frozenset(command_parser(function)._option_string_actions)
    texts = [help_of(command, "--help"), help_of("fit", "--help=all"), help_of("fit", "--help")]
    return frozenset(re.findall(r"--?[A-Za-z][\w.]*", "\n".join(texts)))


def help_of(*words: str) -> str:
    """Return the printed help of a command."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main(list(words))
    return output.getvalue()


def check_launched(words: list[str]) -> None:
    """Check the vaekit command in the arguments of a launcher such as srun or torchrun."""
    start = next(i for i, word in enumerate(words) if word in ("vaekit", "vaekit.cli.main"))
    check_vaekit(["vaekit", *words[start + 1 :]])


def check_make(words: list[str]) -> None:
    """Check that the Makefile has the targets."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    names = {word for word in words[1:] if re.fullmatch(r"[a-z]+", word)}
    assert names <= targets, f"make: {names - targets} not in the Makefile"


def check_pip(words: list[str]) -> None:
    """Check that the extras exist."""
    extras = {
        name for word in words for group in re.findall(r"(?:vaekit|\.)\[(.*?)\]", word) for name in group.split(",")
    }
    known = set(PROJECT["project"]["optional-dependencies"])
    assert extras <= known, f"pip: extras {extras - known} not in pyproject.toml"


def check_python(words: list[str]) -> None:
    """Check that a script exists and contains the flags."""
    if words[1] == "-m":
        assert words[2] in ("venv", "pip", "build", "hatchling", "http.server"), " ".join(words)
        return
    script = ROOT / words[1]
    assert script.is_file(), f"{words[1]} not found"
    package = [script, *script.parent.glob("*.py"), *script.parent.parent.glob("*.py")]
    text = "\n".join(path.read_text() for path in package)
    flags = [word.partition("=")[0] for word in words[2:] if re.match(r"--\w", word)]
    missing = [flag for flag in flags if f'"{flag}"' not in text and f"{flag[2:].replace('-', '_')}:" not in text]
    assert not missing, f"{words[1]}: {missing} not found in the script"


def check_pytest(words: list[str]) -> None:
    """Check that paths and markers exist."""
    for word in words[1:]:
        if "/" in word:
            assert (ROOT / word.partition("::")[0]).exists(), f"pytest: {word} not found"
    if "-m" in words:
        marker = words[words.index("-m") + 1]
        markers = [line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
        assert marker in markers, f"pytest: marker {marker} not in pyproject.toml"


def check_wandb(words: list[str]) -> None:
    """Check the file of a sweep."""
    known = ("sweep", "agent", "artifact", "sync", "login", "offline", "online", "disabled", "server")
    assert words[1] in known, " ".join(words)
    for path in (Path(word) for word in words[2:] if word.endswith(".yaml")):
        assert path.is_file() or (ROOT / path).is_file(), f"wandb {words[1]}: {path} not found"
        file = path if path.is_file() else ROOT / path
        check_vaekit([word for word in yaml.safe_load(file.read_text())["command"] if not word.startswith("${")])


def accept(words: list[str]) -> None:
    """Accept any arguments."""


NOT_RUN: dict[str, tuple[str, Check]] = {
    "make": ("tests and builds; continuous integration runs these targets", check_make),
    "pip": ("installs packages; tests/test_package.py installs the wheel", check_pip),
    "uv": ("installs packages; tests/test_package.py installs the wheel", check_pip),
    "python": ("benchmarks take minutes to hours", check_python),
    "python3": ("creates environments", check_python),
    "pytest": ("these tests run themselves", check_pytest),
    "pre-commit": ("changes the clone", accept),
    "source": ("activates an environment", accept),
    "git": ("needs the network", accept),
    "srun": ("needs SLURM", check_launched),
    "sbatch": ("needs SLURM", accept),
    "torchrun": ("needs several nodes; tests/models/test_ddp.py runs two processes", check_launched),
    "wandb": ("needs a server of Weights & Biases", check_wandb),
    "docker": ("needs the network", accept),
    "curl": ("needs the network", accept),
    "wget": ("needs the network", accept),
    "open": ("shows a file", accept),
    "xdg-open": ("shows a file", accept),
    "jupyter": ("opens a browser", accept),
}
