"""Short help of the training commands: the flags that matter, with meaning and default from the signatures."""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from typing import Any

import pytorch_lightning as pl
from docstring_parser import parse
from typing_extensions import override

from vaekit.data import GeneExpressionData
from vaekit.models import MixedVAE

FLAGS: dict[str, tuple[type, dict[str, str]]] = {  # name of the value by argument
    "data": (GeneExpressionData, {"path": "FILE.h5ad", "batch_key": "COLUMN", "batch_size": "N"}),
    "model": (MixedVAE, {"likelihood": "CLASS", "hidden": "[N, ...]", "dropout": "P", "objective": "CLASS",
                         "learning_rate": "X"}),
    "trainer": (pl.Trainer, {"max_epochs": "N", "accelerator": "NAME", "devices": "N", "precision": "NAME",
                             "logger": "CLASS", "default_root_dir": "DIRECTORY"}),
}  # fmt: skip
MEANINGS = {
    "trainer.precision": "Floating-point format: 32-true, bf16-mixed or 64-true",
    "trainer.logger": "CSVLogger, WandbLogger or false; default: Weights & Biases",
    "trainer.default_root_dir": "Run directory: checkpoints, figures and logs; default: runs/vaekit",
    "trainer.devices": "Number of devices, with one process each",
    "trainer.max_epochs": "Number of epochs",
    "trainer.accelerator": "cpu, gpu or auto",
}

SEEDS_HELP = (
    "Number of runs, with the seeds seed_everything, seed_everything + 1, ..., on the same data and split, in "
    "RUN/seed_0, RUN/seed_1, ... (1)"
)
COLOR_HELP = "Column of obs, or gene, that colors the UMAP, next to batch, label and codes; may be repeated"
FIGURE_HELP = "Format of the figures: png, pdf or svg; none: no figures (png)"


class HelpFlag(argparse.Action):
    """Action of ``--help``, and of ``--help=all`` for all flags of Lightning."""

    @override
    def __init__(self, option_strings: list[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", default=argparse.SUPPRESS, choices=("all",))

    @override
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        print(parser.format_help() if values == "all" else short_help(parser.subcommand), end="")
        parser.exit()


def short_help(command: str) -> str:
    """Return the help of fit, validate, test or predict in under 60 lines."""
    lines = [
        f"usage: vaekit {command} --config NAME [--KEY VALUE ...]",
        "",
        "Any key of the configuration is also a flag. Later flags override earlier ones.",
        "vaekit configs lists the packaged configurations. Their names are values of --config, too.",
        "",
        *_flag("--config NAME", "File or packaged configuration of model, data and trainer; may be repeated"),
        *_flag("--ckpt_path FILE.ckpt", "Checkpoint to resume from; last: that of the run directory" if command == "fit"
               else "Checkpoint; without --config, its configuration is used, too"),
        *_flag("--seed_everything N", "Seed of weights, order of the data and samples (0)"),
        *(_flag("--seeds N", SEEDS_HELP) if command == "fit" else ()),
        *(_flag("--color KEY", COLOR_HELP) if command == "fit" else ()),
        *(_flag("--figure FORMAT", FIGURE_HELP) if command == "fit" else ()),
    ]  # fmt: skip
    for section, (cls, metavars) in FLAGS.items():
        lines += [
            "",
            f"{section}: --{section} CLASS names another class than {cls.__name__}"
            if section != "trainer"
            else section,
        ]
        for name, metavar in metavars.items():
            lines += _flag(f"--{section}.{name} {metavar}", _meaning(cls, f"{section}.{name}", name))
    return "\n".join([*lines, "", f"all flags: vaekit {command} --help=all", ""])


def _flag(flag: str, meaning: str) -> list[str]:
    return textwrap.wrap(f"{flag:<38} {meaning}", 100, initial_indent="  ", subsequent_indent=41 * " ")


def _meaning(cls: type, key: str, name: str) -> str:
    """Return the first sentence of an argument's description, and its default."""
    meanings = [MEANINGS[key]] if key in MEANINGS else []
    for text in (text for base in cls.__mro__ for text in (base.__doc__, vars(base).get("__init__", base).__doc__)):
        for parameter in parse(text or "").params:
            description = " ".join((parameter.description or "").split())
            if name in re.split(r",\s*", parameter.arg_name) and not description.startswith("As in"):
                meanings.append(re.split(r"(?<=\w)[.;:](?=\s|$)", description)[0].replace("``", ""))
    default = inspect.signature(cls).parameters[name].default
    default = list(default) if isinstance(default, tuple) else default
    shown = "" if default in (None, inspect.Parameter.empty) else f" ({default})"
    return (meanings or [""])[0] + shown
