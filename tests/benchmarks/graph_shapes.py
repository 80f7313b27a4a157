"""Shapes of latent graphs: the bound of each, its estimators, and the time of a step relative to a Gaussian VAE.

Each shape of tests/models/shapes.py is trained on scikit-learn's 8 x 8 digits (pixels above 1/2) and on scanpy's
packaged PBMC68k (700 cells x 765 genes), all with the same networks, steps and learning rate. The table has:

  ELBO       of the test observations, in nats per observation, from 50 samples of the latents each
  log p(x)   its importance-sampled estimate from the same samples
  KL         divergence of each latent at the test observations
  time       a training step (loss, backward pass and Adam) on one batch of 64, divided by that of the Gaussian VAE: the
             median over blocks in which the two alternate

  python tests/benchmarks/graph_shapes.py                                 both data sets, seeds 0, 1 and 2
  python tests/benchmarks/graph_shapes.py --data digits --seeds 0 --steps 500
  python tests/benchmarks/graph_shapes.py --shapes GMVAE M2
  python tests/benchmarks/graph_shapes.py --quick                         smoke test; its numbers mean nothing

Progress and the finished runs go to stderr, the table to stdout, and the last line of stdout is one JSON object with
the same numbers.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
from models.shapes import shape, shape_names

import vaekit
from vaekit.data import GeneExpressionData, ImageData
from vaekit.diagnostics import importance_sampled_log_likelihood
from vaekit.models import VAE
from vaekit.models.objectives import ELBO

SAMPLES = 50  # of the latents per test observation
DATA: dict[str, Any] = {
    "digits": (lambda seed: ImageData("digits", binarization="threshold", batch_size=64, seed=seed),
               vaekit.likelihoods.Bernoulli, {"dropout": 0.0, "learning_rate": 2e-3}),
    "cells": (lambda seed: GeneExpressionData(batch_size=64, seed=seed), vaekit.likelihoods.NegativeBinomial,
              {"dropout": 0.4, "encoder_dropout": 0.1, "learning_rate": 4e-3, "weight_decay": 0.0}),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Train the shapes and print the table."""
    options = read_arguments(arguments)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*num_workers.*")
    rows: list[dict[str, Any]] = []
    runs = [(name, seed, kind) for seed in options.seeds for name in options.data for kind in options.shapes]
    for name, seed, kind in tqdm(runs, unit="run", file=sys.stderr):
        pl.seed_everything(seed, verbose=False)
        data = DATA[name][0](seed)
        data.setup()
        model = create(name, kind, data)
        fit(model, data, options.steps)
        torch.manual_seed(seed)
        batches = list(data.dataloader("test"))
        estimate = importance_sampled_log_likelihood(model, batches, SAMPLES)
        with torch.no_grad():
            terms = [model.loss(batch).terms for batch in batches]
        divergences = {key: torch.cat([t[key] for t in terms]).mean().item() for key in terms[0]}
        divergences.pop("reconstruction")
        estimators = {latent: type(e).__name__ for latent, e in model.estimators.items()}
        row = {"data": name, "seed": seed, "shape": kind, "elbo": estimate.elbo.mean().item(),
               "log_likelihood": estimate.log_likelihood.mean().item(), "kl": divergences,
               "estimators": estimators}  # fmt: skip
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    times = {name: relative_times(name, options.shapes, options.blocks) for name in options.data}
    print_table(rows, times, options)
    print(json.dumps({"steps": options.steps, "rows": rows, "relative_times": times}))
    return 0


def create(name: str, kind: str, data: Any) -> VAE:
    """Create a model of a shape for a data set."""
    _, likelihood, arguments = DATA[name]
    return shape(kind, data.features, likelihood(), objective=ELBO(warmup=0.25), **arguments)


def fit(model: VAE, data: Any, steps: int) -> None:
    """Train without files, logs and validation."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)
    trainer = pl.Trainer(max_steps=steps, accelerator="cpu", limit_val_batches=0, num_sanity_val_steps=0, **quiet)
    trainer.fit(model, data)
    model.eval()


def relative_times(name: str, kinds: list[str], blocks: int, block_steps: int = 10) -> dict[str, float]:
    """Return the time of a training step of each shape, divided by that of the Gaussian VAE."""
    data = DATA[name][0](0)
    data.setup()
    batch = next(iter(data.dataloader("train")))

    def stepper(kind: str) -> Any:
        model = create(name, kind, data).train()
        model.loss(batch, training=True)  # checks the gradient paths, once
        optimizer = torch.optim.Adam(model.parameters())

        def run() -> float:
            start = time.perf_counter()
            for _ in range(block_steps):
                optimizer.zero_grad()
                model.loss(batch, training=True).total.mean().backward()
                optimizer.step()
            return time.perf_counter() - start

        run()
        return run

    reference = stepper("gaussian")
    ratios = {}
    for kind in kinds:
        run = stepper(kind)
        ratios[kind] = statistics.median(run() / reference() for _ in range(blocks))
    return ratios


def print_table(rows: list[dict[str, Any]], times: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Print means and standard deviations over the seeds."""
    for name in options.data:
        print(f"\n{name}: {options.steps} steps of 64, seeds {' '.join(map(str, options.seeds))}")
        print(f"{'shape':<31}{'ELBO':>18}{'log p(x)':>18}{'time':>7}  KL of each latent; estimators")
        for kind in options.shapes:
            own = [row for row in rows if row["data"] == name and row["shape"] == kind]
            divergences = {key: statistics.mean(row["kl"][key] for row in own) for key in own[0]["kl"]}
            texts = [spread([row[key] for row in own]) for key in ("elbo", "log_likelihood")]
            parts = ", ".join(f"{key.removeprefix('kl_')} {value:.2f}" for key, value in divergences.items())
            chosen = ", ".join(f"{latent} {estimator}" for latent, estimator in own[0]["estimators"].items())
            print(f"{kind:<31}{texts[0]:>18}{texts[1]:>18}{times[name][kind]:>7.2f}  {parts}; {chosen}")


def spread(values: list[float]) -> str:
    """Return the mean, and the standard deviation in parentheses."""
    deviation = f" ({statistics.stdev(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument(
        "--shapes", nargs="+", choices=["gaussian", *shape_names()], default=["gaussian", *shape_names()]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.seeds, options.blocks = 3, [0], 1
    return options


if __name__ == "__main__":
    sys.exit(main())
