"""Files of a run in Weights & Biases: checkpoints and the report, as artifacts. They work offline, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import WandbLogger

from vaekit._core.private_paths import find_directories, hide_directories
from vaekit.callbacks.history import read_run
from vaekit.cli.logger import complete_loggers, finish_run, relative_path, start_run, wandb_loggers
from vaekit.models.checkpoint import read_checkpoint
from vaekit.models.export import hide_data_directories

MODEL_FILE = "model.ckpt"  # in the artifact, as with Lightning
WITH_PATHS = ("callbacks", "datamodule_hyper_parameters")  # keys of a checkpoint


def take_over_checkpoints(loggers: Iterable[Any]) -> list[Any]:
    """Return the Weights & Biases loggers that upload checkpoints at the end, which Lightning then does not do.

    Lightning would upload the files with the directories of this machine in them. With ``log_model="all"``, it uploads
    each checkpoint when it is saved.
    """
    chosen = [logger for logger in wandb_loggers(loggers) if logger._log_model is True]
    for logger in chosen:
        logger._log_model = False
    return chosen


def log_checkpoints(loggers: Iterable[Any], directory: Path) -> None:
    """Upload ``best.ckpt`` and ``last.ckpt`` of a finished run as versions of the artifact ``model-<run id>``.

    The aliases are ``best``, ``last`` and ``latest``. Only the last one is uploaded if both are of the same step.

    Parameters
    ----------
    loggers : iterable of WandbLogger
        Result of :func:`take_over_checkpoints`.
    directory : Path
        The run directory.
    """
    for logger in loggers:
        steps, aliases = {}, {}
        for name in ("best", "last"):
            if (path := directory / f"{name}.ckpt").is_file():
                steps[name], aliases[name] = read_checkpoint(path)["global_step"], [name]
        if len(steps) == 2 and steps["best"] == steps["last"]:
            aliases = {"last": ["best", "last"]}
        for name, alias in aliases.items():
            path = _artifact_directory(logger.experiment, name) / MODEL_FILE
            torch.save(without_directories(read_checkpoint(directory / f"{name}.ckpt")), path)
            _log_artifact(logger.experiment, path, "model", alias, {"step": steps[name]})


def without_directories(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint without the directories of the training machine; names of files stay."""
    result, directories = dict(checkpoint), find_directories(checkpoint.get("callbacks", {}))
    for value in checkpoint.values():
        if isinstance(value, Mapping) and "fingerprint" in value:
            directories |= find_directories(value)
    for key, value in checkpoint.items():
        if key in WITH_PATHS:
            result[key] = hide_directories(value, directories)
        elif isinstance(value, Mapping) and "fingerprint" in value:  # the state of a data module
            result[key] = hide_data_directories(value)
    return result


def log_file(loggers: Iterable[Any], path: Path, kind: str) -> None:
    """Upload a text file if it exists, without the path of the home directory, as the artifact ``<kind>-<run id>``.

    Parameters
    ----------
    loggers : iterable of Logger
        Loggers of a run that has started; those that are not of Weights & Biases are ignored.
    path : Path
        The file, such as ``report.html``.
    kind : str
        Type of the artifact, such as ``"report"``.
    """
    for logger in wandb_loggers(loggers) if path.is_file() else ():
        copy = _artifact_directory(logger.experiment, kind) / path.name
        text, home = path.read_text(encoding="utf-8"), str(Path.home())
        copy.write_text(text.replace(home, "~") if len(home) > 1 else text, encoding="utf-8")
        _log_artifact(logger.experiment, copy, kind)


def attach_file(directory: Path, path: Path, kind: str) -> str | None:
    """Upload a file to the Weights & Biases run of a run directory, after its end.

    Parameters
    ----------
    directory : Path
        Run directory.
    path, kind : Path, str
        As in :func:`log_file`.

    Returns
    -------
    str or None
        Address of the run; for an offline run, the command that uploads the file. None if the run is not in Weights &
        Biases.
    """
    run = read_run(directory / "wandb" / "history.jsonl")
    if run is None:
        return None
    if run.get("entity") is None:  # a second offline run with the same id would replace the configuration of the first
        return f"Upload with: wandb artifact put --type {kind} --name {run['project']}/{kind}-{run['run_id']} {path}"
    logger = WandbLogger(
        save_dir=directory, id=run["run_id"], project=run["project"], entity=run["entity"], resume="must"
    )
    complete_loggers([logger], None, log_model=False)
    start_run(logger)
    log_file([logger], path, kind)
    return finish_run(logger)


def _artifact_directory(run: Any, name: str) -> Path:
    """Return a new directory for a file of an artifact, next to the files of the run.

    W&B would copy the file to the home directory, and an offline run would leave it there. W&B uploads the path, too,
    so it is relative if possible.
    """
    directory = relative_path(Path(run.dir).parent / "artifacts" / name)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _log_artifact(
    run: Any, path: Path, kind: str, aliases: list[str] | None = None, metadata: dict[str, Any] | None = None
) -> None:
    import wandb

    artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind, metadata=metadata)
    artifact.add_file(str(path), name=path.name, policy="immutable")
    run.log_artifact(artifact, aliases=aliases)
