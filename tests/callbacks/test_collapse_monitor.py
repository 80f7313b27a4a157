"""Active dimensions and codes during training: known and collapsing ones, and a resumed run."""

from __future__ import annotations

import re
import warnings

import pytest
import pytorch_lightning as pl
import torch
from models.tiny import FEATURES, MODELS, counts, trainer
from torch.utils.data import DataLoader

from vaekit import MixedVAE
from vaekit.callbacks import PosteriorCollapseMonitor
from vaekit.callbacks.collapse_monitor import describe
from vaekit.diagnostics import latent_usage, posterior_summaries
from vaekit.exceptions import ConfigError
from vaekit.latents import Bernoulli, Categorical, Gaussian, LibrarySize
from vaekit.likelihoods import NegativeBinomial
from vaekit.models.objectives import ELBO


def fit(model, epochs, callbacks):
    """Train and validate on one batch, with one step per epoch."""
    run_trainer = trainer(max_epochs=epochs, callbacks=callbacks)
    run_trainer.fit(model, *(DataLoader([counts()], batch_size=None) for _ in range(2)))
    return run_trainer


def test_counts_agree_with_the_evaluation():
    model = MODELS["mixed"](NegativeBinomial())
    metrics = fit(model, 3, [PosteriorCollapseMonitor(every_n_validations=1)]).callback_metrics
    usage = latent_usage(model, posterior_summaries(model, [counts()]))
    assert metrics["active/z"].item() == usage.active_units
    assert metrics["active/y"].item() == usage.used_codes("y")


class Kill(pl.Callback):
    """Sets heads to zero, and prefers one code, after two epochs."""

    def __init__(self, names=("y", "z")):
        self.names = names

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            with torch.no_grad():
                for name in self.names:
                    for p in pl_module.latents[name].head.parameters():
                        p.zero_()
                if "y" in self.names:
                    pl_module.latents["y"].head.bias[0] = 30.0
                for group in trainer.optimizers[0].param_groups:
                    group["lr"] = 0.0


def test_warns_once_of_a_collapse():
    torch.manual_seed(0)
    model, monitor = MODELS["mixed"](NegativeBinomial()), PosteriorCollapseMonitor(every_n_validations=1)
    with torch.no_grad():
        for name in ("y", "z"):
            model.latents[name].head.weight.mul_(30)  # active from the start
    with pytest.warns(UserWarning, match="collapsed by epoch") as caught:
        fit(model, 6, [monitor, Kill()])
    messages = [str(w.message) for w in caught if " collapsed by epoch" in str(w.message)]
    assert len(messages) == 1
    pattern = r"codes [\d, ]+ of y, dimensions [\d, ]+ of z collapsed by epoch 2; active: 0 of 16 in y, 0 of 10 in z\."
    assert re.match(pattern, messages[0])
    assert monitor.alive == {"y": [], "z": []}  # code 0 is constant: it carries no information


def test_warnings_wait_for_the_warm_up():
    """Dimensions that collapse while the KL weight rises are named once, at the end of the warm-up."""

    class Blink(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            with torch.no_grad():
                pl_module.latents["z"].head.weight.mul_(30 if trainer.current_epoch % 2 else 1 / 3000)

    torch.manual_seed(0)
    model = MODELS["gaussian"](NegativeBinomial(), objective=ELBO(warmup=1))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*collapsed by epoch.*")
        fit(model, 7, [PosteriorCollapseMonitor(every_n_validations=2), Blink()])  # after 2, 4, 6 of 7 steps
    model = MODELS["gaussian"](NegativeBinomial(), objective=ELBO(warmup=0.5))
    with torch.no_grad():
        model.latents["z"].head.weight.mul_(30)
    with pytest.warns(UserWarning, match="collapsed by epoch") as caught:
        fit(model, 6, [PosteriorCollapseMonitor(every_n_validations=1), Kill(("z",))])
    messages = [str(w.message) for w in caught if "collapsed by epoch" in str(w.message)]
    assert len(messages) == 1
    assert "collapsed by epoch 2" in messages[0]  # of 0..5: the warm-up ends after 3 of 6 steps


def test_never_active_codes_are_named_at_the_end():
    torch.manual_seed(0)
    model, monitor = MODELS["mixed"](NegativeBinomial()), PosteriorCollapseMonitor(every_n_validations=1)
    with torch.no_grad():
        model.latents["y"].head.weight.mul_(30)
        model.latents["y"].head.weight[2] = 0
        model.latents["y"].head.bias[2] = -60.0
    with pytest.warns(UserWarning, match="Never active") as caught:
        fit(model, 2, [monitor])
    lines = [str(w.message) for w in caught if "Never active" in str(w.message)]
    assert len(lines) == 1
    unused = monitor.never["y"]
    assert f"Never active: codes {', '.join(map(str, unused[:12]))}" in lines[0]
    assert set(unused).isdisjoint(monitor.alive["y"])
    assert 2 in monitor.state_dict()["never"]["y"]


@pytest.mark.parametrize(
    ("latent", "indices", "name"),
    [
        (Gaussian(4), [3], "dimension 3 of x"),
        (Gaussian(4), [1, 3], "dimensions 1, 3 of x"),
        (Categorical(4), [3], "code 3 of x"),
        (Categorical(4, variables=3), [9], "code 2:1 of x"),
        (Categorical(20), range(20), "codes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more of x"),
        (Bernoulli(4), [3], "bit 3 of x"),
    ],
)
def test_names(latent, indices, name):
    assert describe(latent, "x", indices) == name


def test_constant_bits_are_not_active():
    model = MixedVAE(FEATURES, NegativeBinomial(), latents={"b": Bernoulli(3), "l": LibrarySize()}, hidden=[8])
    with torch.no_grad():
        model.latents["b"].head.weight.mul_(1000)
        for row, bias in ((0, 60.0), (1, -60.0)):
            model.latents["b"].head.weight[row] = 0
            model.latents["b"].head.bias[row] = bias
    monitor = PosteriorCollapseMonitor(every_n_validations=1)
    metrics = fit(model, 1, [monitor]).callback_metrics
    assert metrics["active/b"] == 1
    assert monitor.alive == {"b": [2]}
    assert latent_usage(model, posterior_summaries(model, [counts()])).used_codes("b") == 2  # its two states


def test_a_resumed_run_restores_the_state():
    monitor, again = PosteriorCollapseMonitor(every_n_validations=2), PosteriorCollapseMonitor(every_n_validations=2)
    fit(MODELS["mixed"](NegativeBinomial()), 3, [monitor])
    again.load_state_dict(monitor.state_dict())
    assert again.state_dict() == monitor.state_dict()
    assert monitor.state_dict()["validations"] == 3


def test_a_constant_model_does_not_collapse():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*collapsed by epoch.*")
        fit(MODELS["gaussian"](NegativeBinomial()), 4, [PosteriorCollapseMonitor(every_n_validations=1)])


def test_invalid_interval():
    with pytest.raises(ConfigError, match="every_n_validations=0 must"):
        PosteriorCollapseMonitor(every_n_validations=0)
