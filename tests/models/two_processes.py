"""Program of each of two processes for test_ddp.py: ``LOCAL_RANK=0 python -m tests.models.two_processes DIR``."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping

from vaekit import DiscreteVAE, MixedVAE
from vaekit.callbacks import PosteriorCollapseMonitor, RunCheckpoint, TerminateOnNonFinite
from vaekit.cli.predictions import in_order
from vaekit.data import GeneExpressionData
from vaekit.estimators import REBAR, RELAX, MuProp, ReinMax
from vaekit.estimators.running_moments import RunningMoments
from vaekit.exceptions import DataError, TrainingError
from vaekit.likelihoods import Poisson
from vaekit.models import VAE
from vaekit.networks import MLP

from . import test_checkpoint
from .test_checkpoint import model_for, same, state
from .test_resume import Order, PowerCut
from .tiny import MODELS, adata, trainer

EPOCHS = 3
KEPT = ("discrete_moving_average", "discrete_learned", "mixed_sampled", "mixed_relaxed", "sequential_critic", "labeled")
LEARNING = {"rebar": REBAR, "relax": lambda: RELAX(MLP([4])), "muprop": MuProp, "reinmax": ReinMax}


class Start(pl.Callback):
    """Notes the generator's state when training starts."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.noise = torch.get_rng_state()


def together(folder: Path | None = None, **kwargs: Any) -> pl.Trainer:
    """Return a trainer that is one of two."""
    return trainer(folder, strategy="ddp", devices=2, **kwargs)


def data(name: str) -> GeneExpressionData:
    """Return the data of a model; few cells have a label, so that a process has steps without any."""
    if name != "labeled":
        return test_checkpoint.data()
    cells = adata()
    is_known = np.arange(len(cells)) < 9  # three per type
    cells.obs["known"] = cells.obs["cell_type"].astype(object).where(is_known, "Unknown")
    return GeneExpressionData(cells, batch_key="batch", observed_key="known", batch_size=16)


def begin(name: str, seed: int = 3) -> tuple[GeneExpressionData, VAE]:
    """Return data and model, equal in both processes."""
    pl.seed_everything(seed, verbose=False)
    cells = data(name)
    if name == "labeled":
        sizes = {"features": cells.features, "covariates": cells.covariates, "labels": cells.observed_categories}
        return cells, MixedVAE(likelihood=Poisson(), hidden=[8], dropout=0.0, learning_rate=0.01, **sizes)
    if name in LEARNING:
        sizes = {"features": cells.features, "covariates": cells.covariates}
        return cells, DiscreteVAE(**sizes, likelihood=Poisson(), hidden=[8], estimator=LEARNING[name]())
    return cells, model_for(name, cells)


def every_model() -> dict[str, Any]:
    """Train each model for two steps."""
    found = {}
    for name in (*MODELS, *LEARNING):
        cells, model = begin(name)
        together(max_steps=2, limit_val_batches=0).fit(model, datamodule=cells)
        found[name] = state(model)
    return found


def whole_runs(folder: Path) -> dict[str, Any]:
    """Train some models for three epochs."""
    found = {}
    for name in KEPT:
        cells, model = begin(name)
        order, start, watch = Order(), Start(), PosteriorCollapseMonitor(every_n_validations=1)
        used = together(folder / name, max_epochs=EPOCHS, callbacks=[RunCheckpoint(), order, start, watch])
        used.fit(model, datamodule=cells)
        metrics = {key: float(value) for key, value in used.callback_metrics.items()}
        found[name] = {"state": state(model), "rows": order.rows, "noise": start.noise, "metrics": metrics}
        found[name] |= {"alive": watch.alive, "val": used.validate(model, datamodule=cells, verbose=False)[0]}
        found[name]["predicted"] = in_order(used.predict(model, datamodule=cells))
    return found


def moving_average() -> dict[str, Any]:
    """Record the costs that reach a moving average, and its value after each step."""
    seen: list[torch.Tensor] = []
    update = RunningMoments.update

    def noted(self: RunningMoments, cost: torch.Tensor, weight: torch.Tensor) -> None:
        seen.append(torch.stack([(weight * cost.double()).sum(0).mean(), (weight * cost.double() ** 2).sum(0).mean()]))
        update(self, cost, weight)

    kept: list[torch.Tensor] = []

    class Before(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
            (running,) = (part for part in pl_module.modules() if isinstance(part, RunningMoments))
            kept.append(torch.stack([running.first, running.second, running.seen]))

    cells, model = begin("discrete_moving_average")
    RunningMoments.update = noted  # type: ignore[method-assign]
    together(max_steps=4, limit_val_batches=0, callbacks=[Before()]).fit(model, datamodule=cells)
    RunningMoments.update = update  # type: ignore[method-assign]
    return {"costs": torch.stack(seen), "kept": torch.stack(kept)}


class Gradients(pl.Callback):
    """Keeps the gradients of the labels' head after each backward pass, and the weights before it."""

    def __init__(self) -> None:
        self.kept: list[dict[str, dict[str, torch.Tensor]]] = []

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        head = {name: each.grad.clone() for name, each in pl_module.named_parameters() if ".y.head." in name}
        self.kept.append({"weights": state(pl_module), "gradients": head})


def labels() -> dict[str, Any]:
    """Train on labels for two epochs, and keep each step's rows and gradients."""
    cells, model = begin("labeled")
    order, gradients = Order(), Gradients()
    together(max_epochs=2, limit_val_batches=0, callbacks=[order, gradients]).fit(model, datamodule=cells)
    return {"rows": order.rows, "steps": gradients.kept}


def resumed_runs(folder: Path, whole: dict[str, Any]) -> dict[int, dict[str, bool]]:
    """Stop after each step of a run, and resume it."""
    found = {}
    for stop in range(1, len(whole["rows"])):
        order = Order()
        for seed, callback in ((3, PowerCut(stop)), (77, order)):
            cells, model = begin("mixed_sampled", seed)
            path = folder / f"cut_{stop}"
            used = together(path, max_epochs=EPOCHS, callbacks=[RunCheckpoint(every_n_steps=1), callback])
            resume: dict[str, Any] = {"ckpt_path": path / "last.ckpt", "weights_only": True} if seed == 77 else {}
            # the seed of the order belongs to the command, which is the same when it is resumed
            pl.seed_everything(3, verbose=False) if seed == 77 else None
            try:
                used.fit(model, datamodule=cells, **resume)
            except RuntimeError as error:
                assert "power cut" in str(error)  # noqa: PT017
        rows = {step: whole["rows"][step] for step in range(stop, len(whole["rows"]))}
        found[stop] = {"weights": same(state(model), whole["state"]), "rows": order.rows == rows}
    return found


def stopped_early(folder: Path) -> dict[str, Any]:
    """Train until a bar that no run clears has been missed twice."""
    cells, model = begin("discrete_learned")
    stop = EarlyStopping("val/elbo", mode="max", min_delta=1e6, patience=2)
    used = together(folder / "early", max_epochs=20, callbacks=[RunCheckpoint(), stop])
    used.fit(model, datamodule=cells)
    return {"epochs": used.current_epoch, "step": used.global_step}


def too_few() -> str:
    """Train on fewer rows than processes."""
    cells = GeneExpressionData(adata()[:3].copy(), batch_size=16, split=(0.34, 0.33, 0.33))
    try:
        together(max_steps=1).fit(model_for("gaussian", cells), datamodule=cells)
    except DataError as error:
        return str(error)
    return ""


class Poison(pl.Callback):
    """Makes a batch of the second process NaN."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 1:
            batch.x[:2] = torch.nan


def broken() -> str:
    """Train until a loss is NaN in one process."""
    cells, model = begin("gaussian")
    try:
        together(max_steps=4, callbacks=[Poison(), TerminateOnNonFinite()]).fit(model, datamodule=cells)
    except TrainingError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    rank = os.environ["LOCAL_RANK"]
    found: dict[str, Any] = {"every": every_model(), "whole": whole_runs(folder), "average": moving_average()}
    found["resumed"] = resumed_runs(folder, found["whole"]["mixed_sampled"])
    found["early"], found["too_few"], found["broken"] = stopped_early(folder), too_few(), broken()
    found["labels"] = labels()
    torch.save(found, folder / f"process_{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
