"""Data on another device against the same data beside the CPU; the device here is the CPU, by the code for a GPU."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy import sparse

from vaekit.data import GeneExpressionData, ImageData, data_module
from vaekit.data.cells.count_dataset import CountDataset, CountsOnDevice
from vaekit.data.data_module import on_device
from vaekit.data.images.image_dataset import ImageDataset, ImagesOnDevice

CPU = torch.device("cpu")


def counts(**others):
    rng = np.random.default_rng(0)
    x = rng.poisson(0.4, (30, 12)).astype(np.float32)
    x[[0, 7, 29]] = 0  # empty cells
    return CountDataset(sparse.csr_matrix(x), **others)


def assert_same(one, other):
    for name in set(one._fields) - {"nonzero"}:
        first, second = getattr(one, name), getattr(other, name)
        assert (first is None) == (second is None), name
        if first is not None:
            assert first.dtype == second.dtype, name
            assert first.equal(second), name


@pytest.mark.parametrize(
    "rows",
    [[3], [0], [0, 7, 29], [5, 0, 29, 5], list(range(30)), torch.randperm(30), torch.empty(0, dtype=torch.int64)],
)
def test_batches_of_counts_are_the_same(rows):
    dataset = counts(
        covariates=torch.rand(30, 2),
        label=torch.arange(30),
        observed=torch.arange(12) != 4,
    )
    moved = CountsOnDevice(dataset, CPU)
    assert len(moved) == len(dataset)
    assert_same(moved.__getitems__(rows), dataset.__getitems__(rows))
    assert moved[-1].index.item() == 29


def test_batches_of_plain_counts_are_the_same():
    dataset = counts(size_factor=torch.rand(30, 1))
    assert_same(CountsOnDevice(dataset, CPU).__getitems__([4, 2]), dataset.__getitems__([4, 2]))


@pytest.mark.parametrize("draw", [False, True])
def test_batches_of_images_are_the_same(draw):
    pixels = torch.randint(0, 256, (9, 5), dtype=torch.uint8)
    dataset = ImageDataset(pixels, 255, torch.arange(9), draw)
    torch.manual_seed(1)
    wanted = dataset.__getitems__([8, 0, 0])
    torch.manual_seed(1)
    assert_same(ImagesOnDevice(dataset, CPU).__getitems__([8, 0, 0]), wanted)


def test_only_data_with_room_go_to_a_gpu(monkeypatch):
    dataset, gpu = counts(), torch.device("cuda", 0)
    assert on_device(dataset, CPU) is dataset
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 8 * dataset.counts.nnz - 1, 10**9))
    assert on_device(dataset, gpu) is dataset


class Seen(pl.LightningModule):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []
        self.automatic_optimization = False

    def training_step(self, batch, _):
        self.seen.append(batch)

    def validation_step(self, batch, _):
        self.seen.append(batch)

    def configure_optimizers(self):
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["counts", "images"])
def test_a_trainer_gets_the_same_batches(monkeypatch, tmp_path, make_adata, kind):
    def run(place):
        made = []

        def placed(dataset, device):
            made.append(place(dataset, device))
            return made[-1]

        monkeypatch.setattr(data_module, "on_device", placed)
        pl.seed_everything(3, verbose=False)
        data = (
            GeneExpressionData(make_adata(cells=90), batch_size=16) if kind == "counts" else ImageData(batch_size=256)
        )
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        model = Seen()
        trainer.fit(model, datamodule=data)
        assert not data._device_copies  # given back
        assert isinstance(data.val_dataloader().dataset.dataset, CountDataset | ImageDataset)
        return made, model.seen

    moved = CountsOnDevice if kind == "counts" else ImagesOnDevice
    made, found = run(moved)
    assert len(made) <= 2  # once a data set, not once a loader
    assert all(isinstance(each, moved) for each in made)
    _, wanted = run(lambda dataset, device: dataset)
    assert len(found) == len(wanted) > 2
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other)
