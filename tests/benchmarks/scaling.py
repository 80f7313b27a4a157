"""How a training step grows with cells, genes, latents, threads and the batch; memory when streamed.

Curves: the model of scrna_speed.py (NB, 20,000 cells x 2,000 genes, 10 latents, batches of 128, one thread), with one
of these changed at a time. Each point is a process of its own; the points alternate in --rounds rounds, and a point is
the median over rounds of its time relative to the standard one in the same round. "bare" is the loop of matrix products
and Adam of scrna_speed.py at the same sizes.

Streamed (--streamed): simulated cells on disk, whose blocks repeat one simulated block in another order of cells, so
that ten million are written in minutes. "start" is opening, indexing, moments and split, before the first step. The
peak memory is that of the process, less what it had before the data were opened, after all imports. The page cache of
the file is dropped before ("cold"), where the system allows it.

  python tests/benchmarks/scaling.py
  python tests/benchmarks/scaling.py --streamed 1000000 10000000 --genes 1000 --folder DIR

The last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

STANDARD = {"cells": 20_000, "genes": 2_000, "latents": 10, "threads": 1, "batch": 128}
CURVES = {
    "cells": (5_000, 80_000),
    "genes": (500, 1_000, 4_000, 8_000),
    "latents": (50, 200),
    "threads": (2,),
    "batch": (32, 512, 2_048),
}
BLOCK = 100_000  # cells of the block that is repeated


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements and print them."""
    options = read_arguments(arguments)
    if options.point:
        print(json.dumps(measure_point(json.loads(options.point), options.bare)))
    elif options.path:
        print(json.dumps(measure_streamed(options)))
    elif options.streamed:
        print_streamed([streamed(cells, options) for cells in options.streamed])
    else:
        print_curves(curves(options))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="few cells, one round; its figures mean nothing")
    add("--rounds", type=int, default=3, help="rounds of the curves (3)")
    add("--streamed", type=int, nargs="+", metavar="CELLS", help="measure streamed training of so many cells instead")
    add("--genes", type=int, default=1_000, help="of the streamed cells (1,000)")
    add("--steps", type=int, default=2_000, help="of streamed training (2,000)")
    add("--folder", metavar="DIR", help="where the files are written, and removed (the system's)")
    add("--point", help=argparse.SUPPRESS)
    add("--bare", action="store_true", help=argparse.SUPPRESS)
    add("--path", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def curves(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all points in turns."""
    points = [STANDARD, *({**STANDARD, name: value} for name, values in CURVES.items() for value in values)]
    if options.quick:
        options.rounds, points = 1, [{**point, "cells": 2_000} for point in points[:2]]
    rounds = []
    for number in range(options.rounds):
        rows = []
        for point in points:
            row = {**point, "step_ms": run_point(point, False), "bare_ms": run_point(point, True)}
            rows.append(row)
            print(f"round {number}: {row}", file=sys.stderr)
        rounds.append(rows)
    table = []
    for place, point in enumerate(points):
        of_point = [rows[place] for rows in rounds]
        ratios = [rows[place]["step_ms"] / rows[0]["step_ms"] for rows in rounds]
        over_bare = [row["step_ms"] / row["bare_ms"] for row in of_point]
        step = statistics.median(row["step_ms"] for row in of_point)
        table.append(
            {**point, "step_ms": step, "relative": spread(ratios), "over_bare": spread(over_bare),
             "cells_per_s": 1e3 * point["batch"] / step}
        )  # fmt: skip
    return {"table": table, "rounds": rounds}


def spread(values: list[float]) -> list[float]:
    """Return the median, the smallest and the largest value."""
    return [statistics.median(values), min(values), max(values)]


def run_point(point: dict[str, int], bare: bool) -> float:
    """Return the milliseconds of a step in a separate process."""
    command = [sys.executable, __file__, "--point", json.dumps(point), *(["--bare"] if bare else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(point["threads"]), "PYTORCH_NVML_BASED_CUDA_CHECK": "0"}
    out = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    return json.loads(out.stdout.splitlines()[-1])


def measure_point(point: dict[str, int], bare: bool) -> float:
    """Train here at the sizes of a point, and return the milliseconds of a step."""
    import scrna_speed

    scrna_speed.BATCH, scrna_speed.LATENT = point["batch"], point["latents"]
    counts = scrna_speed.simulate(point["cells"], point["genes"])
    seconds, steps = (scrna_speed.train_bare if bare else scrna_speed.train_vaekit)(counts, "nb", 2)
    return 1e3 * seconds / steps


def print_curves(figures: dict[str, Any]) -> None:
    """Print a row per point."""
    print(f"{'changed':<16}{'ms/step':>9}{'cells/s':>9}{'relative':>22}{'/ bare':>22}")
    for row in figures["table"]:
        changed = [f"{name} {row[name]}" for name in STANDARD if row[name] != STANDARD[name]]
        values = ["{:.2f} ({:.2f} to {:.2f})".format(*row[key]) for key in ("relative", "over_bare")]
        print(f"{changed[0] if changed else 'standard':<16}{row['step_ms']:>9.2f}{row['cells_per_s']:>9.0f}", end="")
        print(f"{values[0]:>22}{values[1]:>22}")
    print(json.dumps(figures))


def streamed(cells: int, options: argparse.Namespace) -> dict[str, Any]:
    """Write so many cells, and train on them in a separate process."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "cells.h5ad"
        begun = time.perf_counter()
        write_repeated(path, cells, options.genes)
        size = path.stat().st_size
        print(f"{cells} cells written in {time.perf_counter() - begun:.0f} s, {size / 2**30:.1f} GB", file=sys.stderr)
        command = [sys.executable, __file__, "--path", str(path), "--steps", str(options.steps)]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        return {**json.loads(out.splitlines()[-1]), "file_gb": size / 2**30}


def write_repeated(path: Path, cells: int, genes: int) -> None:
    """Write counts whose blocks are one simulated block, each in another order of its cells."""
    import anndata
    import h5py
    import pandas as pd
    from scipy import sparse

    from vaekit.data import simulate_counts

    block = sparse.csr_matrix(simulate_counts(min(BLOCK, cells), genes, clusters=10, seed=0).X)
    names = pd.Index([f"gene{j}" for j in range(genes)])
    anndata.AnnData(block[:1], var=pd.DataFrame(index=names)).write_h5ad(path)
    generator = np.random.default_rng(0)
    with h5py.File(path, "r+") as file:
        group = file["X"]
        values = -(-cells // block.shape[0]) * block.nnz
        for name, dtype in (("data", np.float32), ("indices", np.int32)):
            del group[name]
            group.create_dataset(name, (values,), dtype, maxshape=(None,), chunks=(1 << 18,), compression="lzf")
        starts, first = [np.zeros(1, np.int64)], 0
        for done in range(0, cells, block.shape[0]):
            part = block[generator.permutation(block.shape[0])[: cells - done]]
            group["data"][first : first + part.nnz], group["indices"][first : first + part.nnz] = (
                part.data,
                part.indices,
            )
            starts.append(first + part.indptr[1:].astype(np.int64))
            first += part.nnz
        for name in ("data", "indices"):
            group[name].resize((first,))
        del group["indptr"]
        group["indptr"] = np.concatenate(starts)
        group.attrs["shape"] = np.array([cells, genes])
        del file["obs"]
        anndata.io.write_elem(file, "obs", pd.DataFrame(index=[f"c{i}" for i in range(cells)]))


def measure_streamed(options: argparse.Namespace) -> dict[str, Any]:
    """Train some steps on a file, and return times and memory."""
    import logging

    import vaekit.data

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    is_cold = drop_cache(Path(options.path))
    small = vaekit.data.GeneExpressionData(vaekit.data.simulate_counts(300, 10))
    small.setup()
    list(clock_steps(small, 1))  # all imports and compiled loops
    reset_peak()
    before, begun = peak_mb(), time.perf_counter()
    data = vaekit.data.GeneExpressionData(path=options.path, mode="streamed", batch_size=128)
    data.setup()
    start, clock = time.perf_counter() - begun, list(clock_steps(data, options.steps))
    tenth = len(clock) // 10
    return {
        "cells": data.num_cells,
        "start_s": start,
        "start_s_per_million": 1e6 * start / data.num_cells,
        "start_mb": peak_mb() - before,
        "cells_per_s": 128 * (len(clock) - 1 - tenth) / (clock[-1] - clock[tenth]),
        "peak_mb_beyond_imports": peak_mb() - before,
        "cold": is_cold,
    }


def clock_steps(data: Any, steps: int) -> Iterator[float]:
    """Train so many steps, and return the time of each."""
    import pytorch_lightning as pl

    import vaekit
    from vaekit.likelihoods import NegativeBinomial

    times: list[float] = []

    class Clock(pl.Callback):
        """Records when a step ends."""

        def on_train_batch_end(self, *_: Any) -> None:
            times.append(time.perf_counter())

    model = vaekit.GaussianVAE(data.features, NegativeBinomial(), latent_dim=10, hidden=[128], dropout=0.1)
    trainer = pl.Trainer(max_steps=steps, accelerator="cpu", callbacks=[Clock()], gradient_clip_val=100.0, logger=False,
                         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                         limit_val_batches=0, num_sanity_val_steps=0)  # fmt: skip
    trainer.fit(model, datamodule=data)
    return iter(times)


def peak_mb() -> float:
    """Return the peak resident memory of this process; getrusage would begin with that of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def reset_peak() -> None:
    """Let the peak memory of this process begin anew, where the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def drop_cache(path: Path) -> bool:
    """Drop the page cache of a file, and return whether that is possible here."""
    with suppress(AttributeError, OSError), path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return True
    return False


def print_streamed(rows: list[dict[str, Any]]) -> None:
    """Print a row per number of cells."""
    print(f"{'cells':>11}{'file GB':>9}{'start s':>9}{'s/million':>11}{'cells/s':>9}{'peak MB beyond imports':>24}")
    for row in rows:
        print(
            f"{row['cells']:>11}{row['file_gb']:>9.1f}{row['start_s']:>9.0f}{row['start_s_per_million']:>11.0f}"
            f"{row['cells_per_s']:>9.0f}{row['peak_mb_beyond_imports']:>24.0f}"
        )
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    raise SystemExit(main())
