"""Local copy of the logged rows of a run, from which a resumed run completes its Weights & Biases run.

W&B buffers its output, and its offline run ends with the process. Each row is therefore also a line of
``wandb/history.jsonl`` in the run directory, which survives a killed process. A resumed run has the same W&B id, and
first logs the rows that W&B does not have.
"""

from __future__ import annotations

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

from vaekit._core.atomic import atomic_write

_ID = re.compile(r"[\w-]{1,64}")


class History(Logger):
    """Logger that appends each row to ``wandb/history.jsonl``.

    Parameters
    ----------
    folder
        The run directory.
    wandb
        Logger of the Weights & Biases run.
    steps
        Training steps of the checkpoint that the run is resumed from; None for a new run.
    """

    def __init__(self, folder: Path, wandb: WandbLogger, steps: int | None = None) -> None:
        super().__init__()
        self.wandb = wandb
        self.path = folder / "wandb" / "history.jsonl"
        self.steps = steps
        run_id, self.rows = (None, []) if steps is None else read_history(self.path)
        self.run_id = os.environ.get("WANDB_RUN_ID") or run_id or secrets.token_hex(4)
        self._file: Any = None

    @property
    def name(self) -> str | None:
        """None: the file does not depend on a name."""
        return None

    @property
    def version(self) -> str:
        """Id of the Weights & Biases run."""
        return self.run_id

    @property
    def save_dir(self) -> str:
        """Directory of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def start(self) -> None:
        """Log the rows of the killed or interrupted part that W&B does not have, and keep them in the file.

        An offline run, or one that W&B does not know, gets all rows up to the checkpoint; the later ones are logged
        again by the training. Online, W&B counts its rows, and gets the rest.
        """
        known = int(getattr(self.wandb.experiment, "step", 0) or 0)
        if not known:
            self.rows = [row for row in self.rows if self.steps is None or row.get("step", 0) < self.steps]
        for row in self.rows[known:]:
            if "images" in row:
                images = [image for image in row["images"] if self._is_own(Path(image))]
                self.wandb.log_image(row["key"], images, step=row["step"])
            else:
                self.wandb.log_metrics(row["metrics"], row["step"])
        self._open(rewrite=True)

    def _is_own(self, image: Path) -> bool:
        """Return whether an image is a file of the run directory: a history may be somebody else's."""
        return image.is_file() and image.resolve().is_relative_to(self.path.parent.parent.resolve())

    def _open(self, rewrite: bool = False) -> Any:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if rewrite and self.rows:
            with atomic_write(self.path) as temporary:
                temporary.write_text("".join(map(_line, [{"run_id": self.run_id}, *self.rows])))
        self._file = self.path.open("a", buffering=1)  # by lines: each reaches the system when it is logged
        if not (rewrite and self.rows):
            self._file.write(_line({"run_id": self.run_id}))
        return self._file

    def _append(self, row: dict[str, Any]) -> None:
        (self._file or self._open()).write(_line(row))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        self._append({"step": step or 0, "metrics": {name: float(value) for name, value in metrics.items()}})

    @rank_zero_only
    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        """Append a row that refers to image files."""
        self._append({"step": step or 0, "key": key, "images": images})

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Ignore the configuration: a resumed run logs it again."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def read_history(path: Path) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the id and the rows of the last run in a file; the id is None if the file does not contain a run.

    A line that a killed process has not completed ends the rows.
    """
    run_id: str | None = None
    rows: list[dict[str, Any]] = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None, []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict):
            continue
        if isinstance(row.get("run_id"), str) and _ID.fullmatch(row["run_id"]):
            run_id, rows = row["run_id"], []
        elif isinstance(row.get("step"), int) and (isinstance(row.get("metrics"), dict) or "images" in row):
            rows.append(row)
    return run_id, rows
