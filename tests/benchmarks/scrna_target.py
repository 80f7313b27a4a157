"""Time to scVI's final held-out bound: both train on the same cells, by their own trainers.

scVI trains at its defaults to its own end; the evidence lower bound of the held-out cells with its final weights is
the target. vaekit then trains, and at the end of each of its epochs the bound of the same cells is computed, in time
that does not count, until it reaches the target. scVI is timed without validation, and so is vaekit.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from scipy import sparse
from torch import Tensor

SAMPLES = 20  # of the posterior, for each cell's bound
HELD_OUT = 0.1


def time_to_target(counts: sparse.csr_matrix, scvi_epochs: int | None, epochs: int, seed: int) -> dict[str, Any]:
    """Return times, bounds (nats per cell) and epochs of both, and the ratio of the times."""
    import scvi_reference as reference

    order = np.random.default_rng(seed).permutation(counts.shape[0])
    held, train = np.sort(order[: int(HELD_OUT * len(order))]), np.sort(order[int(HELD_OUT * len(order)) :])
    variant = reference.Variant("defaults")
    fit = reference.fit(counts, train, held, seed=seed, variant=variant, max_epochs=scvi_epochs)
    target = reference.score(fit.model, counts, held, num_samples=SAMPLES, seed=seed).elbo.mean().item()
    print(f"scVI: {target:.2f} nats a cell after {fit.epochs} epochs, {fit.seconds:.0f} s", file=sys.stderr)
    watch = train_vaekit(counts, train, held, target, epochs, seed)
    reached = watch.reached is not None
    return {
        "cells": len(order),
        "scvi_epochs": fit.epochs,
        "scvi_seconds": fit.seconds,
        "target": target,
        "vaekit_epochs": len(watch.bounds),
        "vaekit_seconds": watch.reached,
        "vaekit_bound": watch.bounds[-1],
        "share_of_time": watch.reached / fit.seconds if reached else None,
    }


class Watch(pl.Callback):
    """Stops the training once the bound of the held-out cells reaches a target; what that takes is not timed."""

    def __init__(self, batches: Any, target: float) -> None:
        self.batches, self.target = batches, target
        self.bounds: list[float] = []
        self.seconds = 0.0
        self.reached: float | None = None

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.seconds += time.perf_counter() - self.started
        with torch.random.fork_rng():
            self.bounds.append(bound(module, self.batches))
        print(f"vaekit: {self.bounds[-1]:.2f} after {self.seconds:.0f} s", file=sys.stderr)
        if self.bounds[-1] >= self.target:
            self.reached = self.seconds
            trainer.should_stop = True


@torch.no_grad()
def bound(model: Any, batches: Any) -> float:
    """Return the mean evidence lower bound of the cells, in nats."""
    model.eval()
    sums: list[Tensor] = [
        -torch.stack([model.loss(batch).total for _ in range(SAMPLES)]).mean(0).double() for batch in batches
    ]
    model.train()
    return torch.cat(sums).mean().item()


def train_vaekit(
    counts: sparse.csr_matrix, train: np.ndarray, held: np.ndarray, target: float, epochs: int, seed: int
) -> Watch:
    """Train until the target is reached, at most for ``epochs``."""
    import anndata
    from torch.utils.data import DataLoader

    import vaekit
    from vaekit.data import GeneExpressionData
    from vaekit.data.dataset import identity_collate
    from vaekit.likelihoods import NegativeBinomial
    from vaekit.models.objectives import ELBO

    pl.seed_everything(seed)
    # vaekit always holds some cells back: it trains on a fiftieth fewer than scVI
    data = GeneExpressionData(anndata.AnnData(counts[train]), batch_size=128, split=(0.98, 0.01, 0.01))
    others = GeneExpressionData(anndata.AnnData(counts[held])).dataset  # all cells, regardless of their split
    batches = list(DataLoader(others, batch_size=512, collate_fn=identity_collate))
    model = vaekit.GaussianVAE(
        data.features, NegativeBinomial(), hidden=[128], dropout=0.1, objective=ELBO(warmup=0.1), learning_rate=4e-3
    )
    watch = Watch(batches, target)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[watch],
        gradient_clip_val=100.0,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    return watch
