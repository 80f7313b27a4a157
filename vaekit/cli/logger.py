"""Default logger of a run: Weights & Biases, online if this machine is logged in, else offline."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def logged_in() -> bool:
    """Return whether this machine has credentials for Weights & Biases, without a prompt or a request."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    paths = [os.environ["NETRC"]] if os.environ.get("NETRC") else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for path in paths:
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def wandb_logger(directory: Path, name: str) -> Any:
    """Return a Weights & Biases logger that never prompts.

    The environment variables ``WANDB_MODE`` (online, offline, disabled), ``WANDB_PROJECT`` and ``WANDB_NAME`` apply.

    Parameters
    ----------
    directory : Path
        Run directory, for the logger's files.
    name : str
        Name of the run if ``WANDB_NAME`` is not set.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    os.environ.setdefault("WANDB_SILENT", "true")  # must precede the import; finish_run prints the sync command

    import wandb
    from pytorch_lightning.loggers import WandbLogger

    settings = wandb.Settings(console="off", init_timeout=60)
    if "x_transaction_log_flush_interval" in wandb.Settings.model_fields:  # not in older versions
        settings.x_transaction_log_flush_interval = 1.0  # seconds; a killed process loses the last 15 by default
    logger = WandbLogger(
        save_dir=directory,
        name=os.environ.get("WANDB_NAME", name),
        project=os.environ.get("WANDB_PROJECT", "vaekit"),
        offline=mode == "offline",
        mode=mode,
        settings=settings,
    )
    logger._wandb_init.pop("anonymous", None)  # wandb warns about this argument of Lightning, even if it is None
    return logger


def continue_run(loggers: list[Any], directory: Path, num_steps: int | None) -> list[Any]:
    """Return the loggers of a run, with its history if one of them is Weights & Biases.

    Parameters
    ----------
    loggers : list of Logger
        Loggers that have not started.
    directory : Path
        Run directory.
    num_steps : int, optional
        Number of training steps of the checkpoint from which the run is resumed; None for a new run.
    """
    from pytorch_lightning.loggers import WandbLogger

    from vaekit.callbacks.history import History

    wandb_loggers = [logger for logger in loggers if isinstance(logger, WandbLogger)]
    if len(wandb_loggers) != 1 or wandb_loggers[0]._experiment is not None:
        return loggers
    logger = wandb_loggers[0]
    history = History(directory, logger, num_steps)
    if logger._id is None:
        logger._id = logger._wandb_init["id"] = history.run_id
    else:
        history.run_id = logger._id
    return [*loggers, history]


def name_run(loggers: list[Any], name: str) -> None:
    """Set the name of the Weights & Biases run, if there is one."""
    from pytorch_lightning.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger._name = logger._wandb_init["name"] = name


def group_runs(loggers: list[Any], group: str | None) -> None:
    """Set the group of the Weights & Biases run, unless its logger or ``WANDB_RUN_GROUP`` sets one."""
    from pytorch_lightning.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger) and group is not None and not os.environ.get("WANDB_RUN_GROUP"):
            logger._wandb_init.setdefault("group", group)


def finish_run(logger: Any) -> str | None:
    """Finish a Weights & Biases run and return its address, or the command that uploads it; None for other loggers."""
    from pytorch_lightning.loggers import WandbLogger

    if not isinstance(logger, WandbLogger):
        return None
    run = logger.experiment
    directory, address, offline = Path(run.dir).parent, getattr(run, "url", None), run.settings.mode == "offline"
    run.finish()
    if offline:
        path = directory.relative_to(Path.cwd()) if directory.is_relative_to(Path.cwd()) else directory
        return f"Logged offline to Weights & Biases. Upload with: wandb sync {path}"
    return f"Logged to Weights & Biases: {address}" if address else None
