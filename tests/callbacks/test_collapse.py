"""Units and codes in use during training: known ones, dying ones, a real run, a resumed one."""

from __future__ import annotations

import warnings

import pytest
import pytorch_lightning as pl
import torch
from models.tiny import MODELS, counts, trainer
from torch.utils.data import DataLoader

from vaekit.callbacks import Collapse
from vaekit.diagnostics import latent_use, posterior_summaries
from vaekit.exceptions import ConfigError
from vaekit.likelihoods import NegativeBinomial


def fit(model, epochs, callbacks):
    """Train on one batch, and validate on it, an epoch a step."""
    used = trainer(max_epochs=epochs, callbacks=callbacks)
    used.fit(model, *(DataLoader([counts()], batch_size=None) for _ in range(2)))
    return used


def test_counts_what_the_evaluation_counts():
    model = MODELS["mixed"](NegativeBinomial())
    metrics = fit(model, 3, [Collapse(every=1)]).callback_metrics
    use = latent_use(model, posterior_summaries(model, [counts()]))
    assert metrics["use/z"].item() == use.active_units
    assert metrics["use/y"].item() == use.used_codes("y")


class Kill(pl.Callback):
    """Sets heads to zero, biases to a preference for one code, after some epochs."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            with torch.no_grad():
                for name in ("y", "z"):
                    for p in pl_module.latents[name].head.parameters():
                        p.zero_()
                pl_module.latents["y"].head.bias[0] = 30.0
                for group in trainer.optimizers[0].param_groups:
                    group["lr"] = 0.0


def test_warns_once_of_what_dies():
    torch.manual_seed(0)
    model, watch = MODELS["mixed"](NegativeBinomial()), Collapse(every=1)
    with torch.no_grad():
        model.latents["z"].head.weight.mul_(30)  # in use from the start
    with pytest.warns(UserWarning, match="died by epoch") as caught:
        fit(model, 6, [watch, Kill()])
    died = [str(w.message) for w in caught if " died by epoch" in str(w.message)]
    assert len([m for m in died if "latent 'y': codes" in m]) == 1
    assert len([m for m in died if "latent 'z': units" in m]) == 1
    assert watch.alive == {"y": [0], "z": []}


def test_a_resumed_run_remembers():
    watch, again = Collapse(every=2), Collapse(every=2)
    fit(MODELS["mixed"](NegativeBinomial()), 3, [watch])
    again.load_state_dict(watch.state_dict())
    assert again.state_dict() == watch.state_dict()
    assert watch.state_dict()["validations"] == 3


def test_nothing_dies_in_a_steady_model():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*died by epoch.*")
        fit(MODELS["gaussian"](NegativeBinomial()), 4, [Collapse(every=1)])


def test_impossible_interval():
    with pytest.raises(ConfigError, match="every is 0"):
        Collapse(every=0)
