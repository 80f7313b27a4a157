"""Noise of the gradient during training: known noise, a training run, a resumed run."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from models.tiny import MODELS, counts, fit, sharpen
from torch import nn

from vaekit.callbacks import GradientNoiseMonitor
from vaekit.exceptions import ConfigError
from vaekit.likelihoods import NegativeBinomial


class Latent(nn.Module):
    """A head with 11 parameters, and an estimator with separate parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(10, 1)
        self.estimator = nn.Linear(1, 1)


def metrics_of(
    callback: GradientNoiseMonitor, mean: float, scale: float, steps: int, every: int = 1
) -> dict[str, float]:
    """Pass gradients N(mean, scale^2) to a callback, and return its metrics."""
    latent = Latent()
    module = SimpleNamespace(latents={"y": latent}, device=torch.device("cpu"))
    callback.on_train_start(None, module)
    for step in range(steps):
        for p in latent.head.parameters():
            p.grad = mean + scale * torch.randn_like(p) if step % every == 0 else torch.full_like(p, 1e6)
        for p in latent.estimator.parameters():
            p.grad = torch.full_like(p, 1e6)
        callback.on_before_optimizer_step(SimpleNamespace(global_step=step), module, None)
    return {name: value.item() for name, value in callback.metrics().items()}


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_known_noise(scale):
    metrics = metrics_of(GradientNoiseMonitor(every_n_steps=1, decay=0.999), 1.0, scale, 4000)
    assert set(metrics) == {"gradient/y/variance", "gradient/y/snr"}
    assert metrics["gradient/y/variance"] == pytest.approx(11 * scale**2, rel=0.1)
    assert metrics["gradient/y/snr"] == pytest.approx(1 / scale, rel=0.1)


def test_few_steps_are_not_biased():
    variances = [
        metrics_of(GradientNoiseMonitor(every_n_steps=1, decay=0.9), 0.0, 2.0, 3)["gradient/y/variance"]
        for _ in range(300)
    ]
    error = torch.tensor(variances).std().item() / math.sqrt(300)
    assert abs(sum(variances) / 300 - 44) < 4 * error


def test_only_each_nth_step_counts():
    assert (
        metrics_of(GradientNoiseMonitor(every_n_steps=7, decay=0.99), 1.0, 0.5, 700, every=7)["gradient/y/variance"]
        < 10
    )


def test_logged_in_training(tmp_path):
    torch.manual_seed(0)
    model = sharpen(MODELS["mixed"](NegativeBinomial()))
    finished = fit(model, counts(), 12, callbacks=[GradientNoiseMonitor(every_n_steps=2)])
    for name in ("y", "z"):
        variance, ratio = (finished.callback_metrics[f"gradient/{name}/{what}"].item() for what in ("variance", "snr"))
        assert variance > 0
        assert ratio >= 0
        assert math.isfinite(ratio)


def test_one_gradient_does_not_have_a_variance():
    assert not any(name.startswith("gradient") for name in fit(
        MODELS["gaussian"](NegativeBinomial()), counts(), 2, callbacks=[GradientNoiseMonitor(every_n_steps=10)]
    ).callback_metrics)  # fmt: skip


def test_it_does_not_change_the_training():
    models = []
    for callbacks in ([], [GradientNoiseMonitor(every_n_steps=1)]):
        pl.seed_everything(0)
        models.append(MODELS["mixed_sampled"](NegativeBinomial()))
        fit(models[-1], counts(), 5, callbacks=callbacks)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert one.equal(other)


def test_a_resumed_run_continues():
    torch.manual_seed(3)
    first = GradientNoiseMonitor(every_n_steps=1)
    metrics_of(first, 1.0, 0.5, 20)
    second = GradientNoiseMonitor(every_n_steps=1)
    second.load_state_dict(first.state_dict())
    assert second.metrics() == first.metrics()
    assert torch.equal(second.state_dict()["means"]["y"], first.state_dict()["means"]["y"])


@pytest.mark.parametrize("arguments", [{"every_n_steps": 0}, {"decay": 1.0}, {"decay": 0.0}])
def test_errors(arguments):
    with pytest.raises(ConfigError, match="GradientNoiseMonitor"):
        GradientNoiseMonitor(**arguments)
