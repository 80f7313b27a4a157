"""Entry point of ``vaekit``: the static help, or a command, with errors as messages instead of tracebacks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

from typing_extensions import override

from vaekit._core import process
from vaekit._core.class_paths import trust
from vaekit.cli.fit_help import PURPOSES, short_help
from vaekit.exceptions import ConfigError, VaekitError, did_you_mean, lacks_memory

HELP = """\
usage: vaekit COMMAND [ARGUMENTS]

Train variational autoencoders on single-cell counts or images, and analyze their latents.

first steps:
  vaekit fit cells.h5ad --batch_key donor
  vaekit embed runs/cells/last.ckpt -o embedded.h5ad
  vaekit de runs/cells/last.ckpt --groupby cell_type -o genes.csv

train a model:
  fit        on files of cells, or by a configuration
  configs    list the packaged configurations, or copy one
  validate   evaluate on the validation data
  test       evaluate on the test data
  predict    write the latents of all data to RUN/predictions.pt
  compare    train one configuration with several gradient estimators and seeds
  gradients  measure bias, variance and time of each gradient estimator

analyze cells with a trained model:
  embed      latents, codes and a UMAP
  states     states of cells on which several seeds agree
  markers    genes of each code or topic
  loadings   genes of each unit of a linear or additive decoder
  de         genes that differ between groups of cells
  denoise    expected expression of genes
  ppc        counts compared with replicates from the model
  map        extend the model by new batches
  transfer   labels of reference cells for other cells
  labels     labels by a model that learned those of some cells

evaluate, publish or look at a model:
  report     one HTML file: data, training, bounds, latents, codes, checks
  evaluate   log-likelihood, active units, agreement with labels
  export     safetensors and JSON, which cannot contain code
  sample     images from the prior, or of each category
  traverse   effect of each dimension of a latent on an image

Files of cells are .h5ad, zarr, 10x (.h5 or directory), .loom, .h5mu, .csv or .tsv.
--trust PACKAGE lets configurations and checkpoints name classes of that package. Otherwise only
classes of vaekit, torch and pytorch_lightning are loaded.

help of a command: vaekit COMMAND --help     version: vaekit --version
"""

PROGRAMS = {  # modules with their own parser and a function `run`
    **dict.fromkeys(PURPOSES, "vaekit.cli.fit"),
    "compare": "vaekit.cli.compare",
    "gradients": "vaekit.cli.gradients",
}
FUNCTIONS = {  # modules with a typed function of the command's name
    "configs": "vaekit.cli.packaged_configs",
    **dict.fromkeys(("embed", "transfer", "denoise"), "vaekit.cli.cell_commands"),
    "labels": "vaekit.cli.label_commands",
    "states": "vaekit.cli.state_commands",
    **dict.fromkeys(("de", "loadings", "markers", "ppc"), "vaekit.cli.table_commands"),
    **dict.fromkeys(("evaluate", "map", "export"), "vaekit.cli.model_commands"),
    **dict.fromkeys(("sample", "traverse"), "vaekit.cli.image_commands"),
    "report": "vaekit.cli.report_command",
}
COMMANDS = (*PROGRAMS, *FUNCTIONS)

STANDARD_OUTPUT = "standard output"
READER_LEFT = 141  # as shells report a program that SIGPIPE has ended


class _GlobalFlags(argparse.ArgumentParser):
    """Parser of the flags of every command; all other arguments belong to the command."""

    def __init__(self) -> None:
        super().__init__("vaekit", add_help=False, allow_abbrev=False)
        self.add_argument("--trust", metavar="PACKAGE", action="append", default=[])

    @override
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. Name a package, such as --trust mypackage")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    It is 0, 2 after an error that the user can correct, 130 after Ctrl-C, and 141 if the reader of the output has left.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        from vaekit._core.version import __version__

        print(__version__)
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        print(f"vaekit: command {command!r} not found. {did_you_mean(command, COMMANDS)}", file=sys.stderr)
        return 2
    process.is_command_line = True
    try:
        options, arguments = _GlobalFlags().parse_known_args(arguments)
        trust(options.trust)
        _runner(arguments)(arguments)
        _flush()
    except VaekitError as error:
        message = str(error)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left(error):
            return READER_LEFT
        message = str(error) if error.filename is not None else f"standard output, or a file of the command: {error}"
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        message = f"more memory is needed than is available: {reason}. End other programs, or pass fewer cells."
    except KeyboardInterrupt:
        print(f"vaekit {command}: stopped", file=sys.stderr)
        return 130
    else:
        return 0
    print(f"vaekit {command}: error: {message}", file=sys.stderr)
    return 2


def _runner(arguments: list[str]) -> Callable[[list[str]], None]:
    """Return a function that runs a command with its arguments, of which the first is its name."""
    command = arguments[0]
    if command in PURPOSES and arguments[1:] in (["-h"], ["--help"]):  # at once, without an import of torch
        return lambda arguments: print(short_help(command), end="")
    if command in PROGRAMS:
        return import_module(PROGRAMS[command]).run
    from vaekit.cli.command_parser import run_command

    function = getattr(import_module(FUNCTIONS[command]), command)
    return lambda arguments: run_command(function, arguments[1:])


def _flush() -> None:
    """Flush standard output; if that fails, discard the rest, so that Python does not fail on it at exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from error


def _reader_has_left(error: BrokenPipeError) -> bool:
    """Return whether the program that reads standard output has ended, as in ``vaekit configs | head -1``."""
    if error.filename == STANDARD_OUTPUT:
        return True
    try:
        print()  # what did not reach the reader is no longer in the buffer
        _flush()
    except BrokenPipeError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
