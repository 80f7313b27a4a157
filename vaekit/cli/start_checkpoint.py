"""Checkpoint at the start of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaekit.exceptions import CheckpointError, ConfigError
from vaekit.models.checkpoint import read_checkpoint


def check_checkpoint(config: Any, directory: Path, command: str | None) -> int | None:
    """Check the checkpoint of a parsed configuration, and replace ``last`` by its path.

    Parameters
    ----------
    config : Namespace
        Configuration of the command, changed in place.
    directory : Path
        Run directory.
    command : str or None
        Name of the command, for the message.

    Returns
    -------
    int or None
        Number of training steps of the checkpoint if it belongs to the run directory, whose run is then resumed.

    Raises
    ------
    ConfigError
        If the configuration allows pickled objects.
    CheckpointError
        If the checkpoint cannot be read, or contains weights only.
    """
    if config.get("weights_only") is False:
        raise ConfigError("weights_only=False: pickled objects are never loaded. Omit it.")
    if config.get("ckpt_path") == "last":
        config.ckpt_path = str(directory / "last.ckpt")
    path = config.get("ckpt_path")
    if path is None:
        return None
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"ckpt_path: {error}") from error
    if Path(path).is_dir():
        raise CheckpointError(
            f"ckpt_path={path!r} was written by vaekit export and contains weights only. {command} needs the "
            "checkpoint itself."
        )
    config.weights_only = True
    is_resumed = Path(path).resolve().parent == directory.resolve()
    return int(checkpoint.get("global_step", 0)) if is_resumed else None
