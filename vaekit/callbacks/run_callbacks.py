"""Callbacks of each training run."""

from __future__ import annotations

from pytorch_lightning.callbacks import Callback

from vaekit.callbacks.checkpoints import RunCheckpoint
from vaekit.callbacks.clipping_monitor import GradientClippingMonitor
from vaekit.callbacks.collapse_monitor import PosteriorCollapseMonitor
from vaekit.callbacks.figure_writer import FigureWriter
from vaekit.callbacks.progress_bar import TrainingProgressBar
from vaekit.callbacks.terminate_on_non_finite import TerminateOnNonFinite


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
