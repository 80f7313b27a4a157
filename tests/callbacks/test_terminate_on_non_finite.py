"""A run with a non-finite loss stops, names the step, and keeps its last valid checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from models.tiny import MODELS, adata, trainer

from vaekit.callbacks import GradientClippingMonitor, RunCheckpoint, TerminateOnNonFinite
from vaekit.callbacks.terminate_on_non_finite import Step, describe
from vaekit.data import GeneExpressionData
from vaekit.exceptions import TrainingError
from vaekit.likelihoods import NegativeBinomial


class Poison(pl.Callback):
    """Sets values of a batch, a gradient or a weight in one step."""

    def __init__(self, step: int, kind: str, value: float = float("nan")) -> None:
        self.step, self.kind, self.value = step, kind, value
        self.indices: list[int] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            self.indices = batch.index.tolist()
            if self.kind in ("x", "size_factor"):
                getattr(batch, self.kind)[[2, 5]] = self.value

    def on_after_backward(self, trainer, pl_module) -> None:
        if trainer.global_step == self.step and self.kind == "gradient":
            next(p for p in pl_module.parameters() if p.grad is not None).grad[0] = self.value

    def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step == self.step and self.kind == "weights":
            with torch.no_grad():
                next(pl_module.parameters())[0] = self.value


def fit(directory: Path, *callbacks: pl.Callback, **kwargs) -> pl.Trainer:
    cells = GeneExpressionData(adata(), batch_size=16)  # three steps per epoch
    model = MODELS["mixed"](NegativeBinomial(), features=cells.features, learning_rate=0.01)
    run_trainer = trainer(directory, callbacks=list(callbacks), **{"max_epochs": 4, **kwargs})
    run_trainer.fit(model, datamodule=cells)
    return run_trainer


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, 4, 8])
def test_the_error_names_term_observations_and_step(tmp_path, step, value):
    poison = Poison(step, "size_factor", value)
    with pytest.raises(TrainingError) as caught:
        fit(tmp_path, poison, TerminateOnNonFinite(), RunCheckpoint(every_n_steps=1))
    message = str(caught.value)
    assert f"in step {step + 1} (epoch {step // 3})" in message
    assert (
        f"the term 'reconstruction' is not finite for observations {poison.indices[2]}, {poison.indices[5]}." in message
    )
    assert f"The batch has observations {', '.join(map(str, poison.indices))}" in message
    assert "kl_" not in message
    if step:
        good = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert good["global_step"] == step
        assert all(weights.isfinite().all() for weights in good["state_dict"].values())
    else:
        assert not list(tmp_path.iterdir())


def test_the_error_names_every_term(tmp_path):
    with pytest.raises(TrainingError, match=r"'reconstruction' is not finite.*'kl_y' is not.*'kl_z' is not"):
        fit(tmp_path, Poison(1, "x"), TerminateOnNonFinite())


@pytest.mark.parametrize("clip", [None, 100.0])
@pytest.mark.parametrize("kind", ["gradient", "weights"])
def test_checkpoints_are_finite(tmp_path, kind, clip):
    with pytest.raises(TrainingError, match=r"norm of the gradient is nan in step 6 .*batch has observations|"
                                            r"not finite after step 6|the loss is nan in step [67] "):  # fmt: skip
        fit(tmp_path, Poison(5, kind), TerminateOnNonFinite(), RunCheckpoint(every_n_steps=1), gradient_clip_val=clip)
    good = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert good["global_step"] == 5
    assert all(weights.isfinite().all() for weights in good["state_dict"].values())


def test_steps_on_a_device_are_checked_together():
    """The error names the first failing step."""
    callback, values = TerminateOnNonFinite(), [1.0, 2.0, float("inf"), float("nan")]
    callback._steps = [Step(i, 0, torch.tensor([i, 9]), torch.tensor(v), {"kl_z": torch.tensor([0.0, v])})
                      for i, v in enumerate(values)]  # fmt: skip
    with pytest.raises(
        TrainingError, match=r"loss is inf in step 3 \(epoch 0\): the term 'kl_z' is not finite for observation 9"
    ):
        callback.check()
    callback.check()  # the steps were removed
    callback._steps = [Step(i, 0, None, torch.tensor(1.0), {}) for i in range(3)]
    callback.check()


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({}, "but the loss of the objective is not"),
        ({"a": torch.tensor([[0.0, 1.0], [float("nan"), 1.0]])}, "'a' is not finite for observation 30"),
        ({"a": torch.tensor(float("nan"))}, "'a' is not finite. The batch"),
        ({"a": torch.tensor([float("nan")])}, "'a' is not finite. The batch"),
        (
            {"a": torch.full((2,), float("nan"))},
            "'a' is not finite for all observations of the batch. The batch has observations 30, 40",
        ),
        (
            {name: torch.tensor([0.0, value]) for name, value in (("a", float("nan")), ("b", float("inf")))},
            "'a' is not finite for observation 40; the term 'b' is not finite for the same. The batch",
        ),
    ],
)
def test_terms_of_every_shape(terms, words):
    assert words in describe(Step(0, 0, torch.tensor([30, 40]), torch.tensor(float("nan")), terms))


@pytest.mark.parametrize(("limit", "low", "high"), [(1e6, 0.0, 0.0), (1e-6, 1.0, 1.0), (None, None, None)])
def test_the_fraction_of_clipped_steps(tmp_path, limit, low, high):
    finished = fit(tmp_path, GradientClippingMonitor(), gradient_clip_val=limit)
    fraction = finished.callback_metrics.get("train/clip_fraction")
    assert (fraction is None) == (limit is None)
    assert fraction is None or low <= fraction.item() <= high


def test_the_fraction_agrees_with_the_norms(tmp_path):
    class Norms(pl.Callback):
        values: list[float] = []  # noqa: RUF012

        def on_train_epoch_start(self, *args) -> None:
            self.values.clear()

        def on_train_batch_end(self, trainer, pl_module, *args) -> None:
            self.values.append(pl_module.gradient_norm.item())

    norms = Norms()
    fit(tmp_path, norms, gradient_clip_val=1.0, max_epochs=1)
    limit = sorted(norms.values)[1]  # of three
    torch.manual_seed(0)
    finished = fit(tmp_path, GradientClippingMonitor(), norms, gradient_clip_val=limit, max_epochs=2)
    expected = sum(value > limit for value in norms.values) / len(norms.values)
    assert finished.callback_metrics["train/clip_fraction"].item() == pytest.approx(expected)
