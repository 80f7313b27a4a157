"""Callbacks of each training run."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.callbacks import Callback

from vaekit.callbacks.checkpoints import RunCheckpoint
from vaekit.callbacks.clipping_monitor import GradientClippingMonitor
from vaekit.callbacks.collapse_monitor import PosteriorCollapseMonitor
from vaekit.callbacks.figure_writer import FigureWriter
from vaekit.callbacks.progress_bar import TrainingProgressBar
from vaekit.callbacks.terminate_on_non_finite import TerminateOnNonFinite
from vaekit.exceptions import ConfigError


def run_callbacks(writes: bool = True, progress: bool = True) -> list[Callback]:
    """Return the callbacks of a run.

    Parameters
    ----------
    writes : bool
        Whether the run writes checkpoints and figures. The curves of the metrics are recorded in any case.
    progress : bool
        Whether to show a progress bar.
    """
    return [
        TerminateOnNonFinite(),
        GradientClippingMonitor(),
        *([RunCheckpoint(), FigureWriter()] if writes else [FigureWriter(figure="none")]),
        PosteriorCollapseMonitor(),
        *([TrainingProgressBar()] if progress else ()),
    ]


def add_defaults(configured: Any, defaults: list[Callback]) -> list[Callback]:
    """Return the configured callbacks, and the defaults except those of a class that is configured.

    Parameters
    ----------
    configured : Callback, list of Callback, or None
        Value of the argument ``callbacks`` of a trainer.
    defaults : list of Callback
        Callbacks of each run.

    Raises
    ------
    ConfigError
        If one of the configured ones is not a callback.
    """
    own = as_list(configured)
    for each in own:
        if not isinstance(each, Callback):
            raise ConfigError(f"callbacks={configured!r} must be a pytorch_lightning callback, or a list of them.")
    return own + [each for each in defaults if not any(isinstance(other, type(each)) for other in own)]


def as_list(value: Any) -> list[Any]:
    """Return the items of a list, or the only one; none of None."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
