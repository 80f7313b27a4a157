"""Names that the examples in docstrings share: ``adata``, ``data``, ``batch``, ``model`` and ``models``.

``adata`` are 300 simulated cells in three clusters and two batches, ``data`` is their data module, and ``batch`` is a
mini-batch of 64 of them. ``model`` is a ``MixedVAE`` that was trained on them for some steps, and ``models`` are three
``GaussianVAE`` with different seeds. Each example gets copies, and runs in an empty directory with seed 0.
"""

import copy
import logging
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

SHARED = ("adata", "data", "batch", "model", "models")


@cache
def shared_names() -> dict[str, Any]:
    """Simulate the cells and train the models."""
    import pytorch_lightning as pl

    import vaekit

    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    adata = vaekit.data.simulate_counts(300, 60, clusters=3, batches=2, de_fraction=0.5, lfc_scale=2.0, seed=0)
    data = vaekit.data.GeneExpressionData(adata, batch_key="batch", label_key="cluster", batch_size=64)
    data.setup()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)

    def train(model_class: Any, seed: int, **arguments: Any) -> Any:
        pl.seed_everything(seed, verbose=False)
        likelihood = vaekit.likelihoods.NegativeBinomial()
        model = model_class(data.features, likelihood, data.covariates, hidden=(32,), learning_rate=0.01, **arguments)
        pl.Trainer(max_epochs=20, limit_val_batches=0, accelerator="cpu", **quiet).fit(model, data)
        return model.eval()

    latents = {"y": vaekit.latents.Categorical(3), "z": vaekit.latents.Gaussian(2, parents=["y"])}
    models = [train(vaekit.GaussianVAE, seed, latent_dim=2) for seed in range(3)]
    model = train(vaekit.MixedVAE, seed=0, latents=latents)
    batch = data.dataset.__getitems__(list(range(64)))
    return {"adata": adata, "data": data, "batch": batch, "model": model, "models": models}


@pytest.fixture(autouse=True)
def example_names(request: pytest.FixtureRequest) -> Iterator[None]:
    """Prepare the names, the directory and the seed of an example."""
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    import torch

    doctest = request.node.dtest
    source = "".join(example.source for example in doctest.examples)
    if any(re.search(rf"\b{name}\b(?! =)", source) for name in SHARED):
        doctest.globs.update(copy.deepcopy(shared_names()))
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.chdir(request.getfixturevalue("tmp_path"))
    if "Trainer(" in source:  # prints a table of the modules where rich is installed
        monkeypatch.setattr("pytorch_lightning.trainer.connectors.callback_connector._RICH_AVAILABLE", False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
