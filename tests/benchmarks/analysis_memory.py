"""Peak memory of the commands and functions that work on a trained model, by the number of cells.

A file of simulated counts (vaekit.data.simulate_counts, about 12 % non-zero, two batches) is written for each number of
cells, a Gaussian VAE is trained on the smallest for one epoch by `vaekit fit` with configs/pbmc_gaussian.yaml (for
markers, one with codes: configs/pbmc_mixed.yaml), and each task has a separate process:

  embed, denoise, de               the commands, from the file to a file
  differential_expression, ...     the functions of vaekit.analysis, on the AnnData of the file, read into memory; the
                                   row "AnnData" is a process that reads the file and the model, and does nothing else;
                                   transfer_labels takes the cells as reference and as query, map_query takes all as of
                                   one new batch, for one epoch: more epochs take no more memory

"peak MB" is the peak resident memory of the whole process, imports included, as the kernel reports it (ru_maxrss).

  python tests/benchmarks/analysis_memory.py                           100,000 cells x 2,000 genes
  python tests/benchmarks/analysis_memory.py --cells 50000 200000      what a file four times as large takes
  python tests/benchmarks/analysis_memory.py --quick                   1,000 and 4,000 cells x 200 genes

The last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GROUPS = ("cluster", "cluster0", "cluster1")
COMMANDS = ("embed", "denoise", "de")
FUNCTIONS = {
    "AnnData": "",
    "differential_expression": f"a.differential_expression(cells, model, *{GROUPS}, batch_key='batch')",
    "posterior_predictive_check": "a.posterior_predictive_check(cells, model, batch_key='batch')",
    "normalized_expression": "a.normalized_expression(cells, model, batch_key='batch')",
    "markers": "a.markers(cells, model, batch_key='batch')",
    "transfer_labels": "a.transfer_labels(cells, cells, model, 'cluster', batch_key='batch')",
    "map_query": "cells.obs['batch'] = 'new'; a.map_query(cells, model, batch_key='batch', max_epochs=1)",
}
CONFIGS = {"markers": "pbmc_mixed"}  # of the models of tasks; of all others:
CONFIG = "pbmc_gaussian"
TASKS = (*COMMANDS, *FUNCTIONS)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the table."""
    options = read_arguments(arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        files = {cells: write(folder / f"{cells}.h5ad", cells, options) for cells in sorted(options.cells)}
        wanted = sorted({CONFIGS.get(task, CONFIG) for task in options.tasks})
        checkpoints = {config: train(config, next(iter(files.values())), folder / config) for config in wanted}
        print(f"{'':<28}{'cells':>9}{'file MB':>9}{'peak MB':>9}{'seconds':>9}")
        for task in options.tasks:
            checkpoint = checkpoints[CONFIGS.get(task, CONFIG)]
            for cells, file in files.items():
                peak, seconds = measure(command_of(task, checkpoint, file, folder))
                size = os.path.getsize(file) / 2**20
                rows.append({"task": task, "cells": cells, "file_mb": size, "peak_mb": peak, "seconds": seconds})
                print(f"{task:<28}{cells:>9}{size:>9.0f}{peak:>9.0f}{seconds:>9.1f}", flush=True)
    print(json.dumps({"genes": options.genes, "rows": rows}))
    return 0


def write(path: Path, cells: int, options: argparse.Namespace) -> Path:
    """Simulate the cells and write them, in a separate process: their memory is not that of a task."""
    code = (
        "from vaekit.data import simulate_counts;"
        f"simulate_counts({cells}, {options.genes}, clusters=10, batches=2, library_size={0.185 * options.genes}, "
        f"seed={options.seed}, progress=True).write_h5ad({str(path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=sys.stderr)
    return path


def train(config: str, file: Path, folder: Path) -> Path:
    """Train a model for one epoch; return its checkpoint."""
    arguments = ["fit", "--config", ROOT / f"configs/{config}.yaml", "--data.path", file, "--data.batch_key"]
    arguments += ["batch", "--trainer.max_epochs", "1", "--trainer.default_root_dir", folder, "--trainer.logger"]
    subprocess.run(vaekit(*arguments, "false"), check=True, stdout=sys.stderr)
    return folder / "last.ckpt"


def vaekit(*arguments: str | Path) -> list[str]:
    """Return the command line of ``vaekit``."""
    return [sys.executable, "-m", "vaekit.cli.main", *map(str, arguments)]


def command_of(task: str, checkpoint: Path, file: Path, folder: Path) -> list[str]:
    """Return the command line of a task."""
    if task in COMMANDS:
        out = folder / f"{task}.{'csv' if task == 'de' else 'h5ad'}"
        groups = ("--groupby", GROUPS[0], "--group1", GROUPS[1], "--group2", GROUPS[2]) if task == "de" else ()
        return vaekit(task, checkpoint, file, *groups, "-o", out, "--overwrite")
    code = (
        "import anndata, vaekit, vaekit.analysis as a;"
        f"model = vaekit.load({str(checkpoint)!r}); cells = anndata.read_h5ad({str(file)!r});"
    )
    return [sys.executable, "-c", code + FUNCTIONS[task]]


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command; return its peak resident memory in MB (2**20 bytes) and its seconds."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stderr is not None
    messages = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed:\n{messages.decode()[-2000:]}")
    return usage.ru_maxrss / 1024, time.perf_counter() - begun


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 and 4,000 cells x 200 genes")
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000], metavar="N", help="cells a file (100,000)")
    parser.add_argument("--genes", type=int, default=2_000, help="number of genes (2,000)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--seed", type=int, default=0, help="of the data (0)")
    parser.add_argument("--folder", metavar="DIR", help="where the files are written, and removed (the system's)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.cells, options.genes = [1_000, 4_000], 200
    return options


if __name__ == "__main__":
    raise SystemExit(main())
