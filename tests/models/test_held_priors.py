"""The start of a mixture prior during training: held before, k-means at its step, learned after it."""

from __future__ import annotations

import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import vaekit
from vaekit.callbacks import RunCheckpoint
from vaekit.data import GeneExpressionData
from vaekit.exceptions import ConfigError
from vaekit.latents import Gaussian, MixtureComponent
from vaekit.latents.kmeans_mixture import kmeans_mixture
from vaekit.likelihoods import NegativeBinomial
from vaekit.models.held_priors import HeldPriors, _fit

from .test_checkpoint import data, model_for, same, state
from .tiny import MODELS, adata, counts, fit, trainer


class Watch(pl.Callback):
    """Notes weights, components and KL divergences after each step."""

    def __init__(self) -> None:
        self.parameters, self.kl = [], []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        components = [pl_module.latents["y"].prior_logits, pl_module.latents["z"].components.weight]
        self.parameters.append(torch.cat([each.detach().flatten().clone() for each in components]))
        self.kl.append(pl_module.step_terms["kl_y"].abs().max().item())


def test_held_then_started_then_learned():
    model, watch = MODELS["mixed_component"](NegativeBinomial(), learning_rate=0.02), Watch()
    fit(model, counts(), 10, callbacks=[watch])  # starts before step 4
    assert all(each.equal(watch.parameters[0]) for each in watch.parameters[:4])
    assert max(watch.kl[:4]) < 1e-6
    assert all(not a.equal(b) for a, b in zip(watch.parameters[3:], watch.parameters[4:], strict=False))
    assert min(watch.kl[4:]) > 1e-4
    assert model.latents["y"].started
    assert not model.held_priors


def test_prior_is_standard_normal_at_first():
    model = MODELS["mixed_component"](NegativeBinomial())
    model.latents["y"].hold_prior()
    prior = model.networks.prior("z", {"y": torch.eye(3)[:, None]}, torch.zeros(()))
    torch.testing.assert_close(prior.mean, torch.zeros(3, 2))
    torch.testing.assert_close(prior.stddev, torch.ones(3, 2))
    assert model.posteriors(counts())["y"].mean.allclose(torch.full((12, 1, 3), 1 / 3))


def test_components_are_clusters_of_the_training_cells(monkeypatch):
    """In evaluation mode, of the training cells only, and without a change of the RNG state or the modes."""
    pl.seed_everything(5, verbose=False)
    cells = data()
    model = model_for("mixed_component", cells)
    start, compared = HeldPriors.start_due, []

    def start_due(self, model, trainer):
        if trainer.global_step != 4:
            return start(self, model, trainer)
        model.eval()
        with torch.no_grad():
            q = model.posteriors(cells.dataset.__getitems__(cells.split_indices["train"]))["z"]
        model.train()
        wanted = kmeans_mixture(q.mean.double().numpy(), q.variance.double().numpy(), 3, seed=5)
        rng, y = torch.get_rng_state(), model.latents["y"]
        start(self, model, trainer)
        assert torch.get_rng_state().equal(rng)
        assert all(module.training for module in model.modules())
        prior = model.networks.prior("z", {"y": torch.eye(3)[:, None]}, q.mean)
        compared.extend(zip((y.prior_logits[0].clone(), prior.mean, prior.stddev), wanted, strict=True))

    monkeypatch.setattr(HeldPriors, "start_due", start_due)
    trainer(max_steps=10, limit_val_batches=0).fit(model, datamodule=cells)
    assert len(compared) == 3
    for found, wanted in compared:
        torch.testing.assert_close(found.detach(), torch.from_numpy(wanted).float(), rtol=1e-4, atol=1e-5)


def test_a_random_part_of_many_cells(monkeypatch):
    monkeypatch.setattr("vaekit.models.held_priors.MAX_OBSERVATIONS", 20)
    cells = data()
    model = model_for("mixed_component", cells)
    sizes = []
    original = MixtureComponent.fit_prior

    def fit_prior(self, features, seed):
        features = list(features)
        sizes.append(sum(len(h) for h in features))
        return original(self, features, seed)

    monkeypatch.setattr(MixtureComponent, "fit_prior", fit_prior)
    trainer(max_steps=4, limit_val_batches=0).fit(model, datamodule=cells)
    assert sizes == [20]


def test_streamed_data_give_the_same_start(tmp_path):
    adata().write_h5ad(tmp_path / "cells.h5ad")
    found = []
    for mode in ("in_memory", "streamed"):
        torch.manual_seed(0)
        cells = GeneExpressionData(path=str(tmp_path / "cells.h5ad"), mode=mode)
        model = MODELS["mixed_component"](NegativeBinomial(), features=cells.features)
        used = trainer(max_steps=1, limit_val_batches=0)
        used.fit(model, datamodule=cells)
        torch.manual_seed(0)
        model = MODELS["mixed_component"](NegativeBinomial(), features=cells.features)
        found.append(_fit(model.latents["y"], model, used))
    torch.testing.assert_close(*found)


def test_starts_once():
    """A trained model keeps its components when it is trained again, also after it was loaded."""
    model, watch = MODELS["mixed_component"](NegativeBinomial()), Watch()
    fit(model, counts(), 4)
    before = model.latents["z"].components.weight.detach().clone()
    model.learning_rate = 1e-9
    fit(model, counts(), 4, callbacks=[watch])
    assert not watch.parameters[0].equal(watch.parameters[1])
    torch.testing.assert_close(model.latents["z"].components.weight, before, rtol=0, atol=1e-6)


def test_without_a_start():
    watch = Watch()
    latents = {"y": MixtureComponent(3, start_fraction=0), "z": Gaussian(2, parents=["y"])}
    model = vaekit.MixedVAE(5, NegativeBinomial(), latents=latents, hidden=[8])
    fit(model, counts(), 3, callbacks=[watch])
    assert not watch.parameters[0].equal(watch.parameters[1])
    assert not model.latents["y"].started
    used = trainer(max_epochs=-1, max_steps=-1, max_time={"seconds": 1})
    used.fit(model, DataLoader([counts()] * 3, batch_size=None))


def test_unknown_number_of_steps():
    model = MODELS["mixed_component"](NegativeBinomial())
    with pytest.raises(ConfigError, match=r"'y': MixtureComponent: start_fraction=0.4 .*inf.*Set trainer.max_epochs"):
        trainer(max_epochs=-1).fit(model, DataLoader([counts()], batch_size=None))


def test_more_components_than_cells():
    cells = data()
    latents = {"y": MixtureComponent(49), "z": Gaussian(2, parents=["y"])}
    model = vaekit.MixedVAE(cells.features, NegativeBinomial(), cells.covariates, latents=latents, hidden=[8])
    with pytest.raises(ConfigError, match="categories=49 must not exceed the 48 training observations"):
        trainer(max_epochs=1).fit(model, datamodule=cells)


def test_warning_at_an_early_end():
    model = MODELS["mixed_component"](NegativeBinomial())

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args) -> None:
            trainer.should_stop = True

    with pytest.warns(UserWarning, match=r"'y': training ended at step 1, before .* at step 4\..*Resume"):
        fit(model, counts(), 10, callbacks=[Stop()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, counts(), 3)


def test_best_checkpoint_has_components(tmp_path):
    """Even if the ELBO is best before the start."""
    cells = data()
    model = model_for("mixed_component", cells)

    class Worse(pl.Callback):
        def on_validation_epoch_end(self, trainer, pl_module) -> None:
            trainer.callback_metrics["val/elbo"] = torch.tensor(-float(trainer.global_step))

    trainer(tmp_path, max_epochs=6, callbacks=[Worse(), RunCheckpoint()]).fit(model, datamodule=cells)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert best["global_step"] > 0.4 * 6 * 3
    assert vaekit.load(tmp_path / "best.ckpt").latents["y"].started
    assert same(state(vaekit.load(tmp_path / "last.ckpt")), state(model))


def test_small_clusters_are_not_narrow_and_equal_points_give_no_nan():
    import numpy as np

    mean = np.zeros((5, 2))
    mean[4] = 9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's about two distinct points
        log_weight, loc, scale = kmeans_mixture(mean, np.full((5, 2), 0.25), 3, seed=0)
    assert all(np.isfinite(each).all() for each in (log_weight, loc, scale))
    np.testing.assert_allclose(np.exp(log_weight).sum(), 1)
    np.testing.assert_allclose(scale, 0.5)
