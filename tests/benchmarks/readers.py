"""Readers of counts that stay in a file: vaekit's next to scDataset's and single rows, one epoch each, without a model.

The file is the one of streaming.py: simulated cells sorted by cluster. Each reader has a separate process and yields
dense batches of 128 cells in random order:

  vaekit       the streamed mode of GeneExpressionData: blocks as large as the file's chunks, a pool of 256 MB mixed
  scDataset    anndata's backed sparse data, blocks of --block cells, --fetch batches of 128 read and mixed at a time
  rows         anndata's backed sparse data, full random order, some steps of an epoch only

"start" are the seconds before the first batch (vaekit passes through all counts, for its checks and moments); cells/s
is measured from there. "peak MB" is the peak resident memory of the process, imports included. "entropy" is the mean
entropy of a batch's cluster labels in nats: the nearer to that of full random order ("rows"), the better mixed.

  python tests/benchmarks/readers.py                 200,000 cells x 2,000 genes; needs pip install -e ".[benchmark]"
  python tests/benchmarks/readers.py --quick         20,000 cells; its figures mean little

The last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from streaming import write

BATCH = 128
ROW_STEPS = 50
READERS = ("vaekit", "scDataset", "rows")


def main(arguments: list[str] | None = None) -> int:
    """Run the readers alternately and print what they did."""
    options = read_arguments(arguments)
    if options.only:
        print(json.dumps(measure(options)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = write(Path(folder) / "sorted.h5ad", options)
        rows = []
        for name, block, fetch in [
            ("vaekit", 0, 0),
            *(("scDataset", block, fetch) for block in options.block for fetch in options.fetch),
            ("rows", 0, 0),
        ]:
            command = [sys.executable, __file__, "--only", name, "--path", str(path), "--seed", str(options.seed)]
            command += ["--block", str(block), "--fetch", str(fetch)]
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows.append(json.loads(out.splitlines()[-1]))
    print(f"{'reader':<12}{'block':>7}{'fetch':>7}{'start':>7}{'cells/s':>10}{'peak MB':>9}{'entropy':>9}")
    for row in rows:
        print(
            f"{row['reader']:<12}{row['block'] or '':>7}{row['fetch'] or '':>7}{row['start_s']:>7.1f}"
            f"{row['cells_per_s']:>10.0f}{row['peak_mb']:>9.0f}{row['entropy']:>9.3f}"
        )
    best = max(row["cells_per_s"] for row in rows if row["reader"] == "scDataset")
    print(f"vaekit / the fastest scDataset: {rows[0]['cells_per_s'] / best:.2f}")
    print(json.dumps({"cells": options.cells, "genes": options.genes, "rows": rows}))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Go through one epoch with one reader."""
    warnings.simplefilter("ignore")
    batches = {"vaekit": by_vaekit, "scDataset": by_scdataset, "rows": by_rows}[options.only](options)
    asked = time.perf_counter()
    next(batches)  # files are opened, and what is compiled is compiled
    begun = time.perf_counter()
    seen, entropies = 0, []
    for x, labels in batches:
        assert x.shape[0] == len(labels)
        seen += len(labels)
        share = np.unique(labels, return_counts=True)[1] / len(labels)
        entropies.append(-(share * np.log(share)).sum())
    return {
        "reader": options.only,
        "block": options.block[0],
        "fetch": options.fetch[0],
        "start_s": begun - asked,
        "cells_per_s": seen / (time.perf_counter() - begun),
        "peak_mb": peak_mb(),
        "entropy": float(np.mean(entropies)),
    }


def peak_mb() -> float:
    """Return the peak resident memory of this process; getrusage would count its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def by_vaekit(options: argparse.Namespace) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield dense batches and their clusters."""
    from vaekit.data import GeneExpressionData

    data = GeneExpressionData(path=str(options.path), mode="streamed", batch_size=BATCH, seed=options.seed)
    data.setup()
    labels = clusters(options.path)
    loader = data.train_dataloader()
    yield from ((batch.x, labels[batch.index.numpy()]) for batch in loader)


def by_scdataset(options: argparse.Namespace) -> Iterator[tuple[Any, np.ndarray]]:
    """Likewise."""
    import torch
    from scdataset import BlockShuffling, scDataset

    def dense(cells: Cells) -> tuple[Any, np.ndarray]:
        return torch.from_numpy(cells.counts.toarray().astype(np.float32)), cells.labels

    strategy = BlockShuffling(block_size=options.block[0])
    return iter(scDataset(backed(options.path), strategy, BATCH, options.fetch[0], batch_transform=dense))


def by_rows(options: argparse.Namespace) -> Iterator[tuple[Any, np.ndarray]]:
    """Likewise, some batches only."""
    import torch

    cells = backed(options.path)
    order = np.random.default_rng(options.seed).permutation(len(cells))
    for step in range(min(ROW_STEPS, len(cells) // BATCH)):
        batch = cells[np.sort(order[step * BATCH : (step + 1) * BATCH])]
        yield torch.from_numpy(batch.counts.toarray().astype(np.float32)), batch.labels


class Cells(NamedTuple):
    """Counts, in a file or in memory, and clusters, which are indexed together: what scDataset asks for."""

    counts: Any
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> Any:
        return Cells(self.counts[rows], self.labels[rows])


def backed(path: Any) -> Cells:
    """Return anndata's view of the counts in a file."""
    import h5py
    from anndata.io import sparse_dataset

    return Cells(sparse_dataset(h5py.File(path, "r")["X"]), clusters(path))


def clusters(path: str) -> np.ndarray:
    """Return the number of each cell's cluster."""
    import anndata

    return anndata.read_h5ad(path, backed="r").obs["cluster"].astype("category").cat.codes.to_numpy()


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 cells x 500 genes; its figures mean little")
    parser.add_argument("--cells", type=int, default=200_000, help="number of cells (200,000)")
    parser.add_argument("--genes", type=int, default=2_000, help="number of genes (2,000)")
    parser.add_argument("--block", type=int, nargs="+", default=[8, 64, 512], help="cells in a block (8 64 512)")
    parser.add_argument("--fetch", type=int, nargs="+", default=[16, 256], help="batches at a time (16 256)")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of their order (0)")
    parser.add_argument("--folder", metavar="DIR", help="where the file is written, and removed (the system's)")
    parser.add_argument("--path", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=READERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.cells, options.genes, options.block, options.fetch = 20_000, 500, [64], [16]
    return options


if __name__ == "__main__":
    raise SystemExit(main())
