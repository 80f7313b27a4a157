"""Training steps as CUDA graphs. They have been tested on the CPU only, and never run on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.precision import Precision
from typing_extensions import override

from vaekit.callbacks.trainer_requirements import require_plain_steps
from vaekit.exceptions import ConfigError
from vaekit.models.cuda_graph import CUDAGraphStep


class CUDAGraphs(Callback):
    """Callback that replays whole training steps on a GPU (:class:`vaekit.models.cuda_graph.CUDAGraphStep`).

    The CPU computes the same steps without graphs. Hooks between the gradient and the optimizer's step are not called.

    Raises
    ------
    ConfigError
        At the start of training, if it uses several devices, mixed precision, accumulated gradients or another
        optimizer than AdamW.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> graphs = vaekit.callbacks.CUDAGraphs()
    >>> pl.Trainer(max_epochs=2, callbacks=[graphs], logger=False, enable_progress_bar=False).fit(model, data)
    """

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        require_plain_steps("CUDAGraphs", trainer)
        optimizer = trainer.optimizers[0]
        if not isinstance(optimizer, torch.optim.AdamW):
            raise ConfigError(
                f"CUDAGraphs: the optimizer is {type(optimizer).__name__}, and graphs support AdamW only. Remove one "
                "of the two callbacks."
            )
        self._precision = trainer.strategy.precision_plugin
        trainer.strategy.precision_plugin = _CompletedStep()
        pl_module.compute_step = CUDAGraphStep(pl_module, optimizer, trainer.gradient_clip_val)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if "compute_step" in vars(pl_module):
            del pl_module.compute_step
            trainer.strategy.precision_plugin = self._precision

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)


class _CompletedStep(Precision):
    """Precision plugin for steps that already contain the gradients and the optimizer's step."""

    @override
    def backward(self, *args: Any, **kwargs: Any) -> None:
        pass

    @override
    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        return closure()
