"""SVRG and SAGA in Lightning: gradients before the optimizer step, resumed runs, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from models.tiny import MODELS, adata, counts, trainer
from torch.utils.data import DataLoader

from vaekit.callbacks import CUDAGraphs, RunCheckpoint, SAGATraining, SVRGTraining
from vaekit.data import GeneExpressionData
from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.likelihoods import NegativeBinomial
from vaekit.optim import SAGA, SVRG

MAKERS = {"svrg": lambda **kwargs: SVRGTraining(0.01, 0.9, **kwargs), "saga": lambda: SAGATraining(0.01, 0.9)}
NOISELESS = "discrete_enumerate"


class Spy(pl.Callback):
    """Stores the gradients of each optimizer step, and the optimizer."""

    def __init__(self) -> None:
        self.gradients: list[list[torch.Tensor]] = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
        self.optimizer = optimizer

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.gradients.append([p.grad.clone() for p in pl_module.parameters() if p.grad is not None])


def cells() -> GeneExpressionData:
    return GeneExpressionData(adata(), batch_size=16)


def run(
    name: str, callbacks: list, epochs: int, data: GeneExpressionData | None = None, **kwargs
) -> pl.LightningModule:
    pl.seed_everything(0, verbose=False)
    data = data or cells()
    model = MODELS[name](NegativeBinomial(), features=data.features, **kwargs.pop("model", {}))
    trainer(kwargs.pop("folder", None), max_epochs=epochs, callbacks=callbacks, **kwargs).fit(
        model, datamodule=data, ckpt_path=kwargs.pop("ckpt_path", None)
    )
    return model


def same(first: pl.LightningModule, second: pl.LightningModule) -> bool:
    return all(a.equal(b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["gaussian", "mixed_relaxed", "discrete_moving_average", "discrete_learned"])
def test_the_gradient_at_the_snapshot_is_the_full_gradient(name):
    """Samples of the latents, dropout masks, baselines and temperatures are common."""
    spy = Spy()
    run(name, [SVRGTraining(1e-30), spy], 2, model={"dropout": 0.3})  # the parameters do not change
    assert isinstance(spy.optimizer, SVRG)
    by_epoch = [spy.gradients[:3], spy.gradients[3:]]
    for steps in by_epoch:
        assert len(steps) == 3
        for gradients in steps[1:]:
            for first, later in zip(steps[0], gradients, strict=True):
                # weights of 0 change by 1e-30
                assert torch.allclose(first, later, rtol=1e-5, atol=1e-6 * first.abs().max().item() + 1e-20)
    assert not by_epoch[0][0][0].allclose(by_epoch[1][0][0])  # each snapshot has other random numbers


def test_the_full_gradient_is_over_all_observations():
    spy = Spy()
    model = run(NOISELESS, [SVRGTraining(1e-30), spy], 1)
    data = cells()
    rows = data.dataloader("train", batch_size=1000)
    model.train()
    model.zero_grad()
    model.loss(next(iter(rows)), training=True).total.mean().backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    for mine, exact in zip(spy.gradients[0], expected, strict=True):
        assert torch.allclose(mine, exact, rtol=1e-4, atol=1e-5 * exact.abs().max().item())


def test_saga_has_the_full_gradient_after_all_mini_batches():
    """The parameters do not change; the mini-batches have 20, 20 and 8 observations as weights."""
    spy = Spy()
    data = GeneExpressionData(adata(), batch_size=20)
    model = run(NOISELESS, [SAGATraining(1e-30), spy], 3, data)
    assert isinstance(spy.optimizer, SAGA)
    assert spy.optimizer.memory == (3 + 1) * 4 * sum(p.numel() for p in spy.optimizer.parameters())
    model.train()
    model.zero_grad()
    model.loss(next(iter(data.dataloader("train", batch_size=1000))), training=True).total.mean().backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    for gradients in spy.gradients[3:]:
        for mine, exact in zip(gradients, expected, strict=True):
            assert torch.allclose(mine, exact, rtol=1e-3, atol=1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("kind", MAKERS)
def test_it_trains(kind):
    name = NOISELESS if kind == "saga" else "gaussian"
    bounds = []
    for epochs in (1, 40):
        callback = MAKERS[kind]()
        torch.manual_seed(0)
        data = cells()
        model = run(name, [callback], epochs, data, gradient_clip_val=10.0)
        with torch.no_grad():
            model.eval()
            bounds.append(model.loss(next(iter(data.dataloader("train", 1000)))).total.mean().item())
    assert bounds[1] < bounds[0] - 0.5


@pytest.mark.parametrize(("kind", "every"), [("svrg", 1), ("svrg", 2), ("saga", 0)])
def test_a_resumed_run_is_bit_exact(kind, every, tmp_path):
    def make_callbacks() -> list:
        return [
            SVRGTraining(0.01, 0.9, 0.01, every_n_epochs=every) if kind == "svrg" else SAGATraining(0.01, 0.9, 0.01)
        ]

    name = "gaussian" if kind == "svrg" else NOISELESS
    whole = run(name, make_callbacks(), 5)
    run(name, [*make_callbacks(), RunCheckpoint(str(tmp_path))], 3)
    data = cells()
    pl.seed_everything(5, verbose=False)
    resumed = MODELS[name](NegativeBinomial(), features=data.features)
    trainer(max_epochs=5, callbacks=make_callbacks()).fit(
        resumed, datamodule=data, ckpt_path=Path(tmp_path) / "last.ckpt"
    )
    assert same(whole, resumed)


def test_the_rng_state_is_that_of_plain_sgd():
    """An epoch of SVRG advances the RNG state as any other epoch."""
    states = []
    for callbacks in ([], [SVRGTraining(1e-30, num_passes=2)]):
        run("gaussian", callbacks, 2)
        states.append(torch.get_rng_state())
    assert states[0].equal(states[1])


def test_weight_decay_applies_to_the_groups_that_the_model_decays():
    spy = Spy()
    model = run("gaussian", [SVRGTraining(0.01, weight_decay=0.5), spy], 1)
    decays = [group["weight_decay"] for group in spy.optimizer.param_groups]
    assert decays == [0.5, 0.0]
    decayed = {id(p) for p in spy.optimizer.param_groups[0]["params"]}
    assert decayed == {id(p) for p in model.networks.weight_matrices()}


def test_saga_rejects_a_random_loss_at_the_first_step():
    with pytest.raises(EstimatorError, match="drew random numbers"):
        run("gaussian", [SAGATraining(0.01)], 1)


def test_random_numbers_of_another_callback_are_detected():
    class Draws(pl.Callback):
        def on_train_batch_start(self, *args) -> None:
            torch.rand(3)

    run("gaussian", [Draws(), SVRGTraining(0.01)], 1)  # earlier callbacks may use random numbers
    with pytest.raises(EstimatorError, match="do not come from torch"):
        run("gaussian", [SVRGTraining(0.01), Draws()], 1)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2 is not"),
        ({"precision": "bf16-mixed"}, "precision='bf16-mixed' is not"),
        ({"devices": 2, "strategy": "ddp_notebook"}, "devices=2 is not supported"),
    ],
)
def test_invalid_trainers(kind, options, message):
    callback = MAKERS[kind]()
    with pytest.raises(ConfigError, match=message):
        callback.setup(trainer(max_epochs=1, callbacks=[callback], **options), None, "fit")


def test_a_loader_without_a_batch_sampler():
    model, loader = MODELS[NOISELESS](NegativeBinomial()), DataLoader([counts()] * 3, batch_size=None)
    with pytest.raises(ConfigError, match="cannot be fixed"):
        trainer(max_epochs=1, callbacks=[SAGATraining(0.01)]).fit(model, loader)


def test_a_table_over_max_bytes():
    with pytest.raises(ConfigError, match=r"over max_bytes=1\.0 kB"):
        run(NOISELESS, [SAGATraining(0.01, max_bytes=1000)], 1)


@pytest.mark.parametrize(("every", "draws"), [(0, 1), (1, 0)])
def test_errors(every, draws):
    with pytest.raises(ConfigError, match=r"SVRGTraining: .*=0 must be at least 1"):
        SVRGTraining(0.1, every_n_epochs=every, num_passes=draws)


def test_cuda_graphs_reject_the_optimizer():
    with pytest.raises(ConfigError, match=r"CUDAGraphs: the optimizer is \w+, .*AdamW only"):
        run("gaussian", [SAGATraining(0.01, 0.9), CUDAGraphs()], 1)
