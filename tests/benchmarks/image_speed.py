"""Training speed on images: vaekit under Lightning's Trainer next to a hand-written torch loop of the same model.

784-512-256-(32 Gaussian | 20 x 10 categories by straight-through Gumbel-Softmax) and back, with layer normalization,
dynamic binarization, AdamW, clipped gradients and a cosine schedule in both, batches of 128. Both hold the images in
memory as bytes. In each round every contender trains some epochs alternately, and the last is timed; the figures are
medians over rounds, the ratio that of each round's two times. The target is a ratio of at most 1.2. Time on the clock
and time of the processor are both reported: on a machine that others use too, the second is the one to look at.

Images are random if `--data` does not name a directory with MNIST/raw/*-ubyte.gz: the time does not depend on
them. The last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import math
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from vaekit import DiscreteVAE, GaussianVAE
from vaekit.callbacks import TrainingProgressBar
from vaekit.data import ImageData
from vaekit.estimators import GumbelSoftmax
from vaekit.likelihoods import Bernoulli
from vaekit.models import VAE
from vaekit.models.objectives import ELBO

BATCH, HIDDEN, UNITS, VARIABLES, CATEGORIES, RATE, CLIP = 128, (512, 256), 32, 20, 10, 1e-3, 100.0
MODELS = ("gaussian", "discrete")
TARGET = 1.2


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print it."""
    options = read_arguments(arguments)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pixels = images(options.data, options.images)
    rounds: list[dict[str, Any]] = []
    for number in tqdm(range(options.rounds), desc="rounds", file=sys.stderr):
        for kind in MODELS:
            contenders = [("vaekit", with_vaekit), ("by hand", by_hand)]
            for name, train in contenders if number % 2 else contenders[::-1]:  # neither always goes first
                torch.manual_seed(number)
                wall, processor, steps = train(kind, pixels, options.epochs)
                row = {"round": number, "model": kind, "loop": name}
                rounds.append(row | {"clock": 1e3 * wall / steps, "processor": 1e3 * processor / steps})
    table = [summary(rounds, kind, time) for kind in MODELS for time in ("clock", "processor")]
    print(f"ms a step, batches of {BATCH}, {options.threads} threads, medians over {options.rounds} rounds")
    print(f"{'model':<12}{'time':<11}{'by hand':>10}{'vaekit':>10}{'ratio':>8}{'lowest':>8}{'highest':>9}")
    for row in table:
        print(f"{row['model']:<12}{row['time']:<11}{row['by hand']:>10.2f}{row['vaekit']:>10.2f}{row['ratio']:>8.2f}"
              f"{row['lowest']:>8.2f}{row['highest']:>9.2f}  (target {TARGET})")  # fmt: skip
    print(json.dumps({"threads": options.threads, "batch": BATCH, "table": table, "rounds": rounds}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke test: few images, 1 round; its figures mean nothing")
    add("--data", type=Path, help="folder with MNIST/raw; default: random images")
    add("--images", type=int, default=20_000, help="training images (20000)")
    add("--rounds", type=int, default=5, help="interleaved rounds (5)")
    add("--epochs", type=int, default=2, help="epochs a round (2); the last one is timed")
    add("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.images, options.rounds = 1280, 1
    return options


def images(folder: Path | None, count: int) -> np.ndarray:
    """Return bytes ``[count, 28, 28]``."""
    if folder is None:
        return np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    with gzip.open(folder / "MNIST" / "raw" / "train-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), np.uint8, offset=16)
    return raw.reshape(-1, 28, 28)[:count].copy()


def summary(rounds: list[dict[str, Any]], kind: str, time: str) -> dict[str, Any]:
    """Return the medians of one model, and those of its ratios within rounds."""
    own = {loop: [r[time] for r in rounds if (r["model"], r["loop"]) == (kind, loop)]
           for loop in ("by hand", "vaekit")}  # fmt: skip
    ratios = [ours / hand for ours, hand in zip(own["vaekit"], own["by hand"], strict=True)]
    return {"model": kind, "time": time, **{loop: statistics.median(times) for loop, times in own.items()},
            "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}  # fmt: skip


class Clock(pl.Callback):
    """Times the last epoch."""

    wall, processor, steps = 0.0, 0.0, 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.steps, self._since, self._used = trainer.global_step, time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.wall, self.processor = time.perf_counter() - self._since, time.process_time() - self._used
        self.steps = trainer.global_step - self.steps


def with_vaekit(kind: str, pixels: np.ndarray, epochs: int) -> tuple[float, float, int]:
    """Train by Lightning's Trainer; return seconds (clock, processor) and steps of the last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        np.savez(path, images=pixels)
        data, clock = ImageData(path=str(path), batch_size=BATCH, split=(0.98, 0.01, 0.01)), Clock()
        data.setup()
    common: dict[str, Any] = {"hidden": HIDDEN, "dropout": 0.0, "objective": ELBO(warmup=0.1), "learning_rate": RATE}
    model: VAE
    if kind == "gaussian":
        model = GaussianVAE(data.features, Bernoulli(), latent_dim=UNITS, **common)
    else:
        estimator = GumbelSoftmax(0.5, hard=True)
        model = DiscreteVAE(
            data.features, Bernoulli(), variables=VARIABLES, categories=CATEGORIES, estimator=estimator, **common
        )
    pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_model_summary=False,
        limit_val_batches=0, num_sanity_val_steps=0, gradient_clip_val=CLIP, callbacks=[clock, TrainingProgressBar()],
    ).fit(model, datamodule=data)  # fmt: skip
    return clock.wall, clock.processor, clock.steps


def perceptron(inputs: int, widths: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Return linear layers with layer normalization and rectifiers between them."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def by_hand(kind: str, pixels: np.ndarray, epochs: int) -> tuple[float, float, int]:
    """Train by a loop that is written for this model; return seconds (clock, processor) and steps of the last epoch."""
    flat = torch.from_numpy(pixels).flatten(1)
    flat = flat[: round(0.98 * len(flat))]
    latent = UNITS if kind == "gaussian" else VARIABLES * CATEGORIES
    encoder = perceptron(784, HIDDEN, 2 * latent if kind == "gaussian" else latent)
    decoder = perceptron(latent, HIDDEN[::-1], 784)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    matrices = [p for p in parameters if p.dim() == 2]
    others = [p for p in parameters if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, RATE, fused=True)
    steps_of_epoch = -(-len(flat) // BATCH)
    total, step, wall, processor = steps_of_epoch * epochs, 0, 0.0, 0.0
    for _ in range(epochs):
        since, used = time.perf_counter(), time.process_time()
        for rows in torch.randperm(len(flat)).split(BATCH):
            x = torch.bernoulli(flat[rows].float() / 255)
            loss = cost(kind, x, encoder, decoder, min(1.0, step / (0.1 * total))).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / total))
        wall, processor = time.perf_counter() - since, time.process_time() - used
    return wall, processor, steps_of_epoch


def cost(kind: str, x: Tensor, encoder: nn.Module, decoder: nn.Module, weight: float) -> Tensor:
    """Return minus the weighted bound of each image."""
    if kind == "gaussian":
        mean, raw = encoder(x).chunk(2, -1)
        scale = F.softplus(raw + 0.5413) + 1e-4
        kl = 0.5 * (mean.square() + scale.square() - 1).sum(-1) - scale.log().sum(-1)
        z = mean + scale * torch.randn_like(scale)
    else:
        logits = encoder(x).unflatten(-1, (VARIABLES, CATEGORIES)).log_softmax(-1)
        kl = (logits.exp() * (logits + math.log(CATEGORIES))).sum((-1, -2))
        z = F.gumbel_softmax(logits, 0.5, hard=True).flatten(-2)
    return F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1) + weight * kl


if __name__ == "__main__":
    sys.exit(main())
