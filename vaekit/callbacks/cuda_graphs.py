"""Records whole training steps as CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from vaekit.exceptions import ConfigError
from vaekit.models.cuda_graph import CUDAGraphStep


class CUDAGraphs(Callback):
    """Lets a GPU be given whole training steps (:class:`vaekit.models.cuda_graph.CUDAGraphStep`).

    On the CPU the same steps are made as usual. Hooks between a gradient and the optimizer's step are not called.

    Raises
    ------
    ConfigError
        At the start of a training by several devices, in mixed precision, with accumulated gradients, or by another
        optimizer than AdamW.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Make the step (Lightning's hook)."""
        asked = {
            "devices": (trainer.world_size, 1),
            "precision": (trainer.precision, "32-true"),
            "accumulate_grad_batches": (trainer.accumulate_grad_batches, 1),
        }
        for name, (found, needed) in asked.items():
            if found != needed:
                raise ConfigError(f"CUDAGraphs: trainer.{name} is {found!r}; steps are recorded with {needed!r} only")
        if not isinstance(trainer.optimizers[0], torch.optim.AdamW):
            raise ConfigError(
                f"CUDAGraphs: the optimizer is {type(trainer.optimizers[0]).__name__}; steps are recorded with "
                "AdamW only. Leave out one of the two callbacks"
            )
        pl_module.captured = CUDAGraphStep(pl_module, trainer.optimizers[0], trainer.gradient_clip_val)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Free what was recorded (Lightning's hook)."""
        pl_module.captured = None

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Free what was recorded (Lightning's hook)."""
        pl_module.captured = None
