"""Short help of the training commands: the flags that matter."""

from __future__ import annotations

import textwrap

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
        "--batch_key COLUMN": "Column of obs with the batch, such as the donor",
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
    is_fit = command == "fit"
    usage = "[FILE ...] [--config NAME]" if is_fit else "--ckpt_path FILE.ckpt"
    examples = [f"example: {example}" for example in EXAMPLES[command]]
    lines = [f"usage: vaekit {command} {usage} [--KEY VALUE ...]", "", PURPOSES[command], "", *examples, ""]
    for title, flags in (FIT_FLAGS if is_fit else CHECKPOINT_FLAGS).items():
        lines += [f"{title}:", *(line for flag, meaning in flags.items() for line in _flag(flag, meaning))]
    lines += ["", f"Any key of a configuration is a flag. All flags: vaekit {command} --help=all", ""]
    return "\n".join(lines)


def _flag(flag: str, meaning: str) -> list[str]:
    indent = (FLAG_WIDTH + 3) * " "
    return textwrap.wrap(f"{flag:<{FLAG_WIDTH}} {meaning}", WIDTH, initial_indent="  ", subsequent_indent=indent)
