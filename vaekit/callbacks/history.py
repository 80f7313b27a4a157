"""Local copy of the logged metrics of a run, from which a resumed run completes its Weights & Biases run.

W&B buffers its output, and its offline run ends with the process. Each row is therefore also a line of
``wandb/history.jsonl`` in the run directory, which survives a killed process. A resumed run has the same W&B id, and
first logs the rows that W&B does not have.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from typing_extensions import override

from vaekit._core.atomic import atomic_write

RUN_ID = re.compile(r"[\w-]{1,64}")


class History(Logger):
    """Logger that appends each row to ``wandb/history.jsonl``.

    Parameters
    ----------
    directory : Path
        The run directory.
    wandb : WandbLogger
        Logger of the Weights & Biases run.
    steps : int, optional
        Training steps of the checkpoint that the run is resumed from; None for a new run.
    """

    def __init__(self, directory: Path, wandb: WandbLogger, steps: int | None = None) -> None:
        super().__init__()
        self.wandb, self.steps = wandb, steps
        self.path = directory / "wandb" / "history.jsonl"
        run_id, self.rows = (None, []) if steps is None else read_history(self.path)
        self.run_id = os.environ.get("WANDB_RUN_ID") or run_id or secrets.token_hex(4)
        self._file: Any = None

    @property
    @override
    def name(self) -> str | None:
        return None

    @property
    @override
    def version(self) -> str:
        return self.run_id

    @property
    @override
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def start(self) -> None:
        """Log the rows of the interrupted process that W&B does not have, and keep them in the file.

        An online W&B run reports the number of its rows and receives the others. Otherwise, W&B receives all rows up to
        the checkpoint, and training logs the later ones again.
        """
        num_known = int(getattr(self.wandb.experiment, "step", 0) or 0)
        if not num_known:
            self.rows = [row for row in self.rows if self.steps is None or row.get("step", 0) < self.steps]
        for row in self.rows[num_known:]:
            if "images" in row:
                images = [image for image in row["images"] if self._is_in_run(Path(image))]
                self.wandb.log_image(row["key"], images, step=row["step"])
            else:
                self.wandb.log_metrics(row["metrics"], row["step"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.rows:
            with atomic_write(self.path) as temporary:
                text = "".join(map(_line, [self._header(), *self.rows]))
                temporary.write_text(text, encoding="utf-8")
        self._open(has_header=bool(self.rows))

    def _is_in_run(self, image: Path) -> bool:
        """Return whether an image is a file of the run directory, because the history may come from somebody else."""
        return image.is_file() and image.resolve().is_relative_to(self.path.parent.parent.resolve())

    def _open(self, has_header: bool = False) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Line buffering: a killed process loses no complete row.
        self._file = self.path.open("a", buffering=1, encoding="utf-8")
        if not has_header:
            self._file.write(_line(self._header()))

    def _header(self) -> dict[str, Any]:
        """Return the identity of the W&B run; an offline run does not have an entity."""
        run = self.wandb.experiment
        return {"run_id": self.run_id, "project": self.wandb.name, "entity": getattr(run, "entity", None) or None}

    def _append(self, row: dict[str, Any]) -> None:
        if self._file is None:
            self._open()
        self._file.write(_line(row))

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._append({"step": step or 0, "metrics": {name: float(value) for name, value in metrics.items()}})

    @rank_zero_only
    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        """Append a row that refers to image files."""
        self._append({"step": step or 0, "key": key, "images": images})

    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Ignore the configuration, which a resumed run logs again."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def read_run(path: Path) -> dict[str, Any] | None:
    """Return the ``run_id``, ``project`` and ``entity`` of the last run in a file; None without a run."""
    run = None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith('{"run_id":'):
                with contextlib.suppress(ValueError):
                    run = json.loads(line)
    if run is None or not isinstance(run["run_id"], str) or not isinstance(run.get("project"), str):
        return None
    return run if RUN_ID.fullmatch(run["run_id"]) else None


def read_history(path: Path) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the id and the rows of the last run in a file, without incomplete lines; the id is None without a run."""
    run_id: str | None = None
    rows: list[dict[str, Any]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None, []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict):
            continue
        if isinstance(row.get("run_id"), str) and RUN_ID.fullmatch(row["run_id"]):
            run_id, rows = row["run_id"], []
        elif isinstance(row.get("step"), int) and (isinstance(row.get("metrics"), dict) or "images" in row):
            rows.append(row)
    return run_id, rows
