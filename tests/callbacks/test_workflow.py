"""``vaekit.fit``: from cells to a model that the functions of ``vaekit.analysis`` accept."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from anndata import AnnData
from filelock import FileLock, Timeout
from pytorch_lightning.callbacks import Callback
from typing_extensions import override

import vaekit
from vaekit.analysis.report.run_facts import read_run
from vaekit.callbacks.recipes import MAX_PANEL_GENES, NUM_GENES, RECIPES, default_num_steps, fit_config
from vaekit.data import simulate_counts
from vaekit.exceptions import ConfigError, DataError


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return simulate_counts(cells=200, genes=40, clusters=3, batches=2, seed=1)


def fit(cells: Any, *args: Any, **settings: Any) -> vaekit.VAE:
    return vaekit.fit(cells, *args, **{"max_steps": 10, "progress": False, "accelerator": "cpu", **settings})


def weights(model: vaekit.VAE) -> dict[str, torch.Tensor]:
    return model.state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("latents", RECIPES)
def test_each_kind_of_latents_is_ready_for_analysis(
    latents: str, cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    labels = "cluster" if latents == "labels" else None
    model = fit(cells, latents, labels=labels, batch_key="batch", label_key="cluster")
    assert not list(Path.cwd().iterdir())  # nothing is written unless requested
    assert not model.training
    assert model.data_registry["batch_categories"] == list(cells.obs["batch"].cat.categories)
    adata = cells.copy()
    assert vaekit.analysis.embed(adata, model) == []
    vaekit.save(model, tmp_path / "model.ckpt")
    again = cells.copy()
    vaekit.analysis.embed(again, tmp_path / "model.ckpt")
    np.testing.assert_array_equal(adata.obsm["X_vaekit"], again.obsm["X_vaekit"])


def test_seed_and_state_of_the_process(cells: AnnData) -> None:
    os.environ.pop("PL_GLOBAL_SEED", None)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again, other = fit(cells), fit(cells), fit(cells, seed=1)
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert "PL_GLOBAL_SEED" not in os.environ


def test_settings_of_data_model_and_trainer(cells: AnnData) -> None:
    steps = []

    class Count(Callback):
        @override
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            steps.append(trainer.global_step)

    settings: dict[str, Any] = {"likelihood": "zinb", "latent_dim": 3, "n_top_genes": 20, "batch_size": 50}
    model = fit(cells, **settings, callbacks=[Count()], max_steps=4)
    assert type(model.networks.likelihood).__name__ == "ZeroInflatedNegativeBinomial"
    assert (model.latents["z"].size, model.features, model.data_registry["config"]["init_args"]["batch_size"]) == (
        3,
        20,
        50,
    )
    assert steps == [1, 2, 3, 4]


def test_settings_of_latents(cells: AnnData) -> None:
    model = fit(cells, "mixed", latent_dim=3, categories=5)
    assert (model.latents["z"].size, model.latents["y"].size) == (3, 5)
    assert fit(cells, "topics", topics=4).latents["topics"].size == 4


def test_epochs_instead_of_steps(cells: AnnData) -> None:
    config = fit_config(cells, "mixed", {"trainer.max_epochs": 2})["trainer"]
    assert (config["max_steps"], config["check_val_every_n_epoch"], config["callbacks"]) == (-1, 1, [])


class Interrupt(Callback):
    """Sends a signal, Ctrl-C by default, after a number of steps."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def test_interrupt_returns_the_model_so_far(cells: AnnData) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.warns(
        UserWarning, match="interrupted at step 3 of 100. The model has the weights of step 2, of the best"
    ):
        model = fit(cells, max_steps=100, callbacks=[Interrupt(3)])
    assert signal.getsignal(signal.SIGINT) is handler
    adata = cells.copy()
    vaekit.analysis.embed(adata, model)
    assert np.isfinite(adata.obsm["X_vaekit"]).all()
    with pytest.warns(UserWarning, match="The model has the weights of the last step"):
        fit(cells, max_steps=500, callbacks=[Interrupt(3)])  # before the first validation


def test_an_interrupt_before_the_first_step_returns_no_model(cells: AnnData, tmp_path: Path) -> None:
    class Stop(Callback):
        @override
        def on_train_start(self, *args: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt):
        fit(cells, callbacks=[Stop()], directory=tmp_path / "run")


def test_a_termination_ends_the_process(cells: AnnData) -> None:
    """A scheduler sends SIGTERM: the script must not continue with a model that is not trained."""
    with pytest.raises(SystemExit):
        fit(cells, max_steps=100, callbacks=[Interrupt(3, signal.SIGTERM)])


class Overfit(Callback):
    """Records the validation ELBO and the weights, and makes them worse from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.elbos: list[float] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step >= self.step:
            with torch.no_grad():
                pl_module.networks.likelihood.composition.bias.add_(torch.randn(pl_module.features))

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.elbos.append(trainer.callback_metrics["val/elbo"].item())
        self.weights.append({name: value.clone() for name, value in weights(pl_module).items()})


def test_the_best_weights_are_kept_and_training_ends_early(cells: AnnData) -> None:
    overfit = Overfit(30)
    model = fit(cells, max_steps=200, callbacks=[overfit])
    best = int(np.argmax(overfit.elbos))
    assert best < 10
    assert same(weights(model), overfit.weights[best])
    assert len(overfit.elbos) == best + 16  # of 50: 15 validations without a new best one


def test_directory(cells: AnnData, tmp_path: Path) -> None:
    model = fit(cells, directory=tmp_path / "run")
    assert same(weights(model), weights(vaekit.load(tmp_path / "run" / "best.ckpt")))
    first = (tmp_path / "run" / "best.ckpt").read_bytes()
    fit(cells, directory=tmp_path / "run", seed=1)
    assert (tmp_path / "run" / "earlier" / "1" / "best.ckpt").read_bytes() == first
    assert (tmp_path / "run" / "figures" / "loss_curves.png").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"enable_checkpointing": False},
        {"enable_progress_bar": False},
        {"callbacks": vaekit.callbacks.BestWeights()},
        {"val_check_interval": 0.5},
        {"check_val_every_n_epoch": 2, "max_steps": 7},
        {"max_steps": np.int64(5), "seed": np.int64(0)},
    ],
)
def test_settings_of_the_trainer_that_fit_sets_itself(settings: dict[str, Any], cells: AnnData) -> None:
    assert fit(cells, **settings).run_content["global_step"] == settings.get("max_steps", 10)


def test_directory_by_the_name_of_the_trainer(cells: AnnData, tmp_path: Path) -> None:
    figures = vaekit.callbacks.FigureWriter(figure="none")
    model = fit(cells, default_root_dir=tmp_path / "run", callbacks=[figures])
    assert same(weights(model), weights(vaekit.load(tmp_path / "run" / "best.ckpt")))
    assert not (tmp_path / "run" / "figures").exists()


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def fit_without_figures(cells: AnnData, directory: Path, **settings: Any) -> vaekit.VAE:
    return fit(cells, directory=directory, callbacks=[vaekit.callbacks.FigureWriter(figure="none")], **settings)


def test_settings_that_fail_leave_the_earlier_run(cells: AnnData, tmp_path: Path) -> None:
    fit_without_figures(cells, tmp_path, max_steps=2)
    before = names(tmp_path)
    for settings in ({"accelerator": "foo"}, {"enable_checkpointing": False}, {"strategy": "foo"}):
        with pytest.raises(ConfigError, match="trainer"):
            fit_without_figures(cells, tmp_path, **settings)
    assert names(tmp_path) == before


def test_a_run_in_progress_keeps_its_files(
    cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_without_figures(cells, tmp_path, max_steps=2)
    before = names(tmp_path)
    directories = (tmp_path.resolve() / ".lock",)

    class Held(FileLock):
        """Lock of a directory that another process writes to."""

        @override
        def acquire(self, *args: Any, **kwargs: Any) -> Any:
            if Path(self.lock_file) in directories:
                raise Timeout(self.lock_file)
            return super().acquire(*args, **kwargs)

    monkeypatch.setattr("vaekit.callbacks.run_lock.FileLock", Held)
    fit_without_figures(cells, tmp_path, max_steps=2)
    after = names(tmp_path)
    assert "concurrent/1/last.ckpt" in after
    assert {name for name in after if not name.startswith("concurrent")} == before
    assert "is in use by another run; this run uses" in capsys.readouterr().err


def test_files_of_the_user_are_not_moved(cells: AnnData, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").touch()
    (tmp_path / "config.yaml").write_text("mine: 1")
    before = names(tmp_path)
    with pytest.raises(ConfigError, match=r"contains config\.yaml, figures, but not a run.*such as '.*run'"):
        fit_without_figures(cells, tmp_path)
    assert names(tmp_path) == before
    fit_without_figures(cells, tmp_path / "run", max_steps=2)


def test_a_run_that_ended_before_its_first_checkpoint_is_moved(cells: AnnData, tmp_path: Path) -> None:
    for name in (".lock", "config.yaml"):
        (tmp_path / name).touch()
    fit_without_figures(cells, tmp_path, max_steps=2)
    assert names(tmp_path / "earlier") == {"1", "1/config.yaml"}


def test_length_and_genes(cells: AnnData) -> None:
    numbers = [default_num_steps(count) for count in (50, 700, 5000, 10_000, 10**7)]
    assert numbers == sorted(numbers)
    assert fit_config(cells, "gaussian", {})["trainer"]["max_steps"] == default_num_steps(200)
    assert fit_config(cells, "gaussian", {})["data"]["init_args"]["n_top_genes"] is None
    whole = AnnData(np.ones((3, MAX_PANEL_GENES + 1), dtype=np.float32))
    assert fit_config(whole, "gaussian", {})["data"]["init_args"]["n_top_genes"] == NUM_GENES


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"latents": "gausian"}, ConfigError, "latents='gausian' is unknown. Did you mean 'gaussian'"),
        (
            {"bach_key": "batch"},
            ConfigError,
            "'bach_key' is not a setting of fit with latents='gaussian'. Did you mean 'batch_key'",
        ),
        ({"latents": "mixed", "topics": 3}, ConfigError, "'topics' is not a setting of fit with latents='mixed'"),
        ({"likelihood": "znb"}, ConfigError, "likelihood='znb' is not a Likelihood. Did you mean 'zinb'"),
        ({"max_steps": 0}, ConfigError, "max_steps=0 must be a positive integer"),
        ({"max_steps": 2.5}, ConfigError, "max_steps=2.5 must be a positive integer"),
        ({"max_steps": True}, ConfigError, "max_steps=True must be a positive integer"),
        ({"seed": -1}, ConfigError, "seed=-1 must be a whole number"),
        ({"seed": True}, ConfigError, "seed=True must be a whole number"),
        ({"accelerator": "foo"}, ConfigError, "trainer: You selected an invalid accelerator name"),
        ({"barebones": True}, ConfigError, "trainer.barebones=True is not supported"),
        ({"max_epochs": 0}, ConfigError, "trainer.max_epochs=0 must not be 0"),
        ({"enable_checkpointing": True}, ConfigError, "enable_checkpointing=True requires directory"),
        ({"callbacks": ["x"]}, ConfigError, "must be a pytorch_lightning callback"),
        (
            {"val_check_interval": 1000, "check_val_every_n_epoch": 1},
            ConfigError,
            "trainer.val_check_interval: `val_check_interval`",
        ),
        (
            {"directory": "a", "default_root_dir": "b"},
            ConfigError,
            "default_root_dir='b' sets trainer.default_root_dir, which is already 'a'",
        ),
        ({"batch_key": "btch"}, DataError, "batch_key='btch' not found in .obs of AnnData in memory. Did you mean"),
        ({"layer": "counts"}, DataError, "layer='counts' not found in AnnData in memory"),
    ],
)
def test_errors_name_argument_and_remedy(
    arguments: dict[str, Any], error: type[Exception], message: str, cells: AnnData
) -> None:
    with pytest.raises(error, match=message.replace(".", r"\.")):
        fit(cells, **arguments)


class Warn(Callback):
    """Callback with a warning in the first step."""

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 1:
            warnings.warn("one of the cells is strange", UserWarning, stacklevel=1)


def test_the_report_knows_how_the_training_went(cells: AnnData, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="strange"):
        model = fit(cells, seed=7, callbacks=[Warn()])
    vaekit.save(model, tmp_path / "model.ckpt")
    for facts in (read_run(model, ""), read_run(vaekit.load(tmp_path / "model.ckpt"), str(tmp_path / "model.ckpt"))):
        assert len(facts.history["val/elbo"]) == 10  # after each step
        assert 2 <= len(facts.history["train/elbo"]) < 10  # after each epoch
        assert any("strange" in message for message in facts.warnings)
        assert (facts.step, facts.seed, facts.record["total_steps"], facts.record["finished"]) == (10, 7, 10, True)
