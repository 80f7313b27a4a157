"""Lightning callbacks: progress, checkpoints, pictures."""

from vaekit.callbacks.checkpoints import RunCheckpoint
from vaekit.callbacks.pictures import Pictures
from vaekit.callbacks.progress import TrainingProgress

__all__ = ["Pictures", "RunCheckpoint", "TrainingProgress"]
