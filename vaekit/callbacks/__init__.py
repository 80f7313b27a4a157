"""Lightning callbacks: checkpoints, progress, pictures, curves and watches of a training, SVRG and SAGA."""

from vaekit.callbacks.bound_curve import BoundCurve
from vaekit.callbacks.captured_steps import CapturedSteps
from vaekit.callbacks.checkpoints import RunCheckpoint
from vaekit.callbacks.clipped_steps import ClippedSteps
from vaekit.callbacks.collapse import Collapse
from vaekit.callbacks.finite_loss import FiniteLoss
from vaekit.callbacks.finite_sums import SAGATraining, SVRGTraining
from vaekit.callbacks.gradient_noise import GradientNoise
from vaekit.callbacks.pictures import Pictures
from vaekit.callbacks.progress import TrainingProgress

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
