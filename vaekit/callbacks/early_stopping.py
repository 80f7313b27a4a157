"""End of a run whose validation ELBO no longer improves."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from typing_extensions import override

from vaekit._core.announce import announce
from vaekit._core.components import Component


class ELBOEarlyStopping(Component, EarlyStopping):
    """Callback that ends training after a number of validations without a new best validation ELBO.

    A run that has ended this way also ends at once if it is resumed, unless it is resumed with more patience. The
    callback waits until the mixture prior of a :class:`vaekit.latents.MixtureComponent` has started, because the ELBO
    before does not count.

    Parameters
    ----------
    patience : int
        Number of validations.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> stopping = vaekit.callbacks.ELBOEarlyStopping(patience=1)
    >>> trainer = pl.Trainer(max_epochs=50, callbacks=[stopping], logger=False, enable_progress_bar=False)
    >>> trainer.fit(model, datamodule=data)
    >>> trainer.current_epoch < 50
    True
    """

    def __init__(self, patience: int = 20) -> None:
        super().__init__("val/elbo", mode="max", patience=patience, check_on_train_epoch_end=False)

    @override
    def _run_early_stopping_check(self, trainer: pl.Trainer) -> None:
        model: Any = trainer.lightning_module
        if not model.held_priors:
            super()._run_early_stopping_check(trainer)

    @property
    def _has_ended(self) -> bool:
        return self.wait_count >= self.patience

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state except for the patience, so that a resumed run may have a larger one."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End a resumed run that had ended before, without a step."""
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = trainer.should_stop or self._has_ended

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._has_ended:
            announce(
                trainer,
                f"Training ended at step {trainer.global_step}: {self.wait_count} validations without a new best ELBO.",
            )
