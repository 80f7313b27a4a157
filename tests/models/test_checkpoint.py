"""Saving, loading and resuming, and rejected files."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import vaekit
from vaekit import GaussianVAE, MixedVAE
from vaekit.callbacks import RunCheckpoint
from vaekit.data import GeneExpressionData
from vaekit.estimators import LearnedBaseline, ScoreFunction
from vaekit.exceptions import CheckpointError, ConfigError
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE, load
from vaekit.models.checkpoint import read_checkpoint
from vaekit.networks import MLP

from .tiny import FEATURES, LIKELIHOODS, MODELS, adata, batch_for, counts, differences, fit, trainer


class Stop(pl.Callback):
    """Ends training after an epoch on request."""

    def __init__(self, epoch: int, how: str) -> None:
        self.epoch, self.how = epoch, how

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if self.how == "exception" and trainer.current_epoch == self.epoch:
            raise RuntimeError("power cut")

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if self.how == "callback" and trainer.current_epoch == self.epoch - 1:
            trainer.should_stop = True


def data() -> GeneExpressionData:
    return GeneExpressionData(adata(), batch_key="batch", label_key="cell_type", batch_size=16)


def model_for(name: str, cells: GeneExpressionData) -> VAE:
    """Return a model of ``MODELS`` for the data's sizes."""
    sizes = {"features": cells.features, "covariates": cells.covariates}
    return MODELS[name](NegativeBinomial(), **sizes, learning_rate=0.01)


def state(model: VAE) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, NegativeBinomial) for name in MODELS), *(("gaussian", kind) for kind in LIKELIHOODS[1:])],
)
def test_a_loaded_model_is_the_saved_one(name, kind, tmp_path):
    model, batch = MODELS[name](kind()), batch_for(kind)
    fit(model, batch, 2).save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    loaded = vaekit.load(tmp_path / "a.ckpt")
    assert type(loaded) is type(model)
    assert not loaded.training
    assert same(state(model), state(loaded))
    assert loaded.config == model.config
    model.eval()
    with torch.no_grad():
        for latent, q in model.posteriors(batch).items():
            assert q.mean.equal(loaded.posteriors(batch)[latent].mean)
        bounds = []
        for either in (model, loaded):
            torch.manual_seed(1)
            bounds.append(either.loss(batch).total)
    assert bounds[0].equal(bounds[1])


@pytest.fixture
def saved(tmp_path) -> Path:
    fit(MODELS["gaussian"](NegativeBinomial()), counts(), 1).save_checkpoint(tmp_path / "gaussian.ckpt")
    return tmp_path / "gaussian.ckpt"


def test_load_from_checkpoint_of_the_class_or_its_base(saved):
    assert type(VAE.load_from_checkpoint(saved)) is GaussianVAE
    assert type(GaussianVAE.load_from_checkpoint(str(saved))) is GaussianVAE
    with pytest.raises(CheckpointError, match=r"gaussian\.ckpt contains a vaekit\.GaussianVAE, not a MixedVAE"):
        MixedVAE.load_from_checkpoint(saved)


def test_load_from_checkpoint_swallows_no_arguments(saved):
    plain = GaussianVAE.load_from_checkpoint(saved)
    same = GaussianVAE.load_from_checkpoint(saved, "cpu", hparams_file=None, strict=True, weights_only=True)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in plain.state_dict().items())
    for name, value in (("learning_rate", 123.0), ("nonsense", 5), ("strict", False), ("weights_only", False)):
        with pytest.raises(ConfigError, match=rf"{name}={value}.*load_state_dict"):
            GaussianVAE.load_from_checkpoint(saved, **{name: value})


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refuse(path: Path, message: str = "") -> None:
    for reader in (load, VAE.load_from_checkpoint):
        with pytest.raises(CheckpointError, match=f"(?s){path.name}.*{message}"):
            reader(path)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_no_code_of_a_file_runs(tmp_path, legacy, nested):
    bomb = Bomb(tmp_path / "exploded")
    content = {"hyper_parameters": {"_class_path": "vaekit.GaussianVAE"}, "state_dict": bomb} if nested else bomb
    if legacy:
        (tmp_path / "bomb.ckpt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "bomb.ckpt")
    refuse(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"hello, world\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"PK\x03\x04 no archive",
     pickle.dumps([1]), pickle.dumps({"state_dict": {}}), bytes(range(255, 0, -1)), b"\x80\x02",
     b"}q\x00.", b"((((", b"\x80\x05K\x01."],
    ids=range(12),
)  # fmt: skip
def test_foreign_files(tmp_path, content):
    (tmp_path / "foreign.ckpt").write_bytes(content)
    refuse(tmp_path / "foreign.ckpt")


@pytest.mark.parametrize(
    "content",
    [[], {"state_dict": {}}, {"hyper_parameters": None}, {"hyper_parameters": ["_class_path"]}, {"hyper_parameters": 3},
     {"hyper_parameters": {"_class_path": None}}, {"hyper_parameters": {"_class_path": "vaekit.GaussianVAE"}},
     {"hyper_parameters": {"_class_path": "vaekit.GaussianVAE", "features": "many", "likelihood": 3}}, torch.zeros(2)],
    ids=range(9),
)  # fmt: skip
def test_foreign_contents(tmp_path, content):
    torch.save(content, tmp_path / "foreign.ckpt")
    refuse(tmp_path / "foreign.ckpt")


def test_missing_file_and_folder(tmp_path):
    refuse(tmp_path / "none.ckpt", "")
    (tmp_path / "folder").mkdir()
    refuse(tmp_path / "folder", "folder")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    refuse(saved)


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    """Among the weights, in the state of optimizer and generators, in the arguments."""
    path, cells = tmp_path / "a.ckpt", data()
    used = trainer(max_epochs=1)
    used.fit(model_for("gaussian", cells), datamodule=cells)
    used.save_checkpoint(path)
    whole, before, generator = path.read_bytes(), read_checkpoint(path), random.Random(0)
    refused = 0
    for _ in range(200):
        damaged, place = bytearray(whole), generator.randrange(len(whole))
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            assert not differences(before, read_checkpoint(path)), f"bit flipped in byte {place}"
        except CheckpointError:
            refused += 1
    assert refused > 100  # the rest is padding, dates and other bytes that nobody reads


def test_no_training_goes_on_from_a_damaged_checkpoint(tmp_path):
    cells = data()
    first = trainer(tmp_path, max_epochs=1, callbacks=[RunCheckpoint()])
    model = model_for("gaussian", cells)
    first.fit(model, datamodule=cells)
    path = tmp_path / "last.ckpt"
    damaged = bytearray(path.read_bytes())
    bias = first.optimizers[0].state[next(model.parameters())]["exp_avg"].numpy().tobytes()
    damaged[bytes(damaged).index(bias)] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged.*Restore it from a copy, or train again"):
        trainer(tmp_path, max_epochs=2, callbacks=[RunCheckpoint()]).fit(
            model_for("gaussian", cells), datamodule=cells, ckpt_path=path, weights_only=True
        )


@pytest.mark.parametrize("name", list(MODELS))
def test_a_checkpoint_holds_each_tensor_once(name, tmp_path):
    model = MODELS[name](NegativeBinomial())
    places = [value.data_ptr() for value in model.state_dict().values() if value.numel()]
    assert len(set(places)) == len(places)
    assert not any("_wanted" in key for key in model.state_dict())


def test_archive_without_weights(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    refuse(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "class_path",
    ["os.system", "torch.nn.Linear", "builtins.eval", "vaekit.networks.MLP", "vaekit.GaussianVA", "vaekit.nowhere.VAE",
     "vaekit.models.vae.torch.nn.Linear", "vaekit._core.components.importlib", "VAE", "", "vaekit..VAE", "vaekitx.VAE"],
)  # fmt: skip
def test_foreign_classes(saved, class_path, monkeypatch):
    checkpoint = torch.load(saved, weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = class_path
    torch.save(checkpoint, saved)
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("it ran"))
    refuse(saved)


@pytest.mark.parametrize("class_path", ["os.system", "torch.nn.Linear", "pathlib.Path"])
def test_foreign_parts(saved, class_path):
    checkpoint = torch.load(saved, weights_only=True)
    checkpoint["hyper_parameters"]["likelihood"] = {"class_path": class_path, "init_args": {}}
    torch.save(checkpoint, saved)
    refuse(saved, "outside vaekit")


def test_weights_of_another_size(saved):
    checkpoint = torch.load(saved, weights_only=True)
    checkpoint["hyper_parameters"]["latent_dim"] = 7
    torch.save(checkpoint, saved)
    refuse(saved, "weights do not fit")
    del checkpoint["state_dict"]
    torch.save(checkpoint, saved)
    refuse(saved)


def test_what_a_checkpoint_cannot_hold_is_an_error_at_once():
    estimator = ScoreFunction(baseline=LearnedBaseline(torch.nn.Linear(8, 1)))
    with pytest.raises(ConfigError, match=r"network is a torch\.nn.*Linear.*plain data.*MLP"):
        MODELS["discrete_auto"](NegativeBinomial(), estimator=estimator)


def test_parts_survive(tmp_path):
    model = VAE(
        FEATURES, MLP([7, 6], 0.2), {"z": vaekit.latents.Gaussian(2)}, MLP([4], normalize=False), NegativeBinomial()
    )
    fit(model, counts(), 1).save_checkpoint(tmp_path / "a.ckpt")
    loaded = load(tmp_path / "a.ckpt")
    assert type(loaded) is VAE
    assert loaded.config == model.config
    assert str(loaded) == str(model)


@pytest.mark.parametrize("name", ["gaussian", "mixed", "mixed_sampled", "discrete_moving_average", "discrete_learned"])
def test_the_same_seed_trains_the_same_weights(name):
    trained = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        model = model_for(name, cells := data())
        trainer(max_epochs=2).fit(model, datamodule=cells)
        trained.append(state(model))
    assert same(trained[0], trained[1])
    assert not same(trained[0], trained[2])


@pytest.mark.parametrize("how", ["callback", "exception"])
@pytest.mark.parametrize("name", ["gaussian", "mixed", "mixed_sampled", "discrete_moving_average", "discrete_learned"])
def test_resuming_is_as_if_never_stopped(name, how, tmp_path):
    def run(folder: str, *callbacks: pl.Callback, **kwargs) -> VAE:
        used = trainer(tmp_path / folder, max_epochs=4, callbacks=[RunCheckpoint(), *callbacks])
        try:
            used.fit(model, datamodule=cells, **kwargs)
        except RuntimeError as error:
            assert "power cut" in str(error)  # noqa: PT017
        return model

    torch.manual_seed(3)
    model = model_for(name, cells := data())
    whole = state(run("whole"))

    torch.manual_seed(3)
    model = model_for(name, cells := data())
    half = state(run("half", Stop(2, how)))
    assert not same(half, whole)

    torch.manual_seed(77)  # another process
    model = model_for(name, cells := data())
    resumed = run("half", ckpt_path=tmp_path / "half" / "last.ckpt", weights_only=True)
    assert resumed.trainer.current_epoch == 4
    assert same(state(resumed), whole)
    assert same(state(load(tmp_path / "half" / "last.ckpt")), state(load(tmp_path / "whole" / "last.ckpt")))


@pytest.mark.parametrize("name", ["moving_average", "learned"])
def test_baselines_survive(name, tmp_path):
    model = MODELS[f"discrete_{name}"](NegativeBinomial())
    fit(model, counts(), 5).save_checkpoint(tmp_path / "a.ckpt")
    baselines = (m.estimators["y"].baseline for m in (model, load(tmp_path / "a.ckpt")))
    running, again = (getattr(b, "critic", b).running for b in baselines)
    assert running.seen > 0.4
    assert again.mean() == running.mean() != 0


def test_training_on_starts_where_the_weights_are():
    """A second fit starts from the trained weights; only the first starts at the data's mean."""
    cells = data()
    model = model_for("gaussian", cells)
    trainer(max_epochs=1).fit(model, datamodule=cells)
    before = model.networks.likelihood.composition.bias.clone()
    model.learning_rate = 1e-12
    trainer(max_epochs=1).fit(model, datamodule=cells)
    torch.testing.assert_close(model.networks.likelihood.composition.bias, before)


def test_evaluating_a_checkpoint_leaves_the_seed_alone(saved):
    found, after = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        data = DataLoader([counts()], batch_size=None)
        found += trainer().validate(load(saved), data, ckpt_path=saved, weights_only=True, verbose=False)
        after.append(torch.rand(()).item())
    assert after[0] != after[1]
    assert found[0] == found[1], "held-out draws follow from the batch alone"


def test_one_component_in_two_models():
    """Each model has separate weights, or raises an error."""
    likelihood = NegativeBinomial()
    first = GaussianVAE(FEATURES, likelihood, hidden=[4])
    try:
        second = GaussianVAE(FEATURES, likelihood, hidden=[4])
    except ConfigError:
        return
    assert first.networks.likelihood.composition is not second.networks.likelihood.composition
