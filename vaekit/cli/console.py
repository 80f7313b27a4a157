"""Console output: one-line warnings, and parsers whose errors are one line."""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
import warnings
from functools import partial
from typing import Any, NoReturn

from typing_extensions import override

from vaekit.exceptions import ConfigError

HELP_WIDTH = 100  # columns
LIBRARIES = (
    "anndata", "scanpy", "umap", "numba", "pytorch_lightning", "lightning_fabric", "torch", "wandb", "pydantic",
)  # fmt: skip
IGNORED = (
    ".*does not have many workers.*",  # data in memory do not need workers
    ".*smaller than the logging interval.*",  # small data sets have few batches per epoch
    ".*isinstance.treespec, LeafSpec.*",
    ".*exists and is not empty.*",
)

LOGGERS = (  # lines such as "Seed set to 0"
    "lightning_fabric.utilities.seed",
    "pytorch_lightning.utilities.rank_zero",
    "pytorch_lightning.trainer.connectors.checkpoint_connector",
)


class HelpFlag(argparse.Action):
    """Action of ``--help``, and of ``--help=all`` for all flags: the parser's methods short_help and full_help."""

    @override
    def __init__(self, option_strings: list[str], dest: str) -> None:
        super().__init__(
            option_strings, argparse.SUPPRESS, nargs="?", default=argparse.SUPPRESS, choices=("all",),
            help="Show this help; --help=all: with all flags.",
        )  # fmt: skip

    @override
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        print(parser.full_help() if values == "all" else parser.short_help(), end="")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """Parser of a command that passes unknown flags on to ``vaekit fit``; errors are one line.

    Parameters
    ----------
    prog, usage, description : str
        As for ``argparse.ArgumentParser``.
    example : str
        Command line that works.
    details : str
        Description of the results, below the flags.
    """

    def __init__(self, prog: str, usage: str, description: str, example: str, details: str) -> None:
        super().__init__(
            prog, usage, f"{description}\n\nexample: {example}", textwrap.fill(details, HELP_WIDTH), allow_abbrev=False,
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=HELP_WIDTH, max_help_position=30),
        )  # fmt: skip
        self._optionals.title = "flags"

    @override
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See {self.prog} --help")


def silence_libraries() -> None:
    """Print warnings of the project as one line each, and hide warnings of libraries that a user cannot act on."""

    def one_line(message: Warning | str, category: type[Warning], *args: object, **kwargs: object) -> str:
        return f"warning: {message}\n"

    warnings.formatwarning = one_line
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    for module in LIBRARIES:
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?$")
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=message)
    default_hook = sys.unraisablehook

    def ignore_hdf5(unraisable: Any) -> None:  # each object of a file that could not be written repeats its error
        if "h5py" not in f"{unraisable.object} {unraisable.err_msg}":
            default_hook(unraisable)

    sys.unraisablehook = ignore_hdf5
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
