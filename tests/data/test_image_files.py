"""Images of one's own: folders of pictures and .npz files."""

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.data import ImageData
from vaekit.data.images.image_files import read_npz
from vaekit.exceptions import DataError


def pictures(shape, count=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def everything(data):
    return torch.cat([batch.x for batch in data.dataloader("all")])


def write(folder, array, classes=None):
    for i, picture in enumerate(array):
        own = folder if classes is None else folder / classes[i % len(classes)]
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(own / f"{i:03}.png")


@pytest.mark.parametrize(("shape", "expected"), [((9, 7), (1, 9, 7)), ((9, 7, 3), (3, 9, 7))])
def test_folder_without_classes(tmp_path, shape, expected):
    array = pictures(shape)
    write(tmp_path / "own", array)
    data = ImageData(path=str(tmp_path / "own"), binarization="none")
    assert (data.image_shape, data.features) == (expected, int(np.prod(expected)))
    assert (data.label_categories, set(data.labels)) == ([], {None})
    first = array if array.ndim == 4 else array[..., None]
    torch.testing.assert_close(everything(data), torch.from_numpy(first).movedim(-1, 1).flatten(1).float() / 255)
    colours = " in 3 channels" if expected[0] == 3 else ""
    assert f"20 images of 9 x 7{colours}, binarization none, train/val/test 16/2/2" in data.description


def test_folders_in_it_are_classes(tmp_path):
    write(tmp_path, pictures((8, 8), 30), ["cat", "dog", "a bird"])
    data = ImageData(path=str(tmp_path))
    assert data.label_categories == ["a bird", "cat", "dog"]
    assert [list(data.labels).count(name) for name in data.label_categories] == [10, 10, 10]
    batch = next(iter(data.dataloader("all")))
    assert [data.label_categories[code] for code in batch.label] == data.labels[: len(batch.label)].tolist()


def test_one_picture_in_colour_makes_all_three_channels(tmp_path):
    write(tmp_path / "own" / "a", pictures((8, 8)))
    write(tmp_path / "own" / "b", pictures((8, 8, 3)))
    assert ImageData(path=str(tmp_path / "own")).image_shape == (3, 8, 8)


def test_size_scales_and_crops(tmp_path):
    write(tmp_path / "own", [picture for side in (12, 20) for picture in pictures((side, side + 5), 6)])
    with pytest.raises(DataError, match=r"006.png has 25 x 20 pixels, but .*000.png has 17 x 12. Pass an image_size"):
        _ = ImageData(path=str(tmp_path / "own")).features
    data = ImageData(path=str(tmp_path / "own"), image_size=8)
    assert data.image_shape == (1, 8, 8)
    flat = np.full((30, 30), 77, dtype=np.uint8)
    write(tmp_path / "flat", [flat] * 12)
    assert everything(ImageData(path=str(tmp_path / "flat"), image_size=16, binarization="none")).mul(255).eq(77).all()


@pytest.mark.parametrize("form", ["plain", "before", "after"])
def test_npz_with_labels(tmp_path, form):
    array = pictures((6, 5), 40)
    stored = {"plain": array, "before": array[:, None], "after": array[..., None]}[form]
    np.savez(tmp_path / "own.npz", images=stored, labels=np.array(["x", "y"])[np.arange(40) % 2])
    data = ImageData(path=str(tmp_path / "own.npz"), binarization="none")
    assert (data.image_shape, data.label_categories) == ((1, 6, 5), ["x", "y"])
    torch.testing.assert_close(everything(data), torch.from_numpy(array).flatten(1).float() / 255)


@pytest.mark.parametrize("names", [("x_train", "x_test", "y_train", "y_test"),
                                   ("train", "test", "train_labels", "test_labels")])  # fmt: skip
def test_npz_with_a_split_of_its_own(tmp_path, names):
    train, test = pictures((4, 4), 36), pictures((4, 4), 9, seed=1)
    values = (train, test, np.arange(36) % 3, np.arange(9) % 3)
    np.savez(tmp_path / "own.npz", **dict(zip(names, values, strict=True)))
    data = ImageData(path=str(tmp_path / "own.npz"))
    assert [len(rows) for rows in data.split_indices.values()] == [33, 3, 9]
    assert data.label_categories == ["0", "1", "2"]
    assert data.split_indices["test"].tolist() == list(range(36, 45))


@pytest.mark.parametrize("kind", [bool, np.float32, np.float64, np.int64, np.uint8])
def test_npz_of_zeros_and_ones(tmp_path, kind):
    array = (pictures((4, 4)) > 127).astype(kind)
    np.savez(tmp_path / "own.npz", images=array)
    found = everything(ImageData(path=str(tmp_path / "own.npz"), binarization="none"))
    assert found.equal(torch.from_numpy(array.astype(np.float32)).flatten(1))


@pytest.mark.parametrize("forms", [("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("{}", "{}_labels")])
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_npz_with_validation_images(tmp_path, forms, shape):
    """MedMNIST's form, with labels [images, 1], and others."""
    parts = {name: pictures(shape, count, seed=count) for name, count in (("train", 30), ("val", 6), ("test", 9))}
    arrays = {forms[0].format(name): part for name, part in reversed(parts.items())}
    arrays |= {forms[1].format(name): (np.arange(len(part)) % 12)[:, None] for name, part in parts.items()}
    np.savez(tmp_path / "own.npz", **arrays)
    data = ImageData(path=str(tmp_path / "own.npz"), binarization="none")
    assert [len(rows) for rows in data.split_indices.values()] == [30, 6, 9]
    assert data.label_categories == [str(i) for i in range(12)]
    for name, part in parts.items():
        found = torch.cat([batch.x for batch in data.dataloader(name)])
        first = torch.from_numpy(part.reshape(*part.shape[:3], -1)).movedim(-1, 1).flatten(1)
        assert sorted(found.mul(255).round().tolist()) == sorted(first.float().tolist())


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint16])
def test_one_scale_for_all_arrays_of_an_npz(tmp_path, kind):
    train, dim = pictures((4, 4), 30).astype(kind), (pictures((4, 4), 9, seed=1) > 99).astype(kind)
    np.savez(tmp_path / "own.npz", x_train=train, x_test=dim)
    assert read_npz(tmp_path / "own.npz")[0][30:].max() == 1
    np.savez(tmp_path / "own.npz", x_train=dim, x_test=dim)
    assert read_npz(tmp_path / "own.npz")[0].max() == 255


def test_labels_of_some_parts_of_an_npz(tmp_path):
    np.savez(tmp_path / "own.npz", x_train=pictures((4, 4)), x_test=pictures((4, 4), 5), y_train=np.arange(20) % 2)
    _, label, categories, _ = read_npz(tmp_path / "own.npz")
    assert (label[:4].tolist(), label[20:].tolist(), categories) == ([0, 1, 0, 1], [-1] * 5, ["0", "1"])


@pytest.mark.parametrize("kind", [int, float, str, "S2"])
def test_labels_of_every_kind_of_an_npz(tmp_path, kind):
    np.savez(tmp_path / "own.npz", images=pictures((4, 4)), labels=(np.arange(20) % 12).astype(kind))
    _, label, categories, _ = read_npz(tmp_path / "own.npz")
    assert categories == [str(number) for number in range(12)]
    assert label.tolist() == [i % 12 for i in range(20)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": pictures((4, 4)), "x_test": np.ones((9, 4, 4))}, "x_train has type uint8 and x_test float64"),
        ({"images": np.full((9, 4, 4), 40_000, np.uint16)}, "from 40000 to 40000"),
        ({"images": np.full((9, 4, 4), -1)}, "from -1 to -1"),
        ({"images": np.ones((9, 4, 4), complex)}, "images have type complex128"),
        ({"images": np.ones((9, 3, 8, 3))}, "may have channels before or after"),
        ({"images": np.ones((9, 4, 4, 4))}, r"have shape \[9, 4, 4, 4\]"),
        ({"images": pictures((4, 4)), "x_test": pictures((4, 4))}, "several forms of names"),
        ({"train": pictures((4, 4)), "val": pictures((4, 4)), "valid": pictures((4, 4))}, "val and valid, two for one"),
        ({"val_images": pictures((4, 4))}, "holds val_images. Name the images"),
        ({"images": pictures((4, 4)), "labels": np.eye(20)}, r"shape \[20, 20\], but must be one label per image"),
        (
            {"images": pictures((4, 4)), "labels": np.full(20, np.nan)},
            "labels of images have type float64, but must be integers",
        ),
        (
            {"x_train": pictures((4, 4)), "y_train": np.arange(19), "x_test": pictures((4, 4))},
            r"20 images and 19 labels",
        ),
    ],
)
def test_npz_without_one_meaning(tmp_path, arrays, message):
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_npz(tmp_path / "own.npz")


def test_path_takes_the_place_of_a_name(tmp_path):
    np.savez(tmp_path / "own.npz", images=pictures((4, 4)))
    data = ImageData("mnist", root=str(tmp_path / "nowhere"), path=str(tmp_path / "own.npz"))
    assert data.features == 16
    assert not (tmp_path / "nowhere").exists()


def write_bad(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "absent", "absent' does not exist"),
        (lambda path: path / "empty", "empty has no images"),
        (lambda path: path / "text.txt", "is of another kind. Pass a directory of image files or an .npz file"),
        (lambda path: path / "broken.npz", "broken.npz cannot be read as an .npz file"),
        (lambda path: path / "broken", "0.png cannot be read as an image"),
        (lambda path: path / "mixed", "3 images lie in directories .* and 2 do not, such as 000.png"),
        (lambda path: write_bad(path / "x.npz", pixels=pictures((4, 4))), "x.npz holds pixels. Name the images"),
        (lambda path: write_bad(path / "x.npz", images=np.zeros((3, 16))), r"have shape \[3, 16\]"),
        (lambda path: write_bad(path / "x.npz", images=np.full((9, 4, 4), 1.5)), "from 1.5 to 1.5 must be bytes or"),
        (lambda path: write_bad(path / "x.npz", images=np.full((9, 4, 4), np.nan)), "from nan to nan"),
        (lambda path: write_bad(path / "x.npz", images=np.full((9, 4, 4), 300)), "from 300 to 300"),
        (lambda path: write_bad(path / "x.npz", images=pictures((4, 4)), labels=np.arange(3)), "20 images and 3"),
        (lambda path: write_bad(path / "x.npz", train=pictures((4, 4)), test=pictures((5, 5))), "different shapes"),
        (lambda path: write_bad(path / "x.npz", images=np.array([[["a"]]])), "images have type <U1"),
    ],
)  # fmt: skip
def test_wrong_files(tmp_path, make, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "broken.npz").write_bytes(b"PK junk")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_bytes(b"junk")
    write(tmp_path / "mixed", pictures((4, 4), 2))
    write(tmp_path / "mixed" / "a", pictures((4, 4), 3))
    with pytest.raises(DataError, match=message):
        ImageData(path=str(make(tmp_path))).setup()


@pytest.mark.parametrize("arguments", [{"image_size": 8}, {"image_size": 0, "path": "x"}])
def test_size_without_a_folder(arguments):
    with pytest.raises(DataError, match="must be positive, and requires path="):
        ImageData(**arguments)


def test_size_with_an_npz(tmp_path):
    np.savez(tmp_path / "own.npz", images=pictures((4, 4)))
    with pytest.raises(DataError, match="image_size=8 requires a directory"):
        ImageData(path=str(tmp_path / "own.npz"), image_size=8).setup()
