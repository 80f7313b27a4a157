"""Lines that tell what training decided, without damage to a progress bar."""

from __future__ import annotations

import sys

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from vaekit._core import process


def announce(trainer: pl.Trainer, line: str) -> None:
    """Print a line, once for all processes, above the progress bar; the command line hides Lightning's own lines."""
    if not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback
    if bar is not None:
        bar.print(line)
    elif process.is_command_line:
        print(line, file=sys.stderr)
    else:
        rank_zero_info(line)
