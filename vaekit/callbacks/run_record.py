"""Record of a run in its checkpoints: configuration, command, versions, warnings and time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from typing_extensions import override

from vaekit._core.urls import hide_credentials
from vaekit.diagnostics.package_versions import package_versions


class RunRecord(Callback):
    """Callback that stores in the checkpoints how a run was started and how it went.

    :func:`vaekit.analysis.report` reads it. A resumed run keeps the warnings and the time of the earlier processes.

    Parameters
    ----------
    warnings : list of str
        List of :func:`vaekit._core.warning_log.record_warnings`, which grows during the run.
    config : Mapping[str, Any], optional
        Complete configuration of the run as plain data.
    command : sequence of str
        Arguments of ``vaekit``; empty for a run from Python.

    Examples
    --------
    >>> from vaekit._core.warning_log import record_warnings
    >>> with record_warnings() as messages:
    ...     record = RunRecord(messages, command=["fit", "--config", "pbmc_mixed"])
    >>> record.state_dict()["finished"]
    False
    """

    def __init__(
        self, warnings: list[str], config: Mapping[str, Any] | None = None, command: Sequence[str] = ()
    ) -> None:
        self.warnings, self.config, self.command = warnings, config, hide_credentials(list(command))
        self.finished, self.device = False, ""
        self.total_steps: int | None = None
        self._earlier: dict[str, Any] = {"warnings": [], "seconds": 0.0}
        self._start: float | None = None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        steps = trainer.estimated_stepping_batches
        self.finished, self.total_steps = False, int(steps) if steps < float("inf") else None
        device = trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.device = name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"
        self._start = time.perf_counter()

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.finished = True

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        seconds = 0.0 if self._start is None else time.perf_counter() - self._start
        return {
            "config": self.config,
            "command": self.command,
            "versions": package_versions(),
            "warnings": list(dict.fromkeys([*self._earlier["warnings"], *self.warnings])),
            "seconds": self._earlier["seconds"] + seconds,
            "device": self.device,
            "total_steps": self.total_steps,
            "finished": self.finished,
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._earlier = {"warnings": list(state["warnings"]), "seconds": float(state["seconds"])}
