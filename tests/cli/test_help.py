"""The help of each command: one screen, its purpose, and an example that its parser accepts."""

from __future__ import annotations

import inspect
import shlex
from importlib import import_module

import pytest
import pytorch_lightning as pl

from vaekit import GaussianVAE
from vaekit.cli import compare, fit_arguments, fit_help, gradients
from vaekit.cli.command_parser import command_parser
from vaekit.cli.main import COMMANDS, FUNCTIONS, HELP, main
from vaekit.data import GeneExpressionData

MAX_LINES, WIDTH = 40, 100
TRAINING = ("fit", "validate", "test", "predict")


def help_of(command: str, capsys: pytest.CaptureFixture[str], flag: str = "--help") -> str:
    try:
        status: object = main([command, flag])
    except SystemExit as stop:  # of argparse
        status = stop.code
    assert status == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("command", COMMANDS)
def test_one_screen(
    command: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = help_of(command, capsys).splitlines()
    assert len(lines) <= MAX_LINES + 3 * (width < WIDTH)
    is_fixed = command in (*TRAINING, "compare", "gradients")
    long = [line for line in lines if len(line) > (WIDTH if is_fixed else width)]
    assert all(line.startswith(("example: ", "usage: ")) and len(line) <= WIDTH for line in long)
    assert lines[0].startswith(f"usage: vaekit {command} ")
    assert lines[2].endswith(".")  # its purpose
    assert any(line.startswith(f"example: vaekit {command} ") for line in lines)


def test_top_level(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == HELP
    lines = HELP.splitlines()
    assert len(lines) <= MAX_LINES + 2
    assert max(map(len, lines)) <= WIDTH
    assert {line.split()[0] for line in lines if line[:2] == "  " and line[2] != " "} - {"vaekit"} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_accepted(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    examples = [line.removeprefix("example: ") for line in text.splitlines() if line.startswith("example: ")]
    assert examples
    for example in examples:
        check(*shlex.split(example.partition(" > ")[0]))


def test_first_steps_are_accepted() -> None:
    commands = [line.strip() for line in HELP.splitlines() if line.startswith("  vaekit ")]
    assert len(commands) == 3
    for line in commands:
        check(*shlex.split(line))


def check(program: str, command: str, *arguments: str) -> None:
    """Parse the arguments of a command; files need not exist."""
    assert program == "vaekit"
    if command in FUNCTIONS:
        command_parser(getattr(import_module(FUNCTIONS[command]), command)).parse_args(list(arguments))
    elif command in TRAINING:
        for word in arguments:
            if word.startswith("--"):
                name = word.removeprefix("--")
                assert name in fit_arguments.OF_COMMAND or fit_arguments.setting_key(name)
    else:
        parser = {"compare": compare, "gradients": gradients}[command].command_parser()
        assert not parser.parse_known_args(list(arguments))[1]


def test_flags_of_fit_exist() -> None:
    flags = [flag.split()[0].removeprefix("--") for flags in fit_help.FIT_FLAGS.values() for flag in flags]
    for name in set(flags) - {"FILE"} - fit_arguments.OF_COMMAND:
        assert "." in fit_arguments.setting_key(name) or name == "seed"


@pytest.mark.parametrize("command", FUNCTIONS)
def test_all_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = command_parser(getattr(import_module(FUNCTIONS[command]), command))
    short, full = help_of(command, capsys), help_of(command, capsys, "--help=all")
    for action in parser._actions:
        if action.option_strings:
            flag = f"{action.option_strings[-1]}"
            assert f"{flag} " in full or f"{flag}\n" in full
            assert (f"  {flag} " in short) == (action not in parser.rare_flags) or flag in ("--output", "--help")
    assert (f"all flags: vaekit {command} --help=all" in short) == bool(parser.rare_flags)
    assert "None" not in full
    assert "SUPPRESS" not in full


@pytest.mark.parametrize("command", TRAINING)
def test_all_arguments_of_training(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help=all"])
    text = capsys.readouterr().out
    assert text.startswith(fit_help.short_help(command).rpartition("Any key")[0])
    for cls, section in ((GeneExpressionData, "data"), (GaussianVAE, "model"), (pl.Trainer, "trainer")):
        for name in set(inspect.signature(cls).parameters) - {"adata", "features", "covariates", "labels", "kwargs"}:
            assert f"  --{section}.{name}" in text
    assert "As in VAE" not in text
    assert max(map(len, text.splitlines())) <= fit_help.WIDTH
    flags = [line.split() for line in text.splitlines() if line.startswith("  --data.")]
    assert all(len(words) > 1 or f"{words[0]}\n   " in text for words in flags)  # each is described


def test_unknown_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "--help=some"]) == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize("command", TRAINING)
def test_other_flags_do_not_change_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help alone does not import the parser, which shows it with other flags."""
    alone = help_of(command, capsys)
    with pytest.raises(SystemExit):
        main([command, "--trainer.max_epochs", "3", "--help"])
    assert capsys.readouterr().out == alone
