"""A run that is resumed from its last checkpoint ends like an uninterrupted one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from vaekit import GaussianVAE, MixedVAE
from vaekit.callbacks import RunCheckpoint
from vaekit.data import GeneExpressionData, ImageData
from vaekit.likelihoods import Bernoulli, NegativeBinomial
from vaekit.models import VAE
from vaekit.models.run_state import get_rng_state, set_rng_state

from .test_checkpoint import data, model_for, same, state
from .tiny import adata, trainer


class PowerCut(pl.Callback):
    """Ends training in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer, *args) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


class Order(pl.Callback):
    """Notes the rows of each step."""

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.rows[trainer.global_step] = batch.index.tolist()


def images() -> ImageData:
    """Binarized again in each mini-batch, so that the data draw random numbers, too."""
    found = ImageData(batch_size=500, seed=1)  # three steps an epoch
    assert found.binarization == "dynamic"
    return found


def image_model(cells: ImageData) -> VAE:
    return GaussianVAE(cells.features, Bernoulli(), latent_dim=2, hidden=[8], learning_rate=0.01)


def labeled() -> GeneExpressionData:
    """Some training cells have a label, of which the model learns."""
    cells = adata()
    cells.obs["known"] = np.where(
        np.random.default_rng(0).random(len(cells)) < 0.6, cells.obs["cell_type"].astype(str), ""
    )
    return GeneExpressionData(cells, batch_key="batch", observed_key="known", batch_size=16)


def labeled_model(cells: GeneExpressionData) -> VAE:
    sizes = {"features": cells.features, "covariates": cells.covariates, "labels": cells.observed_categories}
    return MixedVAE(likelihood=NegativeBinomial(), hidden=[8], learning_rate=0.01, **sizes)


KINDS = {
    "cells": (data, lambda cells: model_for("mixed_sampled", cells)),
    "baseline": (data, lambda cells: model_for("discrete_learned", cells)),
    "mixture": (data, lambda cells: model_for("mixed_component", cells)),
    "vamp": (data, lambda cells: model_for("vamp_prior", cells)),
    "flow": (data, lambda cells: model_for("flow", cells)),
    "images": (images, image_model),
    "labels": (labeled, labeled_model),
}


@pytest.mark.parametrize(
    "length",
    [{"max_epochs": 3}, {"max_steps": 8}, {"max_epochs": 3, "accumulate_grad_batches": 2}],
    ids=["epochs", "steps", "accumulating"],
)
@pytest.mark.parametrize("kind", list(KINDS))
def test_wherever_it_stops(tmp_path: Path, kind: str, length: dict) -> None:
    make_data, make_model = KINDS[kind]

    def run(folder: str, *callbacks: pl.Callback, **kwargs) -> tuple[VAE, dict[int, list[int]]]:
        order = Order()
        used = trainer(tmp_path / folder, callbacks=[RunCheckpoint(every_n_steps=1), order, *callbacks], **length)
        try:
            used.fit(model, datamodule=cells, **kwargs)
        except RuntimeError as error:
            assert "power cut" in str(error)  # noqa: PT017
        return model, order.rows

    def begin(seed: int) -> tuple:
        for seeded in (torch.manual_seed, np.random.seed, random.seed):
            seeded(seed)
        cells = make_data()
        return cells, make_model(cells)

    cells, model = begin(3)
    whole, order = run("whole")
    steps, whole = whole.trainer.global_step, state(whole)
    for stop in range(1, steps):
        cells, model = begin(3)
        run(f"cut_{stop}", PowerCut(stop))
        assert not same(state(model), whole)
        cells, model = begin(77)  # another process
        last = tmp_path / f"cut_{stop}" / "last.ckpt"
        assert torch.load(last, weights_only=True)["global_step"] == stop
        resumed, rows = run(f"cut_{stop}", ckpt_path=last, weights_only=True)
        assert resumed.trainer.global_step == steps
        assert rows == {step: order[step] for step in range(stop, steps)}, f"other data after step {stop}"
        assert same(state(resumed), whole), f"other weights after step {stop}"


def test_all_generators_are_kept(tmp_path):
    state = get_rng_state()
    torch.save(state, tmp_path / "state.pt")
    first = [(torch.randn(3).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1)) for _ in range(3)]
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert first == [(torch.randn(3).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1)) for _ in range(3)]
