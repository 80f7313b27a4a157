"""Training speed and memory on simulated single-cell counts: vaekit next to scVI and a bare loop.

Same data (negative binomial counts of known sparsity), same networks (128 hidden, 10 latents, one layer,
batches of 128), same machine. In each round every contender trains some epochs alternately, scVI by its own
`.train()`, vaekit by Lightning's Trainer through its own data module; the figures are medians over rounds of
the last epoch's time, so that set-up and the first steps do not count. "bare" is a loop of the same matrix
products, dropout apart, a cost without gamma functions, and Adam: what cannot be saved. "loop" is the very model of
"vaekit" (layer normalization, dropout, vaekit's likelihood and batches, clipping) written out in plain torch, without
Lightning, latents or estimators: what vaekit costs beyond it is the price of these.

Peak memory is the one of the whole process, each contender in one of its own, imports included.

Needs the extra "benchmark" (scvi-tools, flax). The last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

BATCH, HIDDEN, LATENT = 128, 128, 10
LIKELIHOODS = ("nb", "zinb")
CONTENDERS = ("scvi", "vaekit", "loop", "bare")


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print it."""
    options = read_arguments(arguments)
    if options.only:
        print(json.dumps(measure(options.only, options.likelihood, options.cells, options)))
        return 0
    rounds = []
    for number in range(options.rounds):
        for likelihood in LIKELIHOODS:
            for contender in CONTENDERS:
                row = {"round": number, **in_own_process(contender, likelihood, options.cells, options)}
                rounds.append(row)
                print(f"round {number}: {contender} {likelihood} {row['step_ms']:.2f} ms a step", file=sys.stderr)
    table = [summary(rounds, contender, likelihood) for likelihood in LIKELIHOODS for contender in CONTENDERS]
    print_table(table)
    sizes = [5_000, 50_000, *([500_000] if options.large else [])] if not options.quick else [1_000, 4_000]
    scaling = [in_own_process("vaekit", "nb", cells, options) for cells in sizes]
    print(f"\nvaekit, nb\n{'cells':>9}{'cells/s':>10}{'ms/step':>9}{'s/epoch':>9}{'peak MB':>9}")
    for row in scaling:
        print(
            f"{row['cells']:>9}{row['cells_per_s']:>10.0f}{row['step_ms']:>9.2f}{row['epoch_s']:>9.2f}"
            f"{row['peak_mb']:>9.0f}"
        )
    target = None
    if options.target_epochs is not None:
        target = run_target(options)
        print(
            f"\ntime to scVI's held-out bound after {target['scvi_epochs']} epochs, {target['cells']} cells: "
            f"{target['target']:.2f} nats in {target['scvi_seconds']:.0f} s; vaekit {target['vaekit_bound']:.2f} in "
            + ("no time: never" if target["vaekit_seconds"] is None else f"{target['vaekit_seconds']:.0f} s, ")
            + ("" if target["share_of_time"] is None else f"{target['share_of_time']:.3f} of it")
        )
    figures = {"threads": options.threads, "table": table, "scaling": scaling, "target": target, "rounds": rounds}
    print(json.dumps(figures))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke test: few cells and genes, 1 round; its figures mean nothing")
    add("--cells", type=int, default=20_000, help="simulated cells (20000)")
    add("--genes", type=int, default=2_000, help="simulated genes (2000)")
    add("--rounds", type=int, default=3, help="interleaved rounds (3)")
    add("--epochs", type=int, default=2, help="epochs a round (2); the last one is timed")
    add("--threads", type=int, default=2, help="threads of torch (2)")
    add("--large", action="store_true", help="also 500,000 cells (4 GB of memory or so)")
    add(
        "--target_epochs",
        type=int,
        metavar="N",
        help="also the time to scVI's held-out bound after N epochs (0: its own number), on --target",
    )
    add("--target", metavar="DATA.h5ad", help="cells for it, counts in X; without it the simulated ones")
    add("--only", choices=CONTENDERS, help="measure one contender in this process, and print its row as JSON")
    add("--likelihood", choices=LIKELIHOODS, default="nb", help="with --only (nb)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.cells, options.genes, options.rounds = min(options.cells, 2_000), min(options.genes, 300), 1
    return options


def run_target(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the time to scVI's own bound, here."""
    import anndata
    import scrna_target
    import torch

    torch.set_num_threads(options.threads)
    if options.target is None:
        counts = simulate(options.cells, options.genes)
    else:
        counts = sparse.csr_matrix(anndata.read_h5ad(options.target).X, dtype=np.float32)
        most = np.argsort(-np.asarray(counts.sum(0)).ravel())[: options.genes]
        counts = counts[:, np.sort(most)]
    found = scrna_target.time_to_target(counts, options.target_epochs or None, epochs=100, seed=0)
    return {"data": options.target and Path(options.target).name, **found}


def in_own_process(contender: str, likelihood: str, cells: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one contender in a separate process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--only", contender, "--likelihood", likelihood]
    for name, value in (("cells", cells), ("genes", options.genes), ("epochs", options.epochs)):
        command += [f"--{name}", str(value)]
    command += ["--threads", str(options.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    if contender in ("loop", "bare"):  # else torch, built for GPUs, looks for a driver's file in every step
        environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    return json.loads(output.decode().strip().splitlines()[-1])


def measure(contender: str, likelihood: str, cells: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one contender here, and return its row."""
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    counts = simulate(cells, options.genes)
    train = {"scvi": train_scvi, "vaekit": train_vaekit, "loop": train_loop, "bare": train_bare}[contender]
    epoch, steps = train(counts, likelihood, options.epochs)
    return {
        "contender": contender,
        "likelihood": likelihood,
        "cells": cells,
        "step_ms": 1e3 * epoch / steps,
        "epoch_s": epoch,
        "cells_per_s": steps * BATCH / epoch,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def simulate(cells: int, genes: int, density: float = 0.12, seed: int = 0) -> sparse.csr_matrix:
    """Return negative binomial counts (theta 2) of eight gene programs, with that fraction of non-zeros."""
    generator = np.random.default_rng(seed)
    level, load = generator.normal(0, 1.2, genes), generator.normal(0, 0.35, (8, genes))
    blocks, scale = [], 0.0
    for first in range(0, cells, 5_000):
        size = min(5_000, cells - first)
        composition = np.exp((level + generator.normal(size=(size, 8)) @ load).astype(np.float32))
        composition /= composition.sum(1, keepdims=True)
        library = np.exp(generator.normal(0, 0.3, (size, 1))).astype(np.float32)
        if not scale:
            scale = total_for(density, (library * composition)[:500])
        mean = library * composition * np.float32(scale)
        blocks.append(sparse.csr_matrix(generator.poisson(generator.gamma(2, mean / 2)).astype(np.float32)))
    return sparse.vstack(blocks, format="csr")


def total_for(density: float, share: np.ndarray) -> float:
    """Return the mean total count that gives the density, by bisection."""
    low, high = 1.0, 1e6
    for _ in range(40):
        middle = (low * high) ** 0.5
        found = 1 - ((2 / (2 + share * middle)) ** 2).mean()
        low, high = (middle, high) if found < density else (low, middle)
    return middle


def timer(base: type) -> Any:
    """Return a Lightning callback (of either package) that times epochs, validation apart."""

    class Timer(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.epochs: list[float] = []
            self.steps = 0

        def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
            self.started = time.perf_counter()
            self.steps = int(trainer.num_training_batches)

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx + 1 == self.steps:
                self.epochs.append(time.perf_counter() - self.started)

    return Timer()


def train_scvi(counts: sparse.csr_matrix, likelihood: str, epochs: int) -> tuple[float, int]:
    """Train scVI at its defaults; return the seconds of the last epoch and its steps."""
    import anndata
    import lightning.pytorch as lightning
    import scvi

    scvi.settings.verbosity = logging.ERROR
    adata = anndata.AnnData(counts)
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata, gene_likelihood=likelihood)
    times = timer(lightning.Callback)
    model.train(max_epochs=epochs, accelerator="cpu", callbacks=[times], enable_progress_bar=False)
    return times.epochs[-1], times.steps


def train_vaekit(counts: sparse.csr_matrix, likelihood: str, epochs: int) -> tuple[float, int]:
    """Train the Gaussian VAE; return the seconds of the last epoch and its steps."""
    import anndata
    import pytorch_lightning as pl

    import vaekit
    from vaekit.data import GeneExpressionData
    from vaekit.likelihoods import NegativeBinomial, ZeroInflatedNegativeBinomial
    from vaekit.models.objectives import ELBO

    data = GeneExpressionData(anndata.AnnData(counts), batch_size=BATCH, split=(0.9, 0.05, 0.05))
    kind = NegativeBinomial if likelihood == "nb" else ZeroInflatedNegativeBinomial
    model = vaekit.GaussianVAE(
        data.features, kind(), latent_dim=LATENT, hidden=[HIDDEN], dropout=0.1, objective=ELBO(warmup=0.25)
    )
    times = timer(pl.Callback)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[times],
        gradient_clip_val=100.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data)
    return times.epochs[-1], times.steps


def train_loop(counts: sparse.csr_matrix, likelihood: str, epochs: int) -> tuple[float, int]:
    """Train the same Gaussian VAE by a loop of plain torch; return the seconds of the last epoch and its steps."""
    import anndata
    import torch
    from torch import nn

    from vaekit.data import GeneExpressionData
    from vaekit.likelihoods import NegativeBinomial, ZeroInflatedNegativeBinomial

    data = GeneExpressionData(anndata.AnnData(counts), batch_size=BATCH, split=(0.9, 0.05, 0.05))
    data.setup()
    heads = NegativeBinomial() if likelihood == "nb" else ZeroInflatedNegativeBinomial()
    heads.build(HIDDEN, data.features)
    heads.init_from_data(data.statistics)
    encoder, decoder = (
        nn.Sequential(nn.Linear(size, HIDDEN), nn.LayerNorm(HIDDEN), nn.ReLU(), nn.Dropout(0.1))
        for size in (data.features, LATENT)
    )
    posterior = nn.Linear(HIDDEN, 2 * LATENT)
    parameters = [p for module in (encoder, posterior, decoder, heads) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    for _ in range(epochs):
        started, steps = time.perf_counter(), 0
        for batch in data.train_dataloader():
            loc, raw = posterior(encoder(heads.encoder_input(batch))).chunk(2, -1)
            scale = nn.functional.softplus(raw) + 1e-4
            log_prob = heads.log_prob(decoder(loc + scale * torch.randn_like(loc)), batch)
            kl = ((loc.square() + scale.square() - 1) / 2 - scale.log()).sum(-1)
            optimizer.zero_grad()
            (kl - log_prob).mean().backward()
            nn.utils.clip_grad_norm_(parameters, 100.0)
            optimizer.step()
            steps += 1
        seconds = time.perf_counter() - started
    return seconds, steps


def train_bare(counts: sparse.csr_matrix, likelihood: str, epochs: int) -> tuple[float, int]:
    """Run the same matrix products and Adam; return the seconds of the last epoch and its steps."""
    import torch
    from torch import nn

    genes, steps = counts.shape[1], int(0.9 * counts.shape[0] / BATCH)
    pool = torch.from_numpy(counts[: 8 * BATCH].toarray()).log1p().split(BATCH)
    encoder = nn.Sequential(nn.Linear(genes, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU())
    heads = nn.ModuleList(nn.Linear(HIDDEN, genes) for _ in range(1 if likelihood == "nb" else 2))
    parameters = [*encoder.parameters(), *decoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    for _ in range(epochs):
        started = time.perf_counter()
        for step in range(steps):
            x = pool[step % len(pool)]
            loc, scale = encoder(x).chunk(2, -1)
            h = decoder(loc + torch.randn_like(loc) * nn.functional.softplus(scale))
            loss = sum((head(h) - x).square().sum(-1).mean() for head in heads)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds = time.perf_counter() - started
    return seconds, steps


def summary(rounds: list[dict[str, Any]], contender: str, likelihood: str) -> dict[str, Any]:
    """Return the medians over rounds of one contender, and its ratios to scVI and to the bare loop, round by round."""
    rows = {
        name: [row for row in rounds if row["contender"] == name and row["likelihood"] == likelihood]
        for name in CONTENDERS
    }

    def ratio(one: str, other: str) -> float:
        return statistics.median(a["step_ms"] / b["step_ms"] for a, b in zip(rows[one], rows[other], strict=True))

    return {
        "likelihood": likelihood,
        "contender": contender,
        **{
            key: statistics.median(row[key] for row in rows[contender]) for key in ("step_ms", "cells_per_s", "peak_mb")
        },
        "times_scvi": ratio("scvi", contender),
        "over_loop": ratio(contender, "loop"),
        "over_bare": ratio(contender, "bare"),
    }


def print_table(table: list[dict[str, Any]]) -> None:
    """Print cells a second, and the ratios."""
    print(
        f"{'likelihood':<12}{'contender':<11}{'cells/s':>9}{'ms/step':>9}{'x scVI':>8}{'/ loop':>8}{'/ bare':>8}"
        f"{'peak MB':>9}"
    )
    for row in table:
        print(
            f"{row['likelihood']:<12}{row['contender']:<11}{row['cells_per_s']:>9.0f}{row['step_ms']:>9.2f}"
            f"{row['times_scvi']:>8.2f}{row['over_loop']:>8.2f}{row['over_bare']:>8.2f}{row['peak_mb']:>9.0f}"
        )


if __name__ == "__main__":
    sys.exit(main())
