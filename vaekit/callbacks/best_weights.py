"""Weights of the best validation, kept in memory."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from typing_extensions import override


class BestWeights(Callback):
    """Callback that keeps a copy of the weights with the best validation ELBO, as ``best.ckpt`` does on disk.

    Like :class:`vaekit.callbacks.RunCheckpoint`, it waits until the mixture prior of a
    :class:`vaekit.latents.MixtureComponent` has started.

    Attributes
    ----------
    step : int or None
        Number of training steps before the best validation; None before the first validation.
    elbo : float
        Its ELBO in nats per observation.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> best = vaekit.callbacks.BestWeights()
    >>> pl.Trainer(max_epochs=2, callbacks=[best], logger=False, enable_progress_bar=False).fit(model, data)
    >>> best.restore(model)
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.elbo = float("-inf")
        self._weights: dict[str, Tensor] = {}

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        elbo = trainer.callback_metrics.get("val/elbo")
        if trainer.sanity_checking or pl_module.held_priors or elbo is None or not elbo.item() > self.elbo:
            return
        self.step, self.elbo = trainer.global_step, elbo.item()
        self._weights = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}

    def restore(self, model: pl.LightningModule) -> None:
        """Load the weights into the model; without a validation, keep those of the last step."""
        if self.step is not None:
            model.load_state_dict(self._weights)
