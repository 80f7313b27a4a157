"""Held-out likelihood of decoders that one can read, next to the MLP's.

Each of the configurations pbmc_gaussian (MLP), pbmc_linear (Linear) and pbmc_additive (Additive) is trained by ``vaekit
fit`` as shipped. They differ in the decoder only. The table has log p(x | library) of the test cells by importance
sampling from the encoder's posterior, and the ELBO, both in nats per cell, and the differences from the MLP, paired by
cell.

  python tests/benchmarks/decoders.py                                     scanpy's packaged PBMC68k
  python tests/benchmarks/decoders.py --data pbmc68k cells.h5ad --batch-key batch
  python tests/benchmarks/decoders.py --quick                             smoke test; its numbers mean nothing

Progress goes to stderr, the table to stdout, and the last line of stdout is one JSON object with the same numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from shipped_runs import CONFIGS, fit

import vaekit
from vaekit.data import open_counts
from vaekit.diagnostics import importance_sampled_log_likelihood

PACKAGED = "pbmc68k"
DECODERS = {"MLP": "pbmc_gaussian", "Linear": "pbmc_linear", "Additive": "pbmc_additive"}


def main(arguments: list[str] | None = None) -> int:
    """Train the configurations and print the table."""
    options = read_arguments(arguments)
    rows: list[dict[str, Any]] = []
    print(f"{'data':<14}{'seed':>5}  {'decoder':<10}{'log p(x)':>10}{'ELBO':>10}{'to MLP':>9}{'+-':>6}")
    for source in options.data:
        for seed in options.seeds:
            for row in compare(source, seed, options):
                rows.append(row)
                print(
                    f"{row['data']:<14}{seed:>5}  {row['decoder']:<10}{row['log_likelihood']:>10.2f}"
                    f"{row['elbo']:>10.2f}{row['difference']:>9.2f}{row['error']:>6.2f}",
                    flush=True,
                )
    print(json.dumps({"seeds": options.seeds, "samples": options.samples, "epochs": options.epochs, "rows": rows}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="smoke test: 2 epochs, the first seed, 5 samples")
    add("--data", nargs="+", default=[PACKAGED], metavar="DATA", help=f"{PACKAGED} (packaged), or files of counts")
    add("--batch-key", metavar="KEY", help="column of the batch, of files that have it")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="seeds of split and training (0 1 2)")
    add("--samples", type=int, default=500, metavar="K", help="importance samples per cell (500)")
    options = parser.parse_args(arguments)
    options.epochs = None
    if options.quick:
        options.seeds, options.samples, options.epochs = options.seeds[:1], 5, 2
    if missing := [name for name in options.data if name != PACKAGED and not Path(name).is_file()]:
        parser.error(f"file not found, and not {PACKAGED!r}: {', '.join(missing)}")
    return options


def compare(source: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row per decoder for one split of a data set."""
    flags = ["--figure", "none"]
    if source != PACKAGED:
        flags += ["--data.path", str(Path(source).resolve())]
        if options.batch_key in open_counts(source).obs:
            flags += ["--data.batch_key", options.batch_key]
    rows, first = [], None
    for decoder, config in DECODERS.items():
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = fit(CONFIGS / f"{config}.yaml", Path(folder), seed, *flags, epochs=options.epochs)
            model = vaekit.load(checkpoint)
            data = vaekit.analysis.load_training_data(model)
        torch.manual_seed(0)
        estimate = importance_sampled_log_likelihood(model, data.dataloader("test"), options.samples)
        first = estimate.log_likelihood if first is None else first
        difference = estimate.log_likelihood - first
        rows.append(
            {
                "data": Path(source).stem,
                "cells": len(data.split_indices["test"]),
                "seed": seed,
                "decoder": decoder,
                "log_likelihood": estimate.mean(),
                "elbo": estimate.elbo.mean().item(),
                "difference": difference.mean().item(),
                "error": difference.std().item() / math.sqrt(len(difference)),
            }
        )
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
