import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from vaekit.data import ImageData
from vaekit.data.images.image_sources import IDX_FILES
from vaekit.exceptions import DataError


def write_idx(folder, num_train=48, num_test=12, packed=True):
    """Write a few random images in MNIST's own format and return them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(num_train + num_test, 28, 28), dtype=np.uint8)
    labels = (np.arange(num_train + num_test) % 10).astype(np.uint8)
    parts = (images[:num_train], labels[:num_train], images[num_train:], labels[num_train:])
    for name, part in zip(IDX_FILES, parts, strict=True):
        content = struct.pack(f">I{part.ndim}I", 0x0800 + part.ndim, *part.shape) + part.tobytes()
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return images, labels


@pytest.fixture(autouse=True)
def _no_download(monkeypatch):
    def refuse(self):
        if not self._check_exists():
            raise RuntimeError("no network in tests")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)


def everything(data, split):
    return torch.cat([batch.x for batch in data.dataloader(split)])


def test_digits_by_default():
    data = ImageData()
    assert (data.features, data.covariates, data.image_shape, data.kind) == (64, 0, (1, 8, 8), "images")
    assert data.label_categories == [str(digit) for digit in range(10)]
    assert data.description == (
        "digits (scikit-learn): 1797 images of 8 x 8, binarization dynamic, train/val/test 1437/180/180"
    )
    batch = next(iter(data.train_dataloader()))
    assert batch.x.shape == (128, 64)
    assert batch.size_factor is None
    assert data.labels[batch.index.numpy()].tolist() == [str(code.item()) for code in batch.label]
    for rows in data.split_indices.values():
        assert np.ptp(np.unique(data.labels[rows.numpy()], return_counts=True)[1]) <= 0.2 * len(rows) / 10


def test_dynamic_draws_anew_for_training_alone():
    data = ImageData(binarization="dynamic")
    assert everything(data, "train").unique().tolist() == [0, 1]
    assert not everything(data, "train").equal(everything(data, "train"))
    for split in ("val", "test", "all"):
        assert everything(data, split).equal(everything(data, split))
        assert everything(data, split).unique().tolist() == [0, 1]
    assert everything(data, "val").equal(everything(ImageData(), "val"))
    assert not everything(data, "all").equal(everything(ImageData(seed=1), "all"))
    torch.manual_seed(1)
    first = everything(data, "train")
    torch.manual_seed(1)
    assert first.equal(everything(data, "train"))


def test_fixed_is_drawn_once():
    data = ImageData(binarization="fixed")
    assert everything(data, "train").equal(everything(data, "train"))
    assert everything(data, "all").equal(everything(ImageData(), "all"))
    grey = everything(ImageData(binarization="none"), "all")
    assert (everything(data, "all").mean() - grey.mean()).abs() < 4 * 0.5 / grey.numel() ** 0.5


def test_threshold_and_grey():
    grey = everything(ImageData(binarization="none"), "all")
    assert grey.min() == 0
    assert grey.max() == 1
    assert grey.unique().numel() == 17
    assert everything(ImageData(binarization="threshold"), "all").equal((grey > 0.5).float())


@pytest.mark.parametrize("binarization", ["fixed", "threshold", "none"])
def test_mean_is_that_of_training_images(binarization):
    data = ImageData(binarization=binarization)
    torch.testing.assert_close(data.mean, everything(data, "train").mean(0))


def test_mean_of_dynamic_images_is_the_grey_mean():
    assert ImageData().mean.equal(ImageData(binarization="none").mean)


def test_global_generator_is_left_alone_by_loading():
    before = torch.get_rng_state()
    ImageData().setup()
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_without_download(tmp_path, name, folder, packed):
    images, labels = write_idx(tmp_path / folder / "raw", packed=packed)
    data = ImageData(name, root=str(tmp_path), binarization="none", batch_size=5)
    assert (data.features, data.image_shape) == (784, (1, 28, 28))
    assert [len(rows) for rows in data.split_indices.values()] == [44, 4, 12]
    assert data.split_indices["test"].tolist() == list(range(48, 60))  # the official test set
    torch.testing.assert_close(everything(data, "all"), torch.from_numpy(images).flatten(1) / 255)
    assert torch.cat([batch.label for batch in data.predict_dataloader()]).tolist() == labels.tolist()
    assert data.label_categories[3] == {"mnist": "3", "fashion_mnist": "Dress"}[name]


def test_own_split_pools_the_official_ones(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw")
    data = ImageData("mnist", root=str(tmp_path), split=(0.5, 0.25, 0.25))
    assert [len(rows) for rows in data.split_indices.values()] == [30, 15, 15]


def test_failed_download_names_root_and_files(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/MNIST/raw .*no network in tests.*train-images-idx3-ubyte"):
        ImageData("mnist", root=str(tmp_path)).setup()


def test_broken_files(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    write_idx(folder)
    packed = folder / f"{IDX_FILES[0]}.gz"
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz cannot be inflated"):
        ImageData("mnist", root=str(tmp_path)).setup()
    assert not (folder / IDX_FILES[0]).exists()
    (folder / IDX_FILES[0]).write_bytes(gzip.decompress(whole)[:-100])
    with pytest.raises(DataError, match=r"MNIST/raw: files are not in idx format"):
        ImageData("mnist", root=str(tmp_path)).setup()


def test_images_without_labels(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    write_idx(folder, packed=False)
    (folder / IDX_FILES[1]).write_bytes(struct.pack(">II", 0x0801, 3) + bytes(3))
    with pytest.raises(DataError, match="48 images and 3 labels do not match"):
        ImageData("mnist", root=str(tmp_path)).setup()


def test_state_keeps_the_split_and_other_images_are_an_error(tmp_path):
    data = ImageData(seed=1)
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = ImageData(seed=2)
    other.load_state_dict(state)
    assert other.split_indices["test"].equal(data.split_indices["test"])
    write_idx(tmp_path / "MNIST" / "raw")
    foreign = ImageData("mnist", root=str(tmp_path))
    foreign.load_state_dict(state)
    with pytest.raises(DataError, match=rf"trained on digits \(scikit-learn\) with fingerprint {data.fingerprint}"):
        foreign.setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"name": "minst"}, "Did you mean 'mnist'"), ({"binarization": "dynamc"}, "Did you mean 'dynamic'")],
)
def test_unknown_names(arguments, message):
    with pytest.raises(DataError, match=message):
        ImageData(**arguments).setup()


def test_too_few_training_images(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", num_train=1)
    with pytest.raises(DataError, match="1 training images are too few"):
        ImageData("mnist", root=str(tmp_path)).setup()


@pytest.mark.parametrize("argument", ["name", "path"])
def test_a_path_that_is_passed_as_a_name(argument: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pass path=\." if argument == "name" else "has no images"):
        ImageData(**{argument: str(tmp_path)}).dataloader("all")
