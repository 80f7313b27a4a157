"""SVRG on a Gaussian VAE of PBMC counts: the variance of its gradient next to that of plain mini-batches.

The model of configs/pbmc_gaussian.yaml is trained for a part of its epochs. Then its training continues, and
the snapshot stays behind; after some steps gradients of fresh mini-batches are drawn at the current weights, by the
machinery of the gradient report. Latents and dropout are sampled, as in training.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor

from vaekit._core.components import from_config
from vaekit.batch import Batch
from vaekit.data import GeneExpressionData
from vaekit.diagnostics.gradients.measurement import measure
from vaekit.diagnostics.gradients.replicas import flatten
from vaekit.diagnostics.gradients.target import Target
from vaekit.models import VAE
from vaekit.optim import SVRG

CONFIG = Path(__file__).parents[2] / "configs" / "pbmc_gaussian.yaml"
PLAIN, DOUBLE, FULL = "mini-batch", "mini-batch of twice the rows", "all rows"
COMMON, INDEPENDENT = "SVRG, common numbers", "SVRG, numbers of its own"
MEASURED = (PLAIN, DOUBLE, COMMON, INDEPENDENT)


def trained(epochs: int, seed: int) -> tuple[VAE, GeneExpressionData, pl.Trainer]:
    """Return the model of the config after some of its epochs, its data, and the trainer."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    config = yaml.safe_load(CONFIG.read_text())
    pl.seed_everything(seed, verbose=False)
    data = GeneExpressionData(**config["data"]["init_args"])
    arguments = _full_paths(config["model"]["init_args"])
    model = from_config(
        {"class_path": config["model"]["class_path"], "init_args": {"features": data.features, **arguments}}
    )
    trainer = pl.Trainer(
        max_epochs=config["trainer"]["max_epochs"], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, gradient_clip_val=config["trainer"]["gradient_clip_val"],
        num_sanity_val_steps=0, limit_val_batches=0, callbacks=[_StopAfter(epochs)],
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    model.train()
    return model, data, trainer


class _StopAfter(pl.Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def _full_paths(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments with class paths in full: the config has the short ones of the command line."""
    homes = {
        "likelihood": "vaekit.likelihoods",
        "estimator": "vaekit.estimators",
        "objective": "vaekit.models.objectives",
    }
    found = {}
    for name, value in arguments.items():
        if name in homes:
            value = {**value, "class_path": f"{homes[name]}.{value['class_path']}"}
        found[name] = value
    return found


class Gradients(Target):
    """Gradients of the training loss at the model's present weights, of mini-batches drawn again.

    Parameters
    ----------
    model
        It is moved while the target lives: what is measured is at its present weights.
    data
        Rows are the ones of the training split.
    batch_size
        Rows of a mini-batch.
    """

    def __init__(self, model: VAE, data: GeneExpressionData, batch_size: int) -> None:
        self.model, self.data, self.batch_size = model, data, batch_size
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.rows_of_training = data.split_indices["train"]
        self.optimizers = {
            COMMON: SVRG(self.params, 1.0),
            INDEPENDENT: SVRG(self.params, 1.0, independent_noise=True),
        }

    def batches(self, batch_size: int) -> list[Batch]:
        """Return all training rows in mini-batches."""
        return [self.data.dataset.__getitems__(rows) for rows in self.rows_of_training.split(batch_size)]

    def closure(self, batch: Batch) -> Tensor:
        """Return the loss at the KL weight after the warm-up, its gradient in ``.grad``."""
        self.model.zero_grad(set_to_none=True)
        loss = self.model.loss(batch, self.model.objective.beta, training=True).total.mean()
        loss.backward()
        return loss

    def snapshot(self, draws: int) -> None:
        """Take the snapshot here."""
        batches = self.batches(256)
        for optimizer in self.optimizers.values():
            optimizer.snapshot(self.closure, batches, draws)

    def num_evaluations(self, estimators: Any) -> int:
        """Return the number of gradients per observation and estimate, without the snapshot."""
        return {PLAIN: 1, FULL: len(self.rows_of_training) // self.batch_size}.get(estimators, 2)

    def gradient(self, estimators: Any) -> Tensor:
        """Return a gradient ``[1, components]``; ``estimators`` is the name of a method."""
        name, rows = estimators, self.rows_of_training
        if name != FULL:
            rows = rows[torch.randperm(len(rows))[: self.batch_size * (2 if name == DOUBLE else 1)]]
        batch = self.data.dataset.__getitems__(rows)
        if name in (PLAIN, DOUBLE, FULL):
            self.closure(batch)
        else:
            state = self.optimizers[name].rng_state()
            self.closure(batch)
            self.optimizers[name].correct(lambda: self.closure(batch), state)
        return flatten([p.grad for p in self.params], self.params)


def table(epochs: int, marks: list[int], draws: int, full_draws: int, seed: int) -> dict[str, Any]:
    """Return the reports at some distances from the snapshot, in steps of the model's own training, and the bias."""
    model, data, trainer = trained(epochs, seed)
    optimizer = trainer.optimizers[0]
    target = Gradients(model, data, data.batch_size)
    lines = []
    noise = residual(target, full_draws, draws)
    target.snapshot(full_draws)
    start = [p.detach().clone() for p in target.params]
    steps = 0
    for mark in marks:
        while steps < mark:
            rows = target.rows_of_training[torch.randperm(len(target.rows_of_training))[: target.batch_size]]
            target.closure(data.dataset.__getitems__(rows))
            torch.nn.utils.clip_grad_norm_(target.params, trainer.gradient_clip_val)
            optimizer.step()
            steps += 1
        report = measure(
            target, {name: name for name in MEASURED}, draws, FULL,
            reference_draws=draws // 2, timings=9, max_seconds=None, seed=seed, progress=True,
            unbiased=dict.fromkeys(MEASURED, True), title=f"{mark} steps from the snapshot",
        ).set_index("estimator")  # fmt: skip
        moved, size = _norm([p.detach() - q for p, q in zip(target.params, start, strict=True)]), _norm(start)
        variance = report.variance
        lines.append({
            "steps": mark, "epochs": round(mark * target.batch_size / len(target.rows_of_training), 2),
            "moved": moved / size, "norm": report.attrs["norm"],
            "variance": {name: float(variance[name]) for name in variance.index},
            "ratio": float(variance[COMMON] / variance[PLAIN]),
            "ratio, twice the rows": float(variance[DOUBLE] / variance[PLAIN]),
            "ratio, own numbers": float(variance[INDEPENDENT] / variance[PLAIN]),
            "relative bias": float(report.relative_bias[COMMON]), "bias noise": float(report.bias_noise[COMMON]),
            "z": float(report.z[COMMON]), "z, mini-batch": float(report.z[PLAIN]),
            "milliseconds": {name: float(report.milliseconds[name]) for name in variance.index},
        })  # fmt: skip
    return {"epochs": epochs, "batch_size": target.batch_size, "rows": len(target.rows_of_training),
            "parameters": sum(p.numel() for p in target.params), "full draws": full_draws, "lines": lines,
            "residual": noise}  # fmt: skip


def residual(target: Gradients, full_draws: int, count: int) -> dict[str, Any]:
    """Return the error of the snapshot's full gradient, at the snapshot: what an inner loop has as its bias.

    Mean squared errors by independent passes of one draw each; that of several is as many times smaller. Predicted is
    the variance of a mini-batch by random numbers, averaged over mini-batches, times batch_size / rows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        passes = torch.cat([target.gradients(FULL, 1) for _ in range(max(16, count // 4))])
        plain = target.gradients(PLAIN, count)
        variances = []
        for batch in target.batches(target.batch_size)[:-1]:  # the last has fewer rows
            own = []
            for _ in range(max(8, count // 8)):
                target.closure(batch)
                own.append(flatten([p.grad for p in target.params], target.params))
            variances.append(torch.cat(own).var(0).sum().item())
        noise = sum(variances) / len(variances)
    squared = passes.var(0).sum().item()
    predicted = noise * target.batch_size / len(target.rows_of_training)
    mean_square = passes.mean(0).square().sum().item() - squared / len(passes)
    variance = plain.var(0).sum().item()
    return {
        "variance of a mini-batch": variance, "of which by random numbers": noise / variance,
        "squared bias, 1 draw": squared, "predicted": predicted, "squared norm of the gradient": mean_square,
        **{f"bias / norm, {d} draws": (squared / d / max(mean_square, 1e-300)) ** 0.5 for d in (1, 4, full_draws)},
        **{f"squared bias / variance, {d} draws": squared / d / variance for d in (1, 4, full_draws)},
    }  # fmt: skip


def _norm(tensors: list[Tensor]) -> float:
    return torch.cat([t.flatten() for t in tensors]).norm().item()
