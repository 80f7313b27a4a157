"""Help of the training commands: the flags that matter on one screen, and all arguments that are flags."""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator

WIDTH, FLAG_WIDTH = 100, 26
SEEDS_HELP = "Number of runs on the same data and split, with seeds from --seed on, in RUN/seed_0, RUN/seed_1, ... (1)"
COLOR_HELP = "Column of obs, or gene, that colors the UMAP, next to batch, label and codes; may be repeated"
FIGURE_HELP = "Format of the figures: png, pdf or svg; none: no figures (png)"
LOGGER_HELP = "CSVLogger, WandbLogger or false; default: Weights & Biases"
CONFIG_HELP = "Packaged configuration (vaekit configs lists them) or .yaml file; may be repeated"
PURPOSES = {
    "fit": "Train a model on files of cells, or by a configuration.",
    "validate": "Evaluate a model on the validation data: the ELBO and its parts.",
    "test": "Evaluate a model on the test data: the ELBO and its parts.",
    "predict": "Write the latents of all data to RUN/predictions.pt.",
}
EXAMPLES = {
    "fit": ("vaekit fit cells.h5ad --batch_key donor", "vaekit fit --config pbmc_mixed --max_epochs 20"),
    **{name: (f"vaekit {name} --ckpt_path RUN/last.ckpt",) for name in ("validate", "test", "predict")},
}
FIT_FLAGS = {  # meaning by flag, by title
    "cells": {
        "FILE ...": "Files of cells: .h5ad, zarr, 10x (.h5 or directory), .loom, .h5mu, .csv or .tsv",
        "--layer NAME": "Layer of the counts; raw for .raw; default: .X",
        "--batch_key COLUMN": "Column of obs with the batch, or vaekit_file: the file of each cell",
        "--labels COLUMN": "Column of obs with types known for some cells, to predict the others",
        "--label_key COLUMN": "Column of obs with cell types, for figures; never used in training",
        "--n_top_genes N": "Number of variable genes; default: all of at most 8,000, else 2,000",
        "--genes_in PLACE": "rows or columns of a .csv or .tsv, or modality of an .h5mu; default: as names show",
    },
    "model": {
        "--latents KIND": "gaussian, mixed, states, topics, discrete or labels (gaussian)",
        "--likelihood CLASS": "NegativeBinomial, ZeroInflatedNegativeBinomial, Poisson, ...",
        "--config NAME": CONFIG_HELP,
    },
    "training": {
        "--max_steps N": "Number of training steps; default: by the number of cells",
        "--max_epochs N": "Number of epochs, instead of steps",
        "--learning_rate X": "Learning rate of Adam",
        "--accelerator NAME": "cpu, gpu or auto (auto)",
        "--seed N": "Seed of weights, order of the data and samples (0)",
        "--seeds N": SEEDS_HELP,
        "--ckpt_path FILE.ckpt": "Checkpoint to resume from; last: that of the run directory",
    },
    "results": {
        "--directory DIRECTORY": "Run directory: checkpoints, figures and logs; default: runs/NAME_OF_FILE",
        "--color KEY": COLOR_HELP,
        "--figure FORMAT": FIGURE_HELP,
        "--logger CLASS": LOGGER_HELP,
    },
}
CHECKPOINT_FLAGS = {
    "flags": {
        "--ckpt_path FILE.ckpt": "Checkpoint; without --config, its configuration is used, too",
        "--config NAME": CONFIG_HELP,
        "--seed_everything N": "Seed of the samples (0)",
        "--trainer.accelerator NAME": "cpu, gpu or auto (auto)",
        "--trainer.logger CLASS": LOGGER_HELP,
    }
}


def short_help(command: str) -> str:
    """Return the help of fit, validate, test or predict on one screen."""
    last = f"Any key of a configuration is a flag. All flags: vaekit {command} --help=all\n"
    return "\n".join([*_lines(command), last])


def full_help(command: str) -> str:
    """Return the short help, and the arguments of the data, the models and the trainer with their first sentence."""
    import pytorch_lightning as pl

    from vaekit.data import GeneExpressionData, ImageData
    from vaekit.models import DiscreteVAE, GaussianVAE, MixedVAE

    lines = _lines(command)
    for flag, classes in {
        "--data.KEY": (GeneExpressionData, ImageData),
        "--model.KEY": (GaussianVAE, MixedVAE, DiscreteVAE),
        "--trainer.KEY": (pl.Trainer,),
    }.items():
        section = flag.removesuffix("KEY")
        described: set[str] = set()
        for cls in classes:
            title = f"{flag} of {cls.__name__}, further ones:" if described else f"{flag} of {cls.__name__}:"
            arguments = {name: text for name, text in _arguments(cls) if name not in described}
            described |= arguments.keys()
            flags = (_flag(f"{section}{name}", text) for name, text in arguments.items())
            lines += [title, *itertools.chain.from_iterable(flags), ""]
    return "\n".join(lines)


def _arguments(cls: type) -> Iterator[tuple[str, str]]:
    """Yield the arguments of a class that a configuration can set, with the first sentence about each."""
    from docstring_parser import parse

    from vaekit.cli.config_diagnosis import FROM_DATA

    texts: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        for each in parse(owner.__doc__ or vars(owner)["__init__"].__doc__ or "").params:
            if not (each.description or "").startswith("As in "):  # the description of a base class
                texts |= dict.fromkeys(each.arg_name.split(", "), each.description or "")
    for name in inspect.signature(cls).parameters:
        if name not in (*FROM_DATA, "adata", "args", "kwargs"):
            text = " ".join(re.sub(r":\w+:(?=`)|`", "", texts.get(name, "")).split())
            yield name, re.split(r"(?<=[a-z)])\. |\. *$", text)[0]


def _lines(command: str) -> list[str]:
    is_fit = command == "fit"
    usage = "[FILE ...] [--config NAME]" if is_fit else "--ckpt_path FILE.ckpt"
    examples = [f"example: {example}" for example in EXAMPLES[command]]
    lines = [f"usage: vaekit {command} {usage} [--KEY VALUE ...]", "", PURPOSES[command], "", *examples, ""]
    for title, flags in (FIT_FLAGS if is_fit else CHECKPOINT_FLAGS).items():
        lines += [f"{title}:", *(line for flag, meaning in flags.items() for line in _flag(flag, meaning))]
    return [*lines, ""]


def _flag(flag: str, meaning: str) -> list[str]:
    indent = (FLAG_WIDTH + 3) * " "
    lines = textwrap.wrap(meaning, WIDTH, initial_indent=indent, subsequent_indent=indent) or [indent]
    is_long = len(flag) > FLAG_WIDTH
    return [f"  {flag}", *lines] if is_long else [f"  {flag:<{FLAG_WIDTH}} {lines[0].lstrip()}".rstrip(), *lines[1:]]
