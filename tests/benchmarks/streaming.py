"""Cells larger than memory: streamed from a file next to the same cells in memory, on a file sorted by cell type.

The file holds simulated counts (vaekit.data.simulate_counts), sorted by cluster, so that neighbors are alike: the
worst case for a reader of blocks. Each mode has a separate process, which trains a Gaussian VAE for one epoch by
Lightning's Trainer and evaluates the same validation cells:

  in_memory  all counts in memory, cells in full random order
  streamed   blocks of neighbors read as they are needed, a pool of them mixed

"peak MB" is the peak resident memory of the whole process, imports included. "cells/s" omits the first
tenth of the epoch, in which the first pool is read; the column "whole epoch" contains it. "once" reports whether each
training cell came exactly once.

  python tests/benchmarks/streaming.py                 1,000,000 cells x 2,000 genes, about 2.5 GB on disk, 15 minutes
  python tests/benchmarks/streaming.py --quick         20,000 cells; its figures mean little

The last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

MODES = ("in_memory", "streamed")


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print it."""
    options = read_arguments(arguments)
    if options.only:
        print(json.dumps(measure(options)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = options.path or write(Path(folder) / "sorted.h5ad", options)
        print(f"{path}: {os.path.getsize(path) / 2**20:.0f} MB", file=sys.stderr)
        rows = []
        for mode in MODES:
            command = [sys.executable, __file__, "--only", mode, "--path", str(path), "--seed", str(options.seed)]
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows.append(json.loads(out.splitlines()[-1]))
    in_memory, streamed = rows
    print(f"{'':<10}{'cells/s':>9}{'whole epoch':>13}{'peak MB':>9}{'load s':>8}{'val ELBO':>11}{'once':>6}")
    for row in rows:
        print(
            f"{row['mode']:<10}{row['cells_per_s']:>9.0f}{row['epoch_cells_per_s']:>13.0f}{row['peak_mb']:>9.0f}"
            f"{row['load_s']:>8.1f}{row['elbo']:>11.2f}{'yes' if row['once'] else 'NO':>6}"
        )
    speed = streamed["cells_per_s"] / in_memory["cells_per_s"]
    whole = streamed["epoch_cells_per_s"] / in_memory["epoch_cells_per_s"]
    print(
        f"streamed / in_memory speed: {speed:.2f} (whole epoch {whole:.2f}); "
        f"streamed - in_memory ELBO: {streamed['elbo'] - in_memory['elbo']:+.2f} nats"
    )
    print(json.dumps({"rows": rows, "speed": speed, "whole_epoch_speed": whole}))
    return 0


def write(path: Path, options: argparse.Namespace) -> Path:
    """Simulate the cells and write them, sorted by cluster."""
    import numpy as np

    from vaekit.data import simulate_counts

    adata = simulate_counts(options.cells, options.genes, clusters=10, seed=options.seed, progress=True)
    adata = adata[np.argsort(adata.obs["cluster"].to_numpy(), kind="stable")]
    adata.write_h5ad(path)
    return path


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train one epoch in one mode."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    import pytorch_lightning as pl
    import torch

    import vaekit.data
    from vaekit.likelihoods import NegativeBinomial

    pl.seed_everything(options.seed, verbose=False)
    begun = time.perf_counter()
    data = vaekit.data.GeneExpressionData(path=str(options.path), mode=options.only, batch_size=128, seed=options.seed)
    data.setup()
    loaded = time.perf_counter() - begun
    model = vaekit.GaussianVAE(data.features, NegativeBinomial(), latent_dim=10, hidden=[128], dropout=0.1)

    class Seen(pl.Callback):
        """Counts how often each cell comes, and when each batch is done."""

        def __init__(self) -> None:
            self.times = torch.zeros(data.num_cells, dtype=torch.int64)
            self.clock: list[float] = []

        def on_train_epoch_start(self, *_: Any) -> None:
            self.clock.append(time.perf_counter())

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int) -> None:
            self.times[batch.index] += 1
            self.clock.append(time.perf_counter())

    seen = Seen()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[seen],
        gradient_clip_val=100.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data)
    expected = torch.zeros(data.num_cells, dtype=torch.int64)
    expected[data.split_indices["train"]] = 1
    steps = len(seen.clock) - 1
    tenth = steps // 10
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        evaluator = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        elbo = evaluator.validate(model, data.val_dataloader(), verbose=False)[0]["val/elbo"]
    return {
        "mode": options.only,
        "cells": data.num_cells,
        "genes": data.features,
        "cells_per_s": 128 * (steps - tenth) / (seen.clock[-1] - seen.clock[tenth]),
        "epoch_cells_per_s": len(data.split_indices["train"]) / (seen.clock[-1] - seen.clock[0]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "load_s": loaded,
        "elbo": elbo,
        "once": bool(torch.equal(seen.times, expected)),
    }


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 cells x 500 genes; its figures mean little")
    parser.add_argument("--cells", type=int, default=1_000_000, help="number of cells (1,000,000)")
    parser.add_argument("--genes", type=int, default=2_000, help="number of genes (2,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the data, their split, and the training (0)")
    parser.add_argument("--folder", metavar="DIR", help="where the file is written, and removed (the system's)")
    parser.add_argument("--path", metavar="FILE", help="an .h5ad file instead of simulated cells")
    parser.add_argument("--only", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.cells, options.genes = 20_000, 500
    return options


if __name__ == "__main__":
    raise SystemExit(main())
