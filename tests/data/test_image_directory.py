"""Directories of images: splits, classes, hidden files, links, special files."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from PIL import Image

from vaekit.data import ImageData
from vaekit.exceptions import DataError


def write(root, *places, count=6, level=None):
    """Write a few images into each of some directories."""
    for number, place in enumerate(places):
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            levels = np.random.default_rng([number, i]).integers(0, 256, (4, 4), dtype=np.uint8)
            Image.fromarray(levels if level is None else np.full_like(levels, level)).save(root / place / f"{i:02}.png")


def data(root, **options):
    made = ImageData(path=str(root), binarization="none", **options)
    made.setup()
    return made


def sizes(made):
    return [len(rows) for rows in made.split_indices.values()]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "val", "test"), [24, 12, 12]),
        (("training", "validation", "testing"), [24, 12, 12]),
        (("Train", "valid", "TEST"), [24, 12, 12]),
        (("train", None, "test"), [22, 2, 12]),
        (("train", "val", None), [22, 12, 2]),
        (("train", None, None), [20, 2, 2]),
    ],
)
def test_directories_of_splits(tmp_path, names, expected):
    for name, count in zip(names, (12, 6, 6), strict=True):
        if name is not None:
            write(tmp_path, f"{name}/cat", f"{name}/dog", count=count)
    made = data(tmp_path)
    assert made.label_categories == ["cat", "dog"]
    assert sizes(made) == expected
    assert sum(sizes(data(tmp_path, split=(0.5, 0.25, 0.25)))) == sum(expected)  # an own split pools the official one


def test_each_split_holds_its_own_images(tmp_path):
    levels = {"train": 50, "val": 100, "test": 150}
    for split, level in levels.items():
        write(tmp_path, f"{split}/a", level=level)
    made = data(tmp_path)
    for split, level in levels.items():
        assert (next(iter(made.dataloader(split))).x * 255).round().unique().tolist() == [level]


def test_splits_without_classes_and_a_test_without_labels(tmp_path):
    write(tmp_path / "a", "train", "test", count=12)
    made = data(tmp_path / "a")
    assert (made.label_categories, sizes(made)) == ([], [11, 1, 12])
    write(tmp_path / "b", "train/x", "train/y", "test", count=12)
    made = data(tmp_path / "b")
    assert made.label_categories == ["x", "y"]
    assert set(made.labels[made.split_indices["test"].numpy()]) == {None}


def test_numbered_classes_are_in_order(tmp_path):
    write(tmp_path, *(str(i) for i in range(12)), count=3)
    assert data(tmp_path).label_categories == [str(i) for i in range(12)]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("train/cat", "train/dog", "cat"), r"train/ must not be next to cat/"),
        (("test", "control"), r"test/ must not be next to control/"),
        (("train/cat", "."), r"train/ must not be next to 00\.png"),
        (("train/a", "val/a", "validation/a"), "name one split twice"),
        (("val", "test"), "need a directory train"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "test, train are splits, but lie within cat, dog"),
        (("pets/cat", "pets/dog"), r"all images lie in directories of pets. Pass .*pets as path"),
        (("train/cat", "train", "test/cat"), r"train: 6 images lie in directories \(classes\) and 6 do not"),
    ],
)
def test_directories_that_are_neither(tmp_path, places, message):
    write(tmp_path, *places)
    with pytest.raises(DataError, match=message):
        data(tmp_path)


def test_hidden_and_left_behind_files_are_skipped(tmp_path):
    write(tmp_path, "cat", "dog", count=10)
    for place in ("._cat", "cat/.ipynb_checkpoints", "__MACOSX/cat", "dog/@eaDir/1.png"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.png").write_bytes(b"junk")
    for place in ("._x.png", ".DS_Store", "cat/._00.png", "cat/Thumbs.db", "dog/desktop.ini", "dog/.hidden.jpg"):
        (tmp_path / place).write_bytes(b"junk")
    made = data(tmp_path)
    assert (len(made.dataset), made.label_categories) == (20, ["cat", "dog"])


def test_a_class_without_readable_images_is_said(tmp_path):
    write(tmp_path, "cat", "dog", count=10)
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "1.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"bird without images .*skipped"):
        data(tmp_path)


def test_levels_of_twelve_bits_in_sixteen_are_said(tmp_path):
    for i in range(20):
        levels = np.random.default_rng(i).integers(0, 4096, (4, 4)).astype(np.uint16)
        Image.fromarray(levels).save(tmp_path / f"{i}.png")
    with pytest.warns(UserWarning, match="no image has a level above 16 of 255"):
        data(tmp_path)


def test_images_of_other_formats_are_skipped_and_said(tmp_path):
    write(tmp_path, "cat", "dog", count=10)
    for name in ("1.heic", "2.avif", "labels.csv", "3.pgm"):
        (tmp_path / "cat" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"3 files, such as 1\.heic, are images of other formats than \.png.* skipped"):
        assert len(data(tmp_path).dataset) == 20


def test_one_broken_file_names_itself(tmp_path):
    write(tmp_path, "cat", "dog", count=10)
    (tmp_path / "dog" / "07.png").write_bytes((tmp_path / "dog" / "07.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"dog/07\.png cannot be read as an image"):
        data(tmp_path)


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("pets/cat/x.png", "outside/00.png", r"x\.png is a link that leads out of"),
        ("pets/cat/x.png", "pets/../outside/00.png", r"x\.png is a link that leads out of"),
        ("pets/bird", "outside", "bird is a link to a directory"),
        ("pets/cat/loop", "pets", "loop is a link to a directory"),
        ("pets/cat/x.png", "pets/cat/x.png", r"x\.png is not a regular file"),
        ("pets/cat/x.png", "pets/cat/absent.png", r"x\.png is not a regular file"),
    ],
)
def test_links(tmp_path, link, target, message):
    write(tmp_path, "outside", "pets/cat", "pets/dog")
    (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(DataError, match=message):
        data(tmp_path / "pets")


def test_links_that_stay_inside(tmp_path):
    write(tmp_path, "pets/cat", "pets/dog", count=10)
    (tmp_path / "pets/dog/again.png").symlink_to("00.png")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "pets")  # the path of the user's own choice may be a link
    assert len(data(tmp_path / "elsewhere").dataset) == 21


@pytest.mark.parametrize("place", ["p/x.png", "p/sub/x.jpg", "images.npz"])
def test_named_pipes_do_not_hang(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / place)
    path = tmp_path / place.split("/")[0]
    errors = []

    def read():
        try:
            data(path)
        except DataError as error:
            errors.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(20)
    assert not reader.is_alive(), "it waits for somebody who writes"
    assert "not a regular file" in errors[0] or "is of another kind" in errors[0]
