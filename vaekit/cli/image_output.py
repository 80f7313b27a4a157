"""What the commands that write pictures of a trained model share: the images' shape, and where a picture goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vaekit.cli.overwriting import check_output
from vaekit.exceptions import CheckpointError, DataError

if TYPE_CHECKING:
    from vaekit.models import VAE


def image_shape(model: VAE, checkpoint: str) -> tuple[int, ...]:
    """Return channels, height and width of the images that a model was trained on.

    Raises
    ------
    CheckpointError
        If it was not trained on images.
    """
    shape = (model.data_registry or {}).get("image_shape")
    if shape is None:
        raise CheckpointError(f"{checkpoint} was not trained on images: it has no pictures to draw")
    return tuple(shape)


def picture_path(asked: str | None, overwrite: bool, folder: Path, stem: str) -> Path:
    """Return where a picture goes: where it was asked for, else the folder, under a name that is not taken.

    Raises
    ------
    DataError
        If writing there would lose something, or cannot work.
    """
    if asked is None:
        number, path = 1, folder / f"{stem}.png"
        while not overwrite and any(path.with_suffix(ending).exists() for ending in (".png", ".csv")):
            number += 1
            path = folder / f"{stem}-{number}.png"
    else:
        path = Path(asked)
        if path.suffix.lower() != ".png":
            raise DataError(f"the output {path} must end in .png")
    check_output(path, (), overwrite)
    return path
