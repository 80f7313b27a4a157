"""What a person sees of other libraries' chatter: less."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Parser of a command whose errors are one line, without the list of all flags before it."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 after one line."""
        self.exit(2, f"{self.prog}: error: {message}. See {self.prog} --help\n")


def silence_libraries() -> None:
    """Show the project's warnings as one line each, and hide those of libraries that a user can do nothing about."""

    def one_line(message: Warning | str, category: type[Warning], *args: object, **kwargs: object) -> str:
        return f"warning: {message}\n"

    warnings.formatwarning = one_line
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    for module in (
        "anndata",
        "scanpy",
        "umap",
        "numba",
        "pytorch_lightning",
        "lightning_fabric",
        "torch",
        "wandb",
        "pydantic",
    ):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?$")
    # resident data need no workers, and small data sets have few batches an epoch
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    before = sys.unraisablehook

    def but_for_hdf5(unraisable: Any) -> None:
        if "h5py" not in f"{unraisable.object} {unraisable.err_msg}":
            before(unraisable)

    sys.unraisablehook = but_for_hdf5  # a file that could not be written: told once, and not again by each of its parts
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.trainer.connectors.checkpoint_connector"):
        logging.getLogger(name).setLevel(logging.WARNING)
