"""Lightning callbacks: progress, checkpoints, pictures, the noise of the gradient."""

from vaekit.callbacks.checkpoints import RunCheckpoint
from vaekit.callbacks.gradient_noise import GradientNoise
from vaekit.callbacks.pictures import Pictures
from vaekit.callbacks.progress import TrainingProgress

__all__ = ["GradientNoise", "Pictures", "RunCheckpoint", "TrainingProgress"]
