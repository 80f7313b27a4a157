"""A model that no trainer holds, written and read again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vaekit
from vaekit.cli.main import main
from vaekit.data import GeneExpressionData
from vaekit.exceptions import OutputError
from vaekit.likelihoods import NegativeBinomial
from vaekit.models.checkpoint import read_checkpoint

from .tiny import MODELS, adata, counts, trainer


@pytest.mark.parametrize("kind", ["gaussian", "mixed_sampled", "discrete_learned", "sequential_critic"])
def test_comes_back_as_it_was(kind, tmp_path):
    model = MODELS[kind](NegativeBinomial()).eval()
    vaekit.save(model, tmp_path / "model.ckpt")
    again = vaekit.load(tmp_path / "model.ckpt")
    assert type(again) is type(model)
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.data_registry is None
    one, other = ({k: q.mean for k, q in m.posteriors(counts()).items()} for m in (model, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_holds_what_a_trainers_checkpoint_holds(tmp_path):
    data = GeneExpressionData(adata(), batch_key="batch")
    model = MODELS["gaussian"](NegativeBinomial(), features=data.features, covariates=data.covariates)
    used = trainer(max_epochs=1, limit_val_batches=0)
    used.fit(model, datamodule=data)
    used.save_checkpoint(tmp_path / "trained.ckpt")
    vaekit.save(model, tmp_path / "saved.ckpt")
    trained, saved = (read_checkpoint(tmp_path / f"{name}.ckpt") for name in ("trained", "saved"))
    assert set(saved) <= set(trained)
    assert saved["hyper_parameters"] == trained["hyper_parameters"]
    assert set(saved["data_registry"]) == set(trained["data_registry"])
    assert saved["data_registry"]["batch_categories"] == ["b1", "b2"]
    again = MODELS["gaussian"](NegativeBinomial(), features=data.features, covariates=data.covariates)
    trainer().validate(again, datamodule=data, ckpt_path=tmp_path / "saved.ckpt", verbose=False)
    assert torch.equal(again.networks.decoder.layers[0].weight, model.networks.decoder.layers[0].weight)


def test_commands_read_it(tmp_path, capsys):
    adata().write_h5ad(tmp_path / "cells.h5ad")
    data = GeneExpressionData(path=str(tmp_path / "cells.h5ad"), batch_key="batch")
    model = MODELS["gaussian"](NegativeBinomial(), features=data.features, covariates=data.covariates)
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    vaekit.save(model, tmp_path / "saved.ckpt")
    assert main(["embed", str(tmp_path / "saved.ckpt"), "-o", str(tmp_path / "out.h5ad")]) == 0
    assert main(["denoise", str(tmp_path / "saved.ckpt"), "-o", str(tmp_path / "denoised.h5ad")]) == 0
    assert "60 cells" in capsys.readouterr().out


def test_a_file_is_replaced_whole_or_stays(tmp_path, monkeypatch):
    model, other = (MODELS["gaussian"](NegativeBinomial(), latent_dim=d) for d in (2, 3))
    file = tmp_path / "model.ckpt"
    vaekit.save(model, file)
    vaekit.save(other, file)
    assert vaekit.load(file).latents["z"].size == 3

    def broken(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OutputError, match=r"model\.ckpt could not be written.*No space left"):
        vaekit.save(model, file)
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]
    assert vaekit.load(file).latents["z"].size == 3


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(OutputError, match="no/model"):
        vaekit.save(MODELS["gaussian"](NegativeBinomial()), tmp_path / "no" / "model.ckpt")


def test_a_reference_is_plain(tmp_path):
    cells = adata()
    cells.obs["dose"] = np.linspace(0, 1, 60)
    data = GeneExpressionData(cells, continuous_covariate_keys=["dose"])
    model = MODELS["gaussian"](NegativeBinomial(), features=data.features, covariates=data.covariates)
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    vaekit.save(model, tmp_path / "model.ckpt")
    assert list(vaekit.load(tmp_path / "model.ckpt").data_registry["continuous_covariate_keys"]) == ["dose"]
