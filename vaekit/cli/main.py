"""Entry point of ``vaekit``: the static help, or a command, with errors as messages instead of tracebacks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

from typing_extensions import override

from vaekit._core.class_paths import trust
from vaekit.exceptions import ConfigError, VaekitError, did_you_mean, lacks_memory

HELP = """\
usage: vaekit COMMAND [ARGUMENTS]

Train variational autoencoders on gene expression and images, and analyze their latents.

training by configuration (each key is also a flag, such as --trainer.max_epochs 50):
  fit        vaekit fit --config pbmc_mixed     with three seeds: --seeds 3
  validate   evaluate on the validation data     vaekit validate --ckpt_path RUN/last.ckpt
  test       evaluate on the test data           vaekit test --ckpt_path RUN/last.ckpt
  predict    write the latents of all data to RUN/predictions.pt
  compare    train one configuration with several gradient estimators and seeds
             vaekit compare --config digits_discrete --estimators ReinMax GumbelSoftmax --seeds 0 1 2
  configs    list the packaged configurations, or copy one     vaekit configs pbmc_mixed > mine.yaml

with a trained model of cells (DATA: one or several .h5ad files or zarr stores; omitted: the training data):
  embed      latents, codes and a UMAP            vaekit embed RUN/last.ckpt DATA -o OUT.h5ad (or OUT.csv)
  states     states on which several seeds agree  vaekit states RUN --data DATA -o OUT.h5ad (RUN: of fit --seeds 3)
  markers    genes of each code or topic          vaekit markers RUN/last.ckpt DATA -o OUT.csv
  de         genes that differ between groups     vaekit de RUN/last.ckpt DATA --groupby COLUMN --group1 A -o OUT.csv
  denoise    expected expression of genes         vaekit denoise RUN/last.ckpt DATA -o OUT.h5ad
  ppc        counts compared with replicates      vaekit ppc RUN/last.ckpt DATA -o OUT.csv
  map        extend the model by new batches      vaekit map RUN/last.ckpt NEW -o MAPPED.ckpt
  transfer   labels of reference cells for others
             vaekit transfer MAPPED.ckpt DATA --query NEW --label_key COLUMN -o OUT.h5ad
  Each writes a figure next to its output, with the ending .png.

with any trained model:
  evaluate   log-likelihood, active units, agreement with labels     vaekit evaluate RUN/last.ckpt
  gradients  bias, variance and time of each gradient estimator that supports each latent
             vaekit gradients --config pbmc_mixed --ckpt_path RUN/last.ckpt
  export     safetensors and JSON, which cannot contain code     vaekit export RUN/last.ckpt -o DIRECTORY
  sample     images from the prior, or of each category     vaekit sample RUN/last.ckpt --category y
  traverse   effect of each dimension of a Gaussian latent on an image     vaekit traverse RUN/last.ckpt

--trust PACKAGE (with any command, repeatable) lets configurations and checkpoints name classes of that package.
Otherwise only classes of vaekit, torch and pytorch_lightning are loaded.

arguments of a command: vaekit COMMAND --help     version: vaekit --version
"""

PROGRAMS = {  # modules with their own parser and a function `run`
    **dict.fromkeys(("fit", "validate", "test", "predict"), "vaekit.cli.fit"),
    "compare": "vaekit.cli.compare",
    "gradients": "vaekit.cli.gradients",
}
FUNCTIONS = {  # modules with a typed function of the command's name
    "configs": "vaekit.cli.packaged_configs",
    **dict.fromkeys(("embed", "transfer", "denoise"), "vaekit.cli.cell_commands"),
    "states": "vaekit.cli.state_commands",
    **dict.fromkeys(("de", "markers", "ppc"), "vaekit.cli.table_commands"),
    **dict.fromkeys(("evaluate", "map", "export"), "vaekit.cli.model_commands"),
    **dict.fromkeys(("sample", "traverse"), "vaekit.cli.image_commands"),
}
COMMANDS = (*PROGRAMS, *FUNCTIONS)


class _GlobalFlags(argparse.ArgumentParser):
    """Parser of the flags of every command; all other arguments belong to the command."""

    def __init__(self) -> None:
        super().__init__("vaekit", add_help=False, allow_abbrev=False)
        self.add_argument("--trust", metavar="PACKAGE", action="append", default=[])

    @override
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. Name a package, such as --trust mypackage")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0, or 2 after an error that the user can correct, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        from vaekit import __version__

        print(__version__)
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        print(f"vaekit: command {command!r} not found. {did_you_mean(command, COMMANDS)}", file=sys.stderr)
        return 2
    # Threads of models this small wait for each other: on busy cores, a second one makes training ten times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        options, arguments = _GlobalFlags().parse_known_args(arguments)
        trust(options.trust)
        _runner(command)(arguments)
        _flush()
    except VaekitError as error:
        message = str(error)
    except OSError as error:
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


def _runner(command: str) -> Callable[[list[str]], None]:
    """Return a function that runs a command with its arguments, of which the first is its name."""
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
        raise OSError(error.errno, error.strerror, "standard output") from error


if __name__ == "__main__":
    sys.exit(main())
