"""Entry point of ``vaekit``: static help, then the command, with errors as messages and not as tracebacks."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from vaekit._core.class_paths import trust
from vaekit.exceptions import ConfigError, VaekitError, did_you_mean, lacks_memory

HELP = """\
usage: vaekit COMMAND [ARGUMENTS]

Train variational autoencoders on gene expression and images, and analyse their latents.

training, by configuration (any key can be set by a flag, such as --trainer.max_epochs 50):
  fit        vaekit fit --config configs/pbmc_mixed.yaml
  validate   evaluate on the validation data     vaekit validate --ckpt_path RUN/last.ckpt
  test       evaluate on the test data           vaekit test --ckpt_path RUN/last.ckpt
  predict    latents of all data, to RUN/predictions.pt
  compare    one configuration with several gradient estimators and seeds, one after another
             vaekit compare --config configs/digits_discrete.yaml --estimators ReinMax GumbelSoftmax --seeds 0 1 2

with a trained model:
  evaluate   log-likelihood, active units, agreement with labels     vaekit evaluate RUN/last.ckpt
  embed      write latents into an .h5ad file     vaekit embed RUN/last.ckpt DATA.h5ad -o OUT.h5ad
  de         genes that differ between two groups
             vaekit de RUN/last.ckpt DATA.h5ad --groupby COL --group1 A --group2 B -o TABLE.csv
  denoise    write expected expression into an .h5ad file     vaekit denoise RUN/last.ckpt DATA.h5ad -o OUT.h5ad
  gradients  bias, variance and time of every gradient estimator that fits each latent
             vaekit gradients --config configs/pbmc_mixed.yaml --ckpt_path RUN/last.ckpt
  export     safetensors and JSON, which hold no code     vaekit export RUN/last.ckpt -o FOLDER
  sample     pictures from the prior, or of each category     vaekit sample RUN/last.ckpt --category y
  traverse   what each unit of a Gaussian latent does to a picture     vaekit traverse RUN/last.ckpt

--trust PACKAGE (with any command, repeatable) lets configurations and checkpoints name classes of that package too;
without it, only those of vaekit, torch and pytorch_lightning are loaded.

vaekit COMMAND --help tells the arguments of a command; vaekit --version the version.
"""

COMMANDS = {
    "fit": "vaekit.cli.fit",
    "validate": "vaekit.cli.fit",
    "test": "vaekit.cli.fit",
    "predict": "vaekit.cli.fit",
    "evaluate": "vaekit.cli.evaluate",
    "embed": "vaekit.cli.embed",
    "de": "vaekit.cli.de",
    "denoise": "vaekit.cli.denoise",
    "export": "vaekit.cli.export",
    "gradients": "vaekit.cli.gradients",
    "sample": "vaekit.cli.sample",
    "traverse": "vaekit.cli.traverse",
    "compare": "vaekit.cli.compare",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0, or 2 after an error in what was asked, 130 after Ctrl-C."""
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
        print(f"vaekit: there is no command {command!r}. {did_you_mean(command, COMMANDS)}", file=sys.stderr)
        return 2
    # Models of this size gain nothing from a second thread, and on busy or virtual cores lose a factor of ten by
    # threads that wait for each other; OMP_NUM_THREADS says otherwise.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        arguments, packages = split_trust(arguments)
        trust(packages)
        import_module(COMMANDS[command]).run(arguments)
        _flush()
    except VaekitError as error:
        print(f"vaekit {command}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = "" if error.filename is not None else "standard output, or a file of the command: "
        print(f"vaekit {command}: error: {place}{error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        print(
            f"vaekit {command}: error: the command needs more memory than there is: {said}. End other programs, or "
            "pass fewer cells.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"vaekit {command}: stopped", file=sys.stderr)
        return 130
    return 0


def _flush() -> None:
    """Flush standard output; if that fails, discard the rest, so that Python does not fail on it at exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "standard output") from error


def split_trust(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without ``--trust``, and the packages that it names.

    Examples
    --------
    >>> split_trust(["embed", "--trust", "mine", "a.ckpt", "--trust=ours"])
    (['embed', 'a.ckpt'], ['mine', 'ours'])
    """
    kept: list[str] = []
    packages: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name != "--trust":
            kept.append(argument)
            continue
        value = value if equals else next(waiting, "")
        if not value or value.startswith("-"):
            raise ConfigError("--trust has no value: name a package, such as --trust mypackage")
        packages.append(value)
    return kept, packages


if __name__ == "__main__":
    sys.exit(main())
