"""Lines that tell what training decided, without damage to a progress bar."""

from __future__ import annotations

import sys

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from vaekit._core import process


def announce(trainer: pl.Trainer, line: str) -> None:
    """Print a line, once for all processes, above the progress bar if there is one."""
    bar = trainer.progress_bar_callback
    if bar is None:
        announce_start(trainer, line)
    elif trainer.is_global_zero:
        bar.print(line)


def announce_start(trainer: pl.Trainer, line: str) -> None:
    """Print a line before the progress bar begins; the command line hides Lightning's own lines."""
    if process.is_command_line and trainer.is_global_zero:
        print(line, file=sys.stderr)
    elif not process.is_command_line:
        rank_zero_info(line)
