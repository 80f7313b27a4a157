"""Every shape of latent graph trained on digits and on blood cells, against a Gaussian VAE of the same size."""

from __future__ import annotations

from functools import cache

import pytest
import pytorch_lightning as pl
import torch

import vaekit
from vaekit.data import GeneExpressionData, ImageData
from vaekit.diagnostics import importance_sampled_log_likelihood
from vaekit.models import VAE
from vaekit.models.objectives import ELBO

from .shapes import GRAPHS, shape, shape_names
from .tiny import trainer

# settings, and the largest difference to the ELBO of the Gaussian VAE: training is short, and has one seed
DATA = {
    "digits": (lambda: ImageData("digits", binarization="threshold", batch_size=64), vaekit.likelihoods.Bernoulli,
               {"dropout": 0.0, "learning_rate": 4e-3}, 0.7),
    "cells": (lambda: GeneExpressionData(batch_size=64), vaekit.likelihoods.NegativeBinomial,
              {"dropout": 0.4, "encoder_dropout": 0.1, "learning_rate": 4e-3, "weight_decay": 0.0}, 3.0),
}  # fmt: skip
STEPS = {"digits": 150, "cells": 60}


@cache
def data(name: str) -> pl.LightningDataModule:
    module = DATA[name][0]()
    module.setup()
    return module


@cache
def trained(name: str, kind: str, steps: int) -> VAE:
    with torch.random.fork_rng(devices=[]):
        pl.seed_everything(0, verbose=False)
        likelihood, arguments = DATA[name][1](), DATA[name][2]
        model = shape(kind, data(name).features, likelihood, objective=ELBO(warmup=0.25), hidden=[64], **arguments)
        trainer(max_steps=steps, limit_val_batches=0).fit(model, data(name))
    return model.eval()


def bound(name: str, model: VAE) -> float:
    torch.manual_seed(0)
    return importance_sampled_log_likelihood(model, data(name).dataloader("test"), 20).elbo.mean().item()


@pytest.mark.parametrize("kind", shape_names())
@pytest.mark.parametrize("name", DATA)
def test_the_bound_is_not_below_that_of_a_gaussian(name, kind):
    steps = STEPS[name]
    model = trained(name, kind, steps)
    assert bound(name, model) > bound(name, trained(name, "gaussian", steps)) - DATA[name][3]
    logged = {key for key in model.step_terms if key.startswith("kl_")}
    assert logged == {f"kl_{latent}" for latent in model.latents}  # the divergence of every edge
    assert all(model.step_terms[key].isfinite().all() for key in logged)


@pytest.mark.proof
@pytest.mark.parametrize("kind", shape_names())
@pytest.mark.parametrize("name", DATA)
def test_the_bound_of_a_long_training(name, kind):
    """The floor is that of the Gaussian VAE, with a tolerance for the few steps."""
    steps = 1500
    tolerance = {"digits": 0.1, "cells": 1.0}[name]
    assert bound(name, trained(name, kind, steps)) > bound(name, trained(name, "gaussian", steps)) - tolerance


def test_each_shape_is_in_the_table():
    assert set(GRAPHS) < set(shape_names())
