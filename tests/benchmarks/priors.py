"""Flexible priors and posteriors on binarized MNIST: test log-likelihood by importance sampling, in nats.

All models have 40 dimensions (`--dim`) and networks of two layers of 300 units, as in Tomczak and Welling (2018), who
use gated units and train until the validation bound no longer improves, for up to 2,000 epochs. Here all train for
equally many epochs, with a KL warm-up over the first tenth and a learning rate that falls along a cosine. Images have
the fixed binarization of Larochelle. The last line of stdout is one JSON object with all results.

`--data` is the directory with binarized_mnist.npz (bits packed along the pixels, under train, valid and test). `--split
val` evaluates on validation images, for the choice of settings. `--quick` is a smoke test on random images.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from vaekit.batch import Batch, DataStatistics
from vaekit.diagnostics import importance_sampled_log_likelihood
from vaekit.latents import Flow, FlowPrior, Gaussian, GaussianMixture, Latent, VampPrior
from vaekit.likelihoods import Bernoulli
from vaekit.models import VAE
from vaekit.models.objectives import ELBO
from vaekit.networks import MLP

HIDDEN, COMPONENTS, BATCH = [300, 300], 500, 100
LATENTS: dict[str, Callable[[int], Latent]] = {
    "Gaussian": Gaussian,
    "Flow": Flow,
    "VampPrior": lambda dim: Gaussian(dim, prior=VampPrior(COMPONENTS)),
    "GaussianMixture": lambda dim: Gaussian(dim, prior=GaussianMixture(COMPONENTS)),
    "FlowPrior": lambda dim: Gaussian(dim, prior=FlowPrior()),
}


def main(arguments: list[str] | None = None) -> int:
    """Train the models of all seeds and print a table."""
    options = read_arguments(arguments)
    torch.set_num_threads(options.threads)
    images = read_images(options)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in options.models}
    for seed in options.seeds:
        for name in options.models:
            results[name].append(run(name, images, seed, options))
            print(f"{name}, seed {seed}: {results[name][-1]}", file=sys.stderr, flush=True)
    print_table(results)
    print(json.dumps({"options": {**vars(options), "data": str(options.data)}, "results": results}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke test of few steps on random images")
    add("--data", type=Path, help="directory with binarized_mnist.npz")
    add("--models", nargs="+", choices=LATENTS, default=list(LATENTS), metavar="MODEL", help=f"of {', '.join(LATENTS)}")
    add("--dim", type=int, default=40, help="number of dimensions (40)")
    add("--epochs", type=int, default=20, help="epochs (20)")
    add("--train-images", type=int, help="training images, the first ones; all by default")
    add("--rate", type=float, default=1e-3, help="learning rate of Adam at the start (0.001)")
    add("--samples", type=int, default=500, help="importance samples per image (500)")
    add("--images", type=int, default=1000, help="evaluated images, the first ones (1000)")
    add("--split", choices=["val", "test"], default="test", help="evaluated images (test)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    add("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args(arguments)
    if not options.quick and options.data is None:
        parser.error("--data is required without --quick")
    if options.quick:
        options.epochs, options.samples, options.images, options.seeds = 1, 10, 50, [0]
    return options


def read_images(options: argparse.Namespace) -> dict[str, Tensor]:
    """Return the training and the evaluated images, float32 ``[images, 784]`` of 0 and 1."""
    if options.quick:
        generator = torch.Generator().manual_seed(0)
        images = (torch.rand(1100, 784, generator=generator) < 0.2).float()
        return {"train": images[:1000], "held-out": images[1000:]}
    with np.load(options.data / "binarized_mnist.npz") as file:
        names = {"train": "train", "held-out": {"val": "valid", "test": "test"}[options.split]}
        images = {
            key: torch.from_numpy(np.unpackbits(file[name], axis=1)[:, :784]).float() for key, name in names.items()
        }
    return {"train": images["train"][: options.train_images], "held-out": images["held-out"][: options.images]}


def run(name: str, images: dict[str, Tensor], seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train one model; return minus the held-out log-likelihood and ELBO in nats, and milliseconds per step."""
    torch.manual_seed(seed)
    train = images["train"]
    objective = ELBO(warmup=0.1)
    model = VAE(784, MLP(HIDDEN), {"z": LATENTS[name](options.dim)}, MLP(HIDDEN), Bernoulli(), objective=objective)
    model.networks.init_from_data(DataStatistics(train.mean(0)), lambda count: draw(train, count))
    total_steps, step = options.epochs * len(train) // BATCH, 0
    optimizer = torch.optim.Adam(model.parameters(), options.rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_steps)
    start = time.process_time()
    with tqdm(total=total_steps, desc=f"{name}, seed {seed}", unit="step", file=sys.stderr, mininterval=5) as bar:
        for _ in range(options.epochs):
            for rows in torch.randperm(len(train))[: len(train) // BATCH * BATCH].split(BATCH):
                loss, _ = model.compute_step(Batch(train[rows]), objective.kl_weight(step, total_steps))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                step += 1
                bar.update()
    milliseconds = 1000 * (time.process_time() - start) / step
    torch.manual_seed(0)
    batches = [Batch(part) for part in images["held-out"].split(100)]
    found = importance_sampled_log_likelihood(model, tqdm(batches, desc="evaluation", file=sys.stderr), options.samples)
    return {
        "log_likelihood": -found.mean(),
        "elbo": -found.elbo.mean().item(),
        "standard_error": found.standard_error(),
        "step_ms": milliseconds,
    }


def draw(train: Tensor, count: int) -> Batch:
    """Return random training images."""
    return Batch(train[torch.randperm(len(train))[:count]])


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """Print the means over seeds, and the range of minus the log-likelihood, with the difference to the first model."""
    first = [each["log_likelihood"] for each in next(iter(results.values()))]
    print("| model | -log p(x) | range | better than the first by | -ELBO | ms per step |\n|---|---|---|---|---|---|")
    for name, runs in results.items():
        values = [each["log_likelihood"] for each in runs]
        gains = [a - b for a, b in zip(first, values, strict=True)]
        spread = statistics.stdev(gains) if len(gains) > 1 else math.nan
        elbo, ms = (statistics.mean(each[key] for each in runs) for key in ("elbo", "step_ms"))
        print(
            f"| {name} | {statistics.mean(values):.2f} | {min(values):.2f} to {max(values):.2f} | "
            f"{statistics.mean(gains):.2f} ± {spread:.2f} | {elbo:.2f} | {ms:.1f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
