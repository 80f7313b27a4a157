"""The objective's weights and floors, and the ELBO that is logged with it."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from models.tiny import MODELS, counts, fit, repeated, sharpen, trainer
from vaekit import MixedVAE
from vaekit.exceptions import ConfigError
from vaekit.latents import Bernoulli, Categorical, Gaussian
from vaekit.likelihoods import NegativeBinomial
from vaekit.models.objectives import ELBO

REPLICATES = 20_000


def test_weight_without_warm_up_is_beta():
    assert [ELBO(beta=3.0).kl_weight(step, 10) for step in (0, 5, 100)] == [3, 3, 3]


def test_weight_rises_linearly_and_stays():
    objective = ELBO(beta=4.0, warmup=0.5)
    assert [objective.kl_weight(step, 8) for step in (0, 1, 2, 4, 8, 99)] == [0, 1, 2, 4, 4, 4]


def test_penalty_without_free_bits_is_the_divergence():
    kl = torch.tensor([1.0, 3.0], requires_grad=True)
    assert ELBO().apply_free_bits(kl, torch.full_like(kl, 1 / len(kl))) is kl


@pytest.mark.parametrize(("floor", "value", "gradient"), [(1.9, 2.0, 0.5), (2.1, 2.1, 0.0)])
def test_penalty_compares_the_mean_over_the_batch(floor, value, gradient):
    kl = torch.tensor([0.5, 3.5], requires_grad=True)
    penalty = ELBO(free_bits=floor).apply_free_bits(kl, torch.full_like(kl, kl.shape[-1] / kl.numel())).mean()
    penalty.backward()
    assert penalty.item() == pytest.approx(value)
    assert kl.grad.tolist() == [gradient, gradient]


@pytest.mark.parametrize(
    "arguments",
    [{"beta": -1.0}, {"free_bits": -0.1}, {"warmup": 1.5}, {"warmup": -0.1}, {"warmup": math.nan}],
    ids=lambda arguments: next(iter(arguments)),
)
def test_impossible_arguments(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        ELBO(**arguments)


def test_warm_up_without_an_end_is_an_error_before_training():
    model = MODELS["gaussian"](NegativeBinomial(), objective=ELBO(warmup=0.5))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ConfigError, match=r"max_epochs or trainer\.max_steps"):
        trainer(max_epochs=-1).fit(model, DataLoader([counts()], batch_size=None))
    assert all(p.equal(q) for p, q in zip(model.parameters(), before, strict=True))


def test_no_warm_up_needs_no_end():
    model = MODELS["gaussian"](NegativeBinomial())

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            trainer.should_stop = trainer.current_epoch == 3

    used = trainer(max_epochs=-1, callbacks=[Stop()])
    used.fit(model, DataLoader([counts()], batch_size=None))
    assert used.global_step == 4
    assert used.optimizers[0].param_groups[0]["lr"] == model.learning_rate  # no schedule without an end


def exact_bound(model, row: int) -> float:
    """Return the bound of a cell, its codes summed."""
    exact = MODELS["discrete_enumerate"](NegativeBinomial())
    exact.load_state_dict(model.state_dict(), strict=False)
    return -exact.eval().loss(repeated(counts(), row, 1)).total.item()


@pytest.mark.parametrize("estimator", ["gumbel_soft", "gumbel_hard", "straight_through", "score", "self_critic"])
def test_logged_bound_is_of_discrete_codes(estimator):
    model = sharpen(MODELS[f"discrete_{estimator}"](NegativeBinomial(), learning_rate=1e-12))
    exact = exact_bound(model, 0)
    replicates = repeated(counts(), 0, REPLICATES)
    with torch.no_grad():
        error = model.loss(replicates).total.std().item() / REPLICATES**0.5
    metrics = fit(model, replicates, 1).callback_metrics
    for stage in ("train", "val"):
        assert abs(metrics[f"{stage}/elbo"].item() - exact) < 4 * error
    relaxed = abs(-metrics["train/loss"].item() - exact)
    assert (relaxed > 4 * error) is (estimator == "gumbel_soft")  # else the test could not fail


def test_divergence_of_a_child_of_a_summed_code_beside_bits():
    """The states of the code have a sample dimension; the bits do not."""
    latents = {"y": Categorical(3), "b": Bernoulli(2), "z": Gaussian(2, parents=["y"])}
    model = MixedVAE(5, NegativeBinomial(), latents=latents, hidden=(8,)).eval()
    batch = counts(7, 5)
    result = model.loss(batch, training=False)
    h = model.networks.encode(batch)
    share = model.networks.posterior("y", h, {}).base_dist.probs
    expected = torch.zeros(7)
    for state, y in enumerate(torch.eye(3)[:, None, None].expand(3, 7, 1, 3)):
        q, p = model.networks.posterior("z", h, {"y": y}), model.networks.prior("z", {"y": y}, batch.x)
        expected += share[:, 0, state] * torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(result.terms["kl_z"], expected)
