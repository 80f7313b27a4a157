"""The default logger: Weights & Biases, online where the machine is logged in, else offline."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def logged_in() -> bool:
    """Tell whether this machine has credentials for Weights & Biases; asks neither a person nor a server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    candidates = [os.environ["NETRC"]] if os.environ.get("NETRC") else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for path in candidates:
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def wandb_logger(folder: Path, name: str) -> Any:
    """Return a Weights & Biases logger that keeps its files under ``folder`` and never prompts.

    ``WANDB_MODE`` (online, offline, disabled), ``WANDB_PROJECT`` and ``WANDB_NAME`` are respected.

    Parameters
    ----------
    folder
        The run's folder.
    name
        Name of the run, if ``WANDB_NAME`` is not set.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    os.environ.setdefault("WANDB_SILENT", "true")  # before the import; the sync line is printed at the run's end

    import wandb
    from pytorch_lightning.loggers import WandbLogger

    settings = wandb.Settings(console="off", init_timeout=60)
    if hasattr(settings, "x_transaction_log_flush_interval"):  # not in older versions
        settings.x_transaction_log_flush_interval = 1.0  # seconds; a killed process loses 15 of them by default
    logger = WandbLogger(
        save_dir=folder,
        name=os.environ.get("WANDB_NAME", name),
        project=os.environ.get("WANDB_PROJECT", "vaekit"),
        offline=mode == "offline",
        mode=mode,
        settings=settings,
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning passes what wandb warns about, whatever its value
    return logger


def continue_run(loggers: list[Any], folder: Path, steps: int | None) -> list[Any]:
    """Return the loggers of a run, with its history where Weights & Biases is one of them.

    Parameters
    ----------
    loggers
        The loggers, none of which has started.
    folder
        The run's folder.
    steps
        Training steps of the checkpoint that the run is resumed from; None for a new run.
    """
    from pytorch_lightning.loggers import WandbLogger

    from vaekit.callbacks.history import History

    ours = [logger for logger in loggers if isinstance(logger, WandbLogger)]
    if len(ours) != 1 or ours[0]._experiment is not None:
        return loggers
    history = History(folder, ours[0], steps)
    if ours[0]._id is None:
        ours[0]._id = ours[0]._wandb_init["id"] = history.run_id
    else:
        history.run_id = ours[0]._id
    return [*loggers, history]


def name_run(loggers: list[Any], name: str) -> None:
    """Give the Weights & Biases run of a comparison a name of its configuration, estimator and seed."""
    from pytorch_lightning.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger._name = logger._wandb_init["name"] = name


def finish_run(logger: Any) -> str | None:
    """Finish a run and say where it is: its address, or the command that uploads it; None for other loggers."""
    from pytorch_lightning.loggers import WandbLogger

    if not isinstance(logger, WandbLogger):
        return None
    run = logger.experiment
    folder, address, offline = Path(run.dir).parent, getattr(run, "url", None), run.settings.mode == "offline"
    run.finish()
    if offline:
        return f"Weights & Biases was offline; to upload this run: wandb sync {_relative(folder)}"
    return f"Weights & Biases: {address}" if address else None


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
