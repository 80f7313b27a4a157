"""Console output: one-line warnings, and parsers whose errors are one line."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from typing import Any, NoReturn

from typing_extensions import override

from vaekit.exceptions import ConfigError

LIBRARIES = (
    "anndata", "scanpy", "umap", "numba", "pytorch_lightning", "lightning_fabric", "torch", "wandb", "pydantic",
)  # fmt: skip
IGNORED = (
    ".*does not have many workers.*",  # data in memory do not need workers
    ".*smaller than the logging interval.*",  # small data sets have few batches per epoch
    ".*isinstance.treespec, LeafSpec.*",
    ".*exists and is not empty.*",
)


class Parser(argparse.ArgumentParser):
    """Parser of a command that passes unknown flags on to ``vaekit fit``; errors are one line."""

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
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.trainer.connectors.checkpoint_connector"):
        logging.getLogger(name).setLevel(logging.WARNING)
