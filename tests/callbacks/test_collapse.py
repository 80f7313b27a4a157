"""Units and codes in use during training: known ones, dying ones, a real run, a resumed one."""

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
    """Train on one batch, and validate on it, an epoch a step."""
    used = trainer(max_epochs=epochs, callbacks=callbacks)
    used.fit(model, *(DataLoader([counts()], batch_size=None) for _ in range(2)))
    return used


def test_counts_what_the_evaluation_counts():
    model = MODELS["mixed"](NegativeBinomial())
    metrics = fit(model, 3, [PosteriorCollapseMonitor(every_n_validations=1)]).callback_metrics
    use = latent_usage(model, posterior_summaries(model, [counts()]))
    assert metrics["active/z"].item() == use.active_units
    assert metrics["active/y"].item() == use.used_codes("y")


class Kill(pl.Callback):
    """Sets heads to zero, biases to a preference for one code, after some epochs."""

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


def test_warns_once_of_what_dies():
    torch.manual_seed(0)
    model, watch = MODELS["mixed"](NegativeBinomial()), PosteriorCollapseMonitor(every_n_validations=1)
    with torch.no_grad():
        for name in ("y", "z"):
            model.latents[name].head.weight.mul_(30)  # in use from the start
    with pytest.warns(UserWarning, match="died by epoch") as caught:
        fit(model, 6, [watch, Kill()])
    died = [str(w.message) for w in caught if " died by epoch" in str(w.message)]
    assert len(died) == 1
    pattern = r"codes [\d, ]+ of y, dimensions [\d, ]+ of z died by epoch 2; in use: y 0 of 16, z 0 of 10\."
    assert re.match(pattern, died[0])
    assert watch.alive == {"y": [], "z": []}  # code 0 is taken always, and carries nothing


def test_the_warm_up_is_waited_for():
    """What comes and goes while the KL weight rises is said once, when it has risen."""

    class Blink(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            with torch.no_grad():
                pl_module.latents["z"].head.weight.mul_(30 if trainer.current_epoch % 2 else 1 / 3000)

    torch.manual_seed(0)
    model = MODELS["gaussian"](NegativeBinomial(), objective=ELBO(warmup=1))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*died by epoch.*")
        fit(model, 7, [PosteriorCollapseMonitor(every_n_validations=2), Blink()])  # after 2, 4, 6 of 7 steps
    model = MODELS["gaussian"](NegativeBinomial(), objective=ELBO(warmup=0.5))
    with torch.no_grad():
        model.latents["z"].head.weight.mul_(30)
    with pytest.warns(UserWarning, match="died by epoch") as caught:
        fit(model, 6, [PosteriorCollapseMonitor(every_n_validations=1), Kill(("z",))])
    died = [str(w.message) for w in caught if "died by epoch" in str(w.message)]
    assert len(died) == 1
    assert "died by epoch 2" in died[0]  # of 0..5: steps 3 of 6 end the warm-up


def test_what_never_lived_is_named_at_the_end():
    torch.manual_seed(0)
    model, watch = MODELS["mixed"](NegativeBinomial()), PosteriorCollapseMonitor(every_n_validations=1)
    with torch.no_grad():
        model.latents["y"].head.weight.mul_(30)
        model.latents["y"].head.weight[2] = 0
        model.latents["y"].head.bias[2] = -60.0
    with pytest.warns(UserWarning, match="never in use") as caught:
        fit(model, 2, [watch])
    lines = [str(w.message) for w in caught if "never in use" in str(w.message)]
    assert len(lines) == 1
    unused = watch.never["y"]
    assert f"never in use: codes {', '.join(map(str, unused[:12]))}" in lines[0]
    assert set(unused).isdisjoint(watch.alive["y"])
    assert 2 in watch.state_dict()["never"]["y"]


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


def test_bits_that_are_always_on_are_not_in_use():
    model = MixedVAE(FEATURES, NegativeBinomial(), latents={"b": Bernoulli(3), "l": LibrarySize()}, hidden=[8])
    with torch.no_grad():
        model.latents["b"].head.weight.mul_(1000)
        for row, bias in ((0, 60.0), (1, -60.0)):
            model.latents["b"].head.weight[row] = 0
            model.latents["b"].head.bias[row] = bias
    watch = PosteriorCollapseMonitor(every_n_validations=1)
    metrics = fit(model, 1, [watch]).callback_metrics
    assert metrics["active/b"] == 1
    assert watch.alive == {"b": [2]}
    assert latent_usage(model, posterior_summaries(model, [counts()])).used_codes("b") == 2  # its two states


def test_a_resumed_run_remembers():
    watch, again = PosteriorCollapseMonitor(every_n_validations=2), PosteriorCollapseMonitor(every_n_validations=2)
    fit(MODELS["mixed"](NegativeBinomial()), 3, [watch])
    again.load_state_dict(watch.state_dict())
    assert again.state_dict() == watch.state_dict()
    assert watch.state_dict()["validations"] == 3


def test_nothing_dies_in_a_steady_model():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*died by epoch.*")
        fit(MODELS["gaussian"](NegativeBinomial()), 4, [PosteriorCollapseMonitor(every_n_validations=1)])


def test_impossible_interval():
    with pytest.raises(ConfigError, match="every_n_validations is 0"):
        PosteriorCollapseMonitor(every_n_validations=0)
