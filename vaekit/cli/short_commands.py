"""Completion of a short training command."""

from __future__ import annotations

import json
from pathlib import Path

from vaekit.cli.raw_config import LINKED
from vaekit.exceptions import ConfigError
from vaekit.models.checkpoint import read_checkpoint

RUN_FOLDER = "__run_folder__"  # stands for trainer.default_root_dir in a logger's save_dir


def fill_defaults(arguments: list[str]) -> list[str]:
    """Fill in what a short command leaves out.

    A file logger without a folder gets the run's. ``validate``, ``test`` and ``predict`` with a checkpoint and
    no configuration take both model and data from the checkpoint.
    """
    completed = list(arguments)
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--trainer.logger":
            value = value or (arguments[i + 1] if i + 1 < len(arguments) else "")
            if value.split(".")[-1] in ("CSVLogger", "TensorBoardLogger"):
                completed += ["--trainer.logger.save_dir", RUN_FOLDER]
    options = {argument.partition("=")[0] for argument in arguments}
    if arguments[0] != "fit" and "--ckpt_path" in options and not options & {"--config", "-c", "--help", "-h"}:
        completed = [completed[0], "--config", config_of(value_of(arguments, "--ckpt_path")), *completed[1:]]
    return completed


def value_of(arguments: list[str], option: str) -> str:
    """Return the value of an option, given as ``--option value`` or ``--option=value``."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            if equals:
                return value
            if i + 1 < len(arguments):
                return arguments[i + 1]
    raise ConfigError(f"{option} has no value")


def config_of(checkpoint_path: str) -> str:
    """Return, as JSON, the configuration of model and data that a checkpoint was trained with."""
    checkpoint = read_checkpoint(checkpoint_path)
    model = dict(checkpoint["hyper_parameters"])
    class_path = model.pop("_class_path")
    for size in LINKED:
        model.pop(size)  # linked from the data
    if not checkpoint.get("data_registry"):
        raise ConfigError(f"{checkpoint_path} does not say which data it was trained on: pass --config")
    data = dict(checkpoint["data_registry"]["config"])
    data["init_args"] = {key: value for key, value in data["init_args"].items() if key != "adata"}
    return json.dumps(
        {
            "model": {"class_path": class_path, "init_args": model},
            "data": data,
            "trainer": {"default_root_dir": str(Path(checkpoint_path).parent)},
        }
    )
