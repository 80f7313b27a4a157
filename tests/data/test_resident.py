"""The part that datamodules share: their state, alone and within Lightning's checkpoints."""

import pytest
import pytorch_lightning as pl
import torch

from vaekit._core.components import from_config
from vaekit.data import GeneExpressionData, ImageData
from vaekit.exceptions import DataError


class Linear(pl.LightningModule):
    def __init__(self, features: int, seed: int = 7) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(features, 1)
        self.seen: list[int] = []

    def training_step(self, batch, _):
        self.seen += batch.index.tolist()
        return self.layer(batch.x).square().mean()

    def validation_step(self, batch, _):
        self.layer(batch.x)

    def predict_step(self, batch, _):
        return batch.index

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-4)


def trainer(folder, epochs: int = 1) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=pl.loggers.CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def reloaded(state, folder):
    torch.save(state, folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


@pytest.fixture
def file(tmp_path, make_adata):
    make_adata(cells=100).write_h5ad(tmp_path / "cells.h5ad")
    return str(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("loaded_before", [True, False])
def test_split_and_genes_are_the_checkpoints(file, tmp_path, loaded_before):
    arguments = {"path": file, "batch_key": "batch", "label_key": "cell_type"}
    state = reloaded(GeneExpressionData(**arguments, n_top_genes=8, seed=1).state_dict(), tmp_path)
    data = GeneExpressionData(**arguments, seed=2)
    if loaded_before:
        assert data.features == 20
        assert not data.split_indices["test"].equal(state["split_indices"]["test"])
    data.load_state_dict(state)
    assert data.feature_names == state["feature_names"]
    assert data.features == next(iter(data.val_dataloader())).x.shape[1] == 8
    for name, rows in data.split_indices.items():
        assert rows.equal(state["split_indices"][name])
    assert data.state_dict().keys() == state.keys()
    assert (data.batch_categories, data.label_categories) == (["b1", "b2"], ["B", "NK", "T"])


def test_state_makes_the_datamodule_again(file, tmp_path):
    data = GeneExpressionData(path=file, n_top_genes=4, seed=5)
    state = reloaded(data.state_dict(), tmp_path)
    again = from_config(state["config"])
    assert isinstance(again, GeneExpressionData)
    again.load_state_dict(state)
    assert again.split_indices["test"].equal(data.split_indices["test"])
    assert again.source == data.source
    assert again.mean.equal(data.mean)


def test_config_names_the_file_from_anywhere(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = GeneExpressionData(path="cells.h5ad")
    monkeypatch.chdir("/")
    assert data.config["init_args"]["path"] == file
    assert data.num_cells == 100


def test_adata_is_not_in_the_config(make_adata):
    data = GeneExpressionData(make_adata(), seed=3)
    assert data.config["init_args"]["adata"] is None
    assert data.hparams["seed"] == 3


@pytest.mark.parametrize("loaded_before", [True, False])
def test_other_data_is_an_error(file, make_adata, loaded_before):
    state = GeneExpressionData(path=file).state_dict()
    data = GeneExpressionData(make_adata(cells=100, seed=1))

    def load():
        if loaded_before:
            data.setup()
        data.load_state_dict(state)
        data.setup()

    with pytest.raises(DataError, match=rf"trained on {file} with fingerprint {state['fingerprint']} .*AnnData in"):
        load()


def test_other_batches_are_an_error(file):
    state = GeneExpressionData(path=file).state_dict()
    data = GeneExpressionData(path=file, batch_key="batch")
    data.load_state_dict(state)
    with pytest.raises(DataError, match="trained without batches"):
        data.setup()


def test_foreign_state():
    with pytest.raises(
        DataError, match=r"GeneExpressionData: the checkpoint's state lacks 'fingerprint', .*'feature_names'"
    ):
        GeneExpressionData().load_state_dict({"split_indices": {}, "num_rows": 1})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [lambda file: GeneExpressionData(path=file, batch_size=16, seed=4), ImageData])
def test_lightning_trains_saves_and_resumes(file, tmp_path, make):
    data = make(file) if make is not ImageData else ImageData(seed=4)
    model = Linear(data.features)
    fit = trainer(tmp_path)
    fit.fit(model, datamodule=data)
    assert sorted(model.seen) == data.split_indices["train"].tolist()
    fit.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["datamodule_hyper_parameters"] == data.config["init_args"]
    assert checkpoint[type(data).__name__]["fingerprint"] == data.fingerprint

    again = type(data).load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert again.seed == 4
    assert again.split_indices["val"].equal(data.split_indices["val"])

    other = make(file) if make is not ImageData else ImageData()
    other.seed = 99  # would split otherwise
    resumed = Linear(other.features)
    trainer(tmp_path, epochs=2).fit(resumed, datamodule=other, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert sorted(resumed.seen) == data.split_indices["train"].tolist()
    predicted = torch.cat(trainer(tmp_path).predict(resumed, datamodule=other))
    assert predicted.equal(torch.arange(len(data.dataset)))
