"""Every model and every likelihood through Lightning's trainer: gradients, falling loss, logged names."""

from __future__ import annotations

import itertools

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE
from vaekit.models.objectives import ELBO
from vaekit.models.parameter_groups import gradient_norm

from .tiny import LIKELIHOODS, MODELS, batch_for, counts, fit, sharpen, trainer


class Watch(pl.Callback):
    """Notes which parameters got a gradient, and each loss."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.losses: list[float] = []

    def on_after_backward(self, trainer, pl_module) -> None:
        for name, parameter in pl_module.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all(), name
            if (parameter.grad != 0).any():
                self.seen.add(name)

    def on_train_batch_end(self, trainer, pl_module, outputs, *args) -> None:
        self.losses.append(outputs["loss"].item())


PRESETS = ("gaussian", "discrete_leave_one_out", "mixed", "sequential_auto")
# Each model with one likelihood, and each likelihood with a model of each preset: the pair itself does not matter.
PAIRS = dict.fromkeys(
    [*zip(MODELS, itertools.cycle(LIKELIHOODS), strict=False), *itertools.product(PRESETS, LIKELIHOODS)]
)


@pytest.mark.parametrize(("name", "likelihood"), PAIRS, ids=lambda value: getattr(value, "__name__", value))
def test_trains(name, likelihood):
    model, batch, watch = MODELS[name](likelihood(), learning_rate=0.02), batch_for(likelihood, 16), Watch()
    used = fit(model, batch, 25, callbacks=[watch])
    assert watch.seen == {name for name, _ in model.named_parameters()}
    losses = torch.tensor(watch.losses)
    assert losses.isfinite().all()
    assert losses[-6:].mean() < losses[:6].mean()
    latents = {f"kl_{latent}" for latent in model.latents}
    for stage in ("train", "val"):
        assert {f"{stage}/{n}" for n in {"elbo", "reconstruction", *latents}} <= set(used.callback_metrics)
    assert {"train/loss", "train/kl_weight"} <= set(used.callback_metrics)
    assert all(value.isfinite() for value in used.callback_metrics.values())


@pytest.mark.parametrize("name", MODELS)
def test_covariates_condition_encoder_and_decoder(name):
    batch = counts()._replace(covariates=torch.eye(2)[torch.arange(12) % 2])
    model, watch = MODELS[name](NegativeBinomial(), covariates=2, encoder_covariates=True), Watch()
    fit(model, batch, 3, callbacks=[watch])
    assert watch.seen == {name for name, _ in model.named_parameters()}
    model.eval()
    other = batch._replace(covariates=batch.covariates.flip(1))
    values = {latent: q.sample() for latent, q in model.posteriors(batch).items()}
    means = [model.networks.observation(values, b).mean for b in (batch, other)]
    assert not means[0].allclose(means[1])
    assert not model.networks.encode(batch).allclose(model.networks.encode(other))


@pytest.mark.parametrize("name", MODELS)
def test_elbo_is_the_sum_of_its_terms(name):
    metrics = fit(MODELS[name](NegativeBinomial()), counts(), 2).callback_metrics
    for stage in ("train", "val"):
        terms = [
            v for n, v in metrics.items() if n.startswith(f"{stage}/") and n.split("/")[1].startswith(("kl_", "rec"))
        ]
        terms = [v for v in terms if v is not metrics.get("train/kl_weight")]
        assert -sum(terms) == pytest.approx(metrics[f"{stage}/elbo"].item(), rel=1e-5)


def logged(model: VAE, steps: int = 1) -> dict[str, float]:
    return {name: value.item() for name, value in fit(model, counts(), steps).callback_metrics.items()}


@pytest.mark.parametrize("name", ["gaussian", "mixed_child_first", "discrete_enumerate"])
def test_logged_bound_has_no_weight_and_no_free_bits(name):
    objective = ELBO(beta=7.0, free_bits=3.0)
    model = sharpen(MODELS[name](NegativeBinomial(), dropout=0.0, objective=objective, learning_rate=1e-12))
    plain = sharpen(MODELS[name](NegativeBinomial(), dropout=0.0, learning_rate=1e-12))
    plain.load_state_dict(model.state_dict())
    torch.manual_seed(5)
    weighted = logged(model)
    torch.manual_seed(5)
    true = logged(plain)
    for metric in ("train/elbo", "val/elbo", "train/reconstruction"):
        assert weighted[metric] == pytest.approx(true[metric], rel=1e-5)
    assert true["train/loss"] == pytest.approx(-true["train/elbo"], rel=1e-5)
    kl = [value for metric, value in true.items() if metric.startswith("train/kl_") and metric != "train/kl_weight"]
    assert weighted["train/loss"] >= true["train/reconstruction"] + 7 * sum(kl) - 1e-3
    assert weighted["train/kl_weight"] == 7


def test_warm_up_rises_by_step_and_stays():
    weights = []

    class Weights(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            weights.append(trainer.callback_metrics["train/kl_weight"].item())

    model = MODELS["gaussian"](NegativeBinomial(), objective=ELBO(beta=2.0, warmup=0.5))
    data = DataLoader([counts()], batch_size=None)
    trainer(max_epochs=8, callbacks=[Weights()]).fit(model, data)  # an epoch is a step
    assert weights == pytest.approx([0, 0.5, 1, 1.5, 2, 2, 2, 2])


def test_loss_of_the_first_step_is_the_bound_that_bound_returns():
    model = sharpen(MODELS["discrete_enumerate"](NegativeBinomial(), learning_rate=1e-12))
    exact = model.loss(counts()).total.mean().item()
    assert logged(model)["train/loss"] == pytest.approx(exact, rel=1e-5)


def test_clipping_leaves_the_baseline_its_own_norm():
    model = sharpen(MODELS["discrete_learned"](NegativeBinomial()), 5.0)
    norms = {}

    class Norms(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            pl_module.configure_gradient_clipping(optimizer, 0.5, "norm")
            baseline = list(pl_module.estimators["y"].parameters())
            own = [p for p in pl_module.parameters() if all(p is not b for b in baseline)]
            for key, group in (("own", own), ("baseline", baseline)):
                norms[key] = torch.stack([p.grad.norm() for p in group]).norm().item()

    trainer(max_epochs=1, callbacks=[Norms()]).fit(model, DataLoader([counts()], batch_size=None))
    assert norms == {"own": pytest.approx(0.5, rel=1e-3), "baseline": pytest.approx(0.5, rel=1e-3)}


def test_norm_of_gradients_of_any_shape_and_size():
    found = [torch.randn(3, 4).T, torch.randn(7), torch.randn(()), torch.randn(2, 3, 4)[:, 1]]
    exact = torch.cat([g.double().flatten() for g in found]).norm()
    assert gradient_norm(found).item() == pytest.approx(exact.item(), rel=1e-6)
    assert gradient_norm([1e12 * g for g in found]).item() == pytest.approx(1e12 * exact.item(), rel=1e-6)
    assert gradient_norm([]).item() == 0
    assert gradient_norm([*found, torch.tensor([torch.nan])]).isnan()
    assert gradient_norm([g.double() for g in found]).item() == pytest.approx(exact.item(), rel=1e-12)


def test_weight_decay_is_for_matrices_only():
    model = MODELS["discrete_learned"](NegativeBinomial(), weight_decay=0.3)
    optimizer = fit(model, counts(), 1).optimizers[0]
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0.3 for p in group["params"]}
    every = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in model.parameters())
    baseline = {id(p) for p in model.estimators["y"].parameters()}
    assert decayed == {id(p) for p in model.parameters() if p.dim() > 1} - baseline
