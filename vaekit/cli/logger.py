"""Weights & Biases logger of a run: online if this machine is logged in, else offline, without private data."""

from __future__ import annotations

import contextlib
import netrc
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vaekit.cli.foreign import wandb_server

PROJECT = "vaekit"
RUN_DIRECTORY = "__run_directory__"  # stands for trainer.default_root_dir in a logger's save_dir
SETTINGS = {  # those that the installed version of W&B has
    "console": "off",
    "init_timeout": 30.0,  # seconds, after which the run is logged offline
    "x_transaction_log_flush_interval": 1.0,  # seconds; a killed process loses the last 15 by default
    # Arguments and working directory of the command, the repository around it and its uncommitted changes are private.
    "program": "vaekit",
    "x_disable_meta": True,
    "disable_git": True,
    "disable_code": True,
}
SUMMARIES = {  # of metrics with a best value; others keep their last one
    **dict.fromkeys(("train/elbo", "val/elbo", "test/elbo"), "max,last"),
    **dict.fromkeys(("train/loss", "train/reconstruction", "val/reconstruction", "test/reconstruction"), "min,last"),
}


def logged_in() -> bool:
    """Return whether this machine has credentials for Weights & Biases, without a prompt or a request."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(wandb_server()).hostname or ""
    paths = [os.environ["NETRC"]] if os.environ.get("NETRC") else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for path in paths:
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def in_sweep() -> bool:
    """Return whether an agent of a Weights & Biases sweep has started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def wandb_loggers(loggers: Iterable[Any]) -> list[Any]:
    """Return the Weights & Biases loggers among the loggers of a trainer."""
    from pytorch_lightning.loggers import WandbLogger

    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


def default_logger(directory: Path) -> Any:
    """Return a Weights & Biases logger, for a run whose configuration does not name a logger."""
    from pytorch_lightning.loggers import WandbLogger

    return WandbLogger(save_dir=directory)


def place_loggers(configs: Any, directory: Path) -> None:
    """Change the parsed configuration of loggers: their files are in the run directory unless they set another one.

    An offline W&B logger receives ``mode="offline"`` instead of ``offline=True``, which Lightning does not allow
    together with ``log_model``.
    """
    for config in configs if isinstance(configs, list) else [configs]:
        if (arguments := getattr(config, "init_args", None)) is None:
            continue
        is_wandb = config.class_path.rpartition(".")[2] == "WandbLogger"
        if arguments.get("save_dir") == RUN_DIRECTORY or (is_wandb and arguments.get("save_dir") in (None, ".")):
            arguments.save_dir = str(directory)
        if is_wandb and arguments.get("offline"):
            arguments.offline = False
            config.dict_kwargs = {**(config.get("dict_kwargs") or {}), "mode": "offline"}


def complete_loggers(loggers: Iterable[Any], name: str | None, log_model: bool | None) -> None:
    """Complete the arguments of Weights & Biases loggers, so that they start without a prompt.

    Arguments of the logger and the environment variables of W&B take precedence, such as ``WANDB_MODE``,
    ``WANDB_PROJECT`` and ``WANDB_NAME``.

    Parameters
    ----------
    loggers : iterable of Logger
        Loggers of the trainer, before they start.
    name : str or None
        Name of the run; None for a run that has one.
    log_model : bool or None
        Whether the checkpoints are uploaded. None: the argument of the logger decides.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # must precede the import; finish_run prints the sync command
    for logger in wandb_loggers(loggers):
        arguments = logger._wandb_init
        arguments.pop("anonymous", None)  # wandb warns about this argument of Lightning, even if it is None
        arguments["settings"] = _settings(arguments.get("settings"))
        if not os.environ.get("WANDB_PROJECT") and logger._project == "lightning_logs":  # Lightning's default
            logger._project = arguments["project"] = PROJECT
        if logger._name is None and name is not None:
            logger._name = arguments["name"] = os.environ.get("WANDB_NAME", name)
        if arguments.get("mode") is None:  # W&B itself reads the variable only once per process
            arguments["mode"] = os.environ.get("WANDB_MODE") or (None if logged_in() else "offline")
        if log_model is not None:
            logger._log_model = log_model


def _settings(given: Any) -> Any:
    """Return the settings of a run; those that are given take precedence."""
    import wandb

    if isinstance(given, wandb.Settings):
        given = {name: getattr(given, name) for name in given.model_fields_set}
    known = {name: value for name, value in SETTINGS.items() if name in wandb.Settings.model_fields}
    return wandb.Settings(**{**known, **(given or {})})


def start_run(logger: Any) -> None:
    """Start a Weights & Biases run, offline if the server is not reachable and ``WANDB_MODE`` is not set."""
    import wandb

    try:
        run = logger.experiment
    except wandb.errors.CommError as error:
        if logger._wandb_init.get("mode") or isinstance(error, wandb.errors.AuthenticationError):
            raise
        reason = " ".join(str(error).split())
        print(f"warning: Weights & Biases is not reachable, so the run is logged offline: {reason}", file=sys.stderr)
        logger._wandb_init["mode"] = "offline"
        run = logger.experiment
    if (
        not in_sweep()
    ):  # whose optimizer reads its metric from the summary as a number, not as {"max": ..., "last": ...}
        for metric, summary in SUMMARIES.items():
            run.define_metric(metric, step_metric="trainer/global_step", step_sync=True, summary=summary)


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
    from vaekit.callbacks.history import History

    found = wandb_loggers(loggers)
    if len(found) != 1 or found[0]._experiment is not None:
        return loggers
    (logger,) = found
    history = History(directory, logger, num_steps)
    if logger._id is None:
        logger._id = logger._wandb_init["id"] = history.run_id
    else:
        history.run_id = logger._id
    return [*loggers, history]


def name_run(loggers: Iterable[Any], name: str) -> None:
    """Set the name of the Weights & Biases run, if there is one."""
    for logger in wandb_loggers(loggers):
        logger._name = logger._wandb_init["name"] = name


def group_runs(loggers: Iterable[Any], group: str | None, job_type: str | None = None) -> None:
    """Set group and type of the Weights & Biases run, unless its logger or an environment variable sets them."""
    for logger in wandb_loggers(loggers):
        for key, value, variable in (("group", group, "WANDB_RUN_GROUP"), ("job_type", job_type, "WANDB_JOB_TYPE")):
            if logger._wandb_init.get(key) is None and not os.environ.get(variable):
                logger._wandb_init[key] = value


def finish_run(logger: Any, exit_code: int = 0) -> str | None:
    """Finish a Weights & Biases run.

    Parameters
    ----------
    logger : Logger
        A logger of the run; loggers that are not of Weights & Biases, or have not started, are ignored.
    exit_code : int
        0 for a finished run, 255 for an interrupted one, else for a failed one.

    Returns
    -------
    str or None
        Address of the run, or the command that uploads it; None if the logger is ignored or disabled.
    """
    if not wandb_loggers([logger]) or logger._experiment is None:
        return None
    run = logger.experiment
    directory, address, offline = Path(run.dir).parent, getattr(run, "url", None), run.settings.mode == "offline"
    run.finish(exit_code=exit_code)
    logger._experiment = None  # a W&B run cannot be used after its end
    if offline:
        return f"Logged offline to Weights & Biases. Upload with: wandb sync {relative_path(directory)}"
    shutil.rmtree(directory / "artifacts", ignore_errors=True)  # copies that have been uploaded
    return f"Logged to Weights & Biases: {address}" if address else None


@contextlib.contextmanager
def marked_run(loggers: Iterable[Any], finishes: bool = True) -> Iterator[None]:
    """Mark the Weights & Biases runs as failed or interrupted if the block raises an error.

    Parameters
    ----------
    loggers : iterable of Logger
        Loggers of the run.
    finishes : bool
        Whether the runs end with the block, too, if it does not raise an error.
    """
    exit_code = 0
    try:
        yield
    except BaseException as error:
        exit_code = 255 if isinstance(error, KeyboardInterrupt | SystemExit) else 1
        raise
    finally:
        for line in [finish_run(logger, exit_code) for logger in loggers if finishes or exit_code]:
            if line is not None:
                print(line, file=sys.stderr)


def relative_path(path: Path) -> Path:
    """Return a path relative to the working directory if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def record_failure(message: str, exit_code: int = 2) -> None:
    """Create a failed run for a member of a sweep that ended before its logger started.

    Without it, the sweep would wait for the run.
    """
    from pytorch_lightning.loggers import WandbLogger

    logger = WandbLogger(save_dir=os.environ.get("WANDB_DIR", "."), notes=message)
    complete_loggers([logger], "failed", log_model=False)
    with contextlib.suppress(Exception):  # the error of the command itself is the one to report
        start_run(logger)
        finish_run(logger, exit_code)
