"""Lightning callbacks: checkpoints, progress, figures, monitors, the record of a run, and training by SVRG and SAGA."""

from vaekit.callbacks.best_weights import BestWeights
from vaekit.callbacks.checkpoints import RunCheckpoint
from vaekit.callbacks.clipping_monitor import GradientClippingMonitor
from vaekit.callbacks.collapse_monitor import PosteriorCollapseMonitor
from vaekit.callbacks.cuda_graphs import CUDAGraphs
from vaekit.callbacks.early_stopping import ELBOEarlyStopping
from vaekit.callbacks.elbo_curve import ELBOCurve
from vaekit.callbacks.figure_writer import FigureWriter
from vaekit.callbacks.gradient_noise_monitor import GradientNoiseMonitor
from vaekit.callbacks.progress_bar import TrainingProgressBar
from vaekit.callbacks.run_record import RunRecord
from vaekit.callbacks.terminate_on_non_finite import TerminateOnNonFinite
from vaekit.callbacks.variance_reduction import SAGATraining, SVRGTraining

__all__ = [
    "BestWeights",
    "CUDAGraphs",
    "ELBOCurve",
    "ELBOEarlyStopping",
    "FigureWriter",
    "GradientClippingMonitor",
    "GradientNoiseMonitor",
    "PosteriorCollapseMonitor",
    "RunCheckpoint",
    "RunRecord",
    "SAGATraining",
    "SVRGTraining",
    "TerminateOnNonFinite",
    "TrainingProgressBar",
]
