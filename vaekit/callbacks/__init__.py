"""Lightning callbacks: checkpoints, progress, pictures, curves and watches of a training, SVRG and SAGA."""

from vaekit.callbacks.checkpoints import RunCheckpoint
from vaekit.callbacks.clipping_monitor import ClippedSteps
from vaekit.callbacks.collapse_monitor import Collapse
from vaekit.callbacks.cuda_graphs import CapturedSteps
from vaekit.callbacks.elbo_curve import BoundCurve
from vaekit.callbacks.figure_writer import Pictures
from vaekit.callbacks.gradient_noise_monitor import GradientNoise
from vaekit.callbacks.progress_bar import TrainingProgress
from vaekit.callbacks.terminate_on_non_finite import FiniteLoss
from vaekit.callbacks.variance_reduction import SAGATraining, SVRGTraining

__all__ = [
    "BoundCurve",
    "CapturedSteps",
    "ClippedSteps",
    "Collapse",
    "FiniteLoss",
    "GradientNoise",
    "Pictures",
    "RunCheckpoint",
    "SAGATraining",
    "SVRGTraining",
    "TrainingProgress",
]
