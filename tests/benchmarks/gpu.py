"""A GPU used to the full: training next to scVI, a step next to its floor, and the kernels next to torch.compile.

Training: simulated counts, the same networks (128 hidden, 10 latents, one layer), the same epochs; "scvi" by its own
`.train()` at its defaults (batches of 128), "fit" by Lightning's Trainer, "captured" by vaekit.models.cuda_graph, whole
steps recorded as a CUDA graph. The counts lie on the device as CSR, and batches are put together there. "cells/s" is
that of the last epoch, "ELBO" that of the same held-out cells, in nats, from draws of each model's posterior, at the
observed library size. With few epochs scVI is still at the start of its KL warm-up (400 by default).

Step: the time of a captured step, the batch's making included, at the largest batch, next to its floor: the operations
over the measured rate of a large float32 product, or the bytes over that of a large copy, whichever takes longer.

Beside each figure with a target, 20 times scVI's cells/s and 2 times the floor, stands whether it is met.

Parts, value and gradient: the Triton kernel of the count likelihoods next to torch.compile of the dense formula (in
float64, and in float32, where it cancels for large counts) and the dense formula in eager mode; the noise of
Gumbel-Softmax and REBAR, eager next to torch.compile: a separate kernel would have to beat the latter.

  python tests/benchmarks/gpu.py             100,000 cells x 2,000 genes, on a GPU; some 15 minutes, scVI's most of them
  python tests/benchmarks/gpu.py --quick     a smoke test, on any machine; its figures mean nothing

Without a GPU it runs with --quick alone, on the CPU, and says so: "kernel" is then the pass over non-zero counts.
Needs the extra "benchmark" for scVI, and says where that is missing. The last line of stdout is one JSON object with
the same figures.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse

TIMES_SCVI, OVER_FLOOR = 20.0, 2.0  # what is aimed at: at least, at most
SCVI_BATCH, HIDDEN, LATENT = 128, 128, 10
LIKELIHOODS = ("nb", "zinb")


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements and print them."""
    options = read_arguments(arguments)
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import gpu_parts
    import scrna_speed
    import torch

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    name = torch.cuda.get_device_name(0) if device.type == "cuda" else "CPU"
    if device.type == "cpu":
        print("no CUDA device: a smoke test on the CPU, whose figures say nothing of a GPU")
        if not options.quick:
            print("nothing was measured; --quick runs without a GPU", file=sys.stderr)
            return 1
    has_scvi = importlib.util.find_spec("scvi") is not None
    if not has_scvi:
        print("scvi-tools is not installed: no comparison with it (pip install -e '.[benchmark]')")
    rate = gpu_parts.rates(device, options.quick)
    print(f"{name}: copy {rate['bytes_per_s'] / 1e9:.0f} GB/s, product {rate['flops_per_s'] / 1e12:.2f} TFLOP/s")

    counts = scrna_speed.simulate(options.cells, options.genes)
    training, steps = [], []
    print(f"\ntargets: {TIMES_SCVI:g} times scVI's cells/s, at least; {OVER_FLOOR:g} times a step's floor, at most")
    print(f"\n{'likelihood':<12}{'trained by':<11}{'batch':>7}{'cells/s':>11}{'x scVI':>8}  {'target':<11}{'ELBO':>11}")
    for likelihood in LIKELIHOODS:
        reference = None
        if has_scvi:
            reference = train_scvi(counts, likelihood, device, options)
            training.append(print_training(reference, reference, options.quick))
        for way in ("fit", "captured"):
            for batch in options.batches:
                row = train(counts, likelihood, way, batch, device, options)
                training.append(print_training(row, reference, options.quick))
    print(
        f"\n{'likelihood':<12}{'batch':>7}{'step ms':>9}{'floor ms':>10}{'ratio':>7}  {'target':<11}{'FLOPs ms':>10}"
        f"{'bytes ms':>10}"
    )
    for likelihood in LIKELIHOODS:
        row = step_and_floor(counts, likelihood, max(options.batches), device, rate)
        row["target"] = verdict(row["over_floor"] <= OVER_FLOOR, options.quick)
        steps.append(row)
        print(
            f"{likelihood:<12}{row['batch']:>7}{row['step_ms']:>9.3f}{row['floor_ms']:>10.3f}{row['over_floor']:>7.2f}"
            f"  {row['target']:<11}{row['flops_ms']:>10.3f}{row['bytes_ms']:>10.3f}"
        )
    parts = gpu_parts.likelihoods(device, max(options.batches), options.genes, options.repeats)
    ways = ("kernel", "compiled", "compiled32", "dense")
    print(f"\n{'likelihood':<12}" + "".join(f"{way + ' ms':>15}" for way in ways))
    for row in parts:
        print(f"{row['likelihood']:<12}" + "".join(f"{row[way + '_ms']:>15.3f}" for way in ways))
    drawn = gpu_parts.noise(device, max(options.batches), options.repeats)
    print(f"\n{'noise':<12}{'eager ms':>15}{'compiled ms':>15}")
    for row in drawn:
        print(f"{row['noise']:<12}{row['eager_ms']:>15.3f}{row['compiled_ms']:>15.3f}")
    figures = {
        "device": name,
        "targets": {"times_scvi": TIMES_SCVI, "over_floor": OVER_FLOOR},
        "rates": rate,
        "training": training,
        "steps": steps,
        "likelihoods": parts,
        "noise": drawn,
    }
    print(json.dumps(figures))
    return 0


def verdict(met: bool, quick: bool) -> str:
    """Return whether a target is met, in a word; a smoke test reports nothing."""
    return "not tested" if quick else "met" if met else "missed"


def print_training(row: dict[str, Any], reference: dict[str, Any] | None, quick: bool) -> dict[str, Any]:
    """Print a row of the table, and return it with its ratio to scVI and a verdict on it, if that was measured."""
    row["times_scvi"] = row["cells_per_s"] / reference["cells_per_s"] if reference else None
    ratio = f"{row['times_scvi']:.1f}" if reference else "-"
    row["target"] = None if row["by"] == "scvi" or not reference else verdict(row["times_scvi"] >= TIMES_SCVI, quick)
    print(
        f"{row['likelihood']:<12}{row['by']:<11}{row['batch']:>7}{row['cells_per_s']:>11.0f}{ratio:>8}"
        f"  {row['target'] or '-':<11}{row['elbo']:>11.2f}",
        flush=True,
    )
    return row


def split(cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows for training, for validation (5 %) and held out (5 %, 2,000 at most)."""
    order = np.random.default_rng(1).permutation(cells)
    few = max(cells // 20, 1)
    return np.sort(order[2 * few :]), np.sort(order[few : 2 * few]), np.sort(order[:few])[:2_000]


def make(counts: sparse.csr_matrix, likelihood: str) -> Any:
    """Return an untrained model that starts at the data's mean."""
    import torch

    import vaekit
    from vaekit.batch import DataStatistics
    from vaekit.likelihoods import NegativeBinomial, ZeroInflatedNegativeBinomial
    from vaekit.models.objectives import ELBO

    torch.manual_seed(0)
    kind = NegativeBinomial if likelihood == "nb" else ZeroInflatedNegativeBinomial
    objective = ELBO(warmup=0.25)
    model = vaekit.GaussianVAE(
        counts.shape[1], kind(), latent_dim=LATENT, hidden=[HIDDEN], dropout=0.1, objective=objective
    )
    mean_log = counts.copy()
    mean_log.data = np.log1p(mean_log.data)
    means = (torch.from_numpy(np.asarray(part.mean(0), np.float32).ravel()) for part in (counts, mean_log))
    model.networks.init_from_data(DataStatistics(*means))
    return model


def batches(dataset: Any, rows: Any, size: int) -> Iterator[Any]:
    """Yield an epoch's batches in random order, all of one size."""
    import torch

    for part in rows[torch.randperm(len(rows))].split(size):
        if len(part) == size:
            yield dataset.__getitems__(part)


def train(
    counts: sparse.csr_matrix, likelihood: str, way: str, size: int, device: Any, options: argparse.Namespace
) -> dict[str, Any]:
    """Train one of ours, by Lightning or by captured steps; return its row."""
    import torch

    from vaekit.data.cells.count_dataset import CountDataset

    rows, _, held_out = split(counts.shape[0])
    dataset = CountDataset(counts).copy_to(device)
    model = make(counts[rows], likelihood)
    train_rows = torch.from_numpy(rows)
    size = min(size, len(rows))
    # scVI's rate at its batch; a larger batch takes larger steps
    model.learning_rate = 1e-3 * (size / SCVI_BATCH) ** 0.5
    by = {"fit": fit, "captured": captured}[way]
    last = by(model.to(device).train(), dataset, train_rows, size, device, options.epochs)
    model.to(device).eval()
    torch.manual_seed(0)
    total = 0.0
    with torch.no_grad():
        for part in torch.from_numpy(held_out).split(500):
            total -= sum(float(term.sum()) for term in model.loss(dataset.__getitems__(part).to(device)).terms.values())
    return {
        "likelihood": likelihood,
        "by": way,
        "batch": size,
        "cells_per_s": len(rows) // size * size / last,
        "elbo": total / len(held_out),
    }


def fit(model: Any, dataset: Any, rows: Any, size: int, device: Any, epochs: int) -> float:
    """Train by Lightning's Trainer; return the seconds of the last epoch."""
    import pytorch_lightning as pl

    class Epochs:
        """A loader of batches that lie on the device."""

        def __iter__(self) -> Iterator[Any]:
            return batches(dataset, rows, size)

        def __len__(self) -> int:
            return len(rows) // size

    times = timer(pl.Callback, device)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        callbacks=[times],
        gradient_clip_val=100.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Epochs())
    return times.epochs[-1]


def captured(model: Any, dataset: Any, rows: Any, size: int, device: Any, epochs: int) -> float:
    """Train by captured steps; return the seconds of the last epoch."""
    from vaekit.models.cuda_graph import CUDAGraphStep
    from vaekit.models.parameter_groups import ParameterGroups, cosine_schedule

    groups = ParameterGroups.from_model(model.networks, model.parameters())
    optimizer = groups.make_optimizer(model.learning_rate, model.weight_decay)
    step, total = CUDAGraphStep(model, optimizer, max_norm=100.0), epochs * (len(rows) // size)
    schedule = cosine_schedule(optimizer, total)
    done = 0
    for _ in range(epochs):
        started = time.perf_counter()
        for batch in batches(dataset, rows, size):
            step(batch, model.objective.kl_weight(done, total))
            schedule.step()
            done += 1
        wait(device)
        last = time.perf_counter() - started
    return last


def timer(base: type, device: Any) -> Any:
    """Return a Lightning callback (of either package) that times epochs, until the device has done its work."""
    import scrna_speed

    made = scrna_speed.timer(base)

    class Waiting(type(made)):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx + 1 == self.steps:
                wait(device)
            super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    return Waiting()


def wait(device: Any) -> None:
    """Wait for a GPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def train_scvi(counts: sparse.csr_matrix, likelihood: str, device: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Train scVI at its defaults; return its row."""
    import anndata
    import lightning.pytorch as lightning
    import scvi
    import scvi_reference

    scvi_reference.quiet()
    rows, val, held_out = split(counts.shape[0])
    times = timer(lightning.Callback, device)
    adata = anndata.AnnData(counts[np.concatenate([rows, val])])
    scvi.model.SCVI.setup_anndata(adata)
    scvi.settings.seed = 0
    model = scvi.model.SCVI(adata, gene_likelihood=likelihood)
    numbers = np.arange(adata.n_obs)
    parts = [numbers[: len(rows)], numbers[len(rows) :], numbers[:0]]
    model.train(
        max_epochs=options.epochs,
        callbacks=[times],
        datasplitter_kwargs={"external_indexing": parts, "drop_last": len(rows) % SCVI_BATCH in (1, 2)},
        enable_progress_bar=False,
    )
    scores = scvi_reference.score(model, counts, held_out, num_samples=10)
    return {
        "likelihood": likelihood,
        "by": "scvi",
        "batch": SCVI_BATCH,
        "cells_per_s": times.steps * SCVI_BATCH / times.epochs[-1],
        "elbo": float(scores.elbo.mean()),
    }


def step_and_floor(
    counts: sparse.csr_matrix, likelihood: str, size: int, device: Any, rate: dict[str, float]
) -> dict[str, Any]:
    """Return the time of a captured step with the making of its batch, next to its floor."""
    import gpu_parts
    import torch

    from vaekit.data.cells.count_dataset import CountDataset
    from vaekit.models.cuda_graph import NUM_WARMUP_STEPS, CUDAGraphStep
    from vaekit.models.parameter_groups import ParameterGroups

    dataset = CountDataset(counts).copy_to(device)
    model = make(counts, likelihood).to(device).train()
    size = min(size, len(dataset))
    parts = [torch.randperm(len(dataset))[:size] for _ in range(8)]
    groups = ParameterGroups.from_model(model.networks, model.parameters())
    step = CUDAGraphStep(model, groups.make_optimizer(1e-3, 1e-4), max_norm=100.0)
    for part in [parts[0]] * (NUM_WARMUP_STEPS + 2):
        step(dataset.__getitems__(part))
    many = 20 if device.type == "cuda" else 2

    def run() -> None:
        for number in range(many):
            step(dataset.__getitems__(parts[number % 8]))

    taken = 1e3 * gpu_parts.seconds(run, device, 5) / many
    least = gpu_parts.floor(model, size, counts.shape[1], 1 if likelihood == "nb" else 2, rate)
    return {"likelihood": likelihood, "batch": size, "step_ms": taken, **least, "over_floor": taken / least["floor_ms"]}


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke test, on the CPU if need be; its figures mean nothing")
    add("--cells", type=int, default=100_000, help="simulated cells (100000)")
    add("--genes", type=int, default=2_000, help="simulated genes (2000)")
    add("--epochs", type=int, default=20, help="epochs of each training (20)")
    add("--batches", type=int, nargs="+", default=[128, 1024, 4096], help="cells in a batch of ours (128 1024 4096)")
    add("--repeats", type=int, default=50, help="times that a part is timed (50)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.cells, options.genes, options.epochs, options.repeats = 600, 100, 2, 3
        options.batches = [64, 128]
    return options


if __name__ == "__main__":
    sys.exit(main())
