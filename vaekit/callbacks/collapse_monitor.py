"""Monitor of posterior collapse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from vaekit.exceptions import ConfigError
from vaekit.latents import Latent

COLLAPSE_FRACTION = 0.5  # of the activity threshold: hysteresis against noise
MAX_LISTED = 12  # names per message


class PosteriorCollapseMonitor(Callback):
    r"""Callback that counts active dimensions and codes on the validation data, and warns if some collapse.

    A dimension :math:`i` of a continuous latent is active if the variance over the data of its posterior mean,
    :math:`\mathrm{Var}_x(E[z_i | x])`, exceeds 0.01 (Burda, Grosse and Salakhutdinov, 2016, Importance Weighted
    Autoencoders). A code is active if its :meth:`vaekit.latents.Latent.activity` exceeds 0.01. An active dimension or
    code that falls below half of the threshold has collapsed. A warning names it once, and again only if it was active
    in between. While the KL weight rises, dimensions come and go. Those that collapsed are named at the end of the
    warm-up. A warning at the end of training names the dimensions and codes that were never active. The monitor does
    not change the training, because fewer dimensions may have the higher likelihood.

    Logs ``active/<latent>``, the number of active dimensions, bits or codes.

    Parameters
    ----------
    every_n_validations : int
        Number of validations between counts.

    Raises
    ------
    ConfigError
        If ``every_n_validations`` is below 1.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> monitor = vaekit.callbacks.PosteriorCollapseMonitor(every_n_validations=1)
    >>> trainer = pl.Trainer(max_epochs=2, callbacks=[monitor], logger=False, enable_progress_bar=False)
    >>> trainer.fit(model, datamodule=data)
    >>> trainer.callback_metrics["active/y"]  # codes in use
    tensor(3.)
    """

    def __init__(self, every_n_validations: int = 5) -> None:
        if every_n_validations < 1:
            raise ConfigError(
                f"PosteriorCollapseMonitor: every_n_validations={every_n_validations} must be at least 1."
            )
        self.every_n_validations = every_n_validations
        self.alive: dict[str, list[int]] = {}
        self.never: dict[str, list[int]] = {}
        self._num_validations = 0
        self._moments: dict[str, Tensor] = {}

    @override
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._moments = {}
        if not trainer.sanity_checking:
            self._num_validations += 1

    @override
    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.sanity_checking or self._num_validations % self.every_n_validations:
            return
        with torch.no_grad():
            for name, q in pl_module.posteriors(batch).items():
                latent = pl_module.latents[name]
                if not latent.is_nuisance:  # a library size varies even without training
                    self._moments[name] = self._moments.get(name, 0) + latent.moments(latent.summary(q))

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        objective = pl_module.objective
        is_warming_up = objective.kl_weight(pl_module.global_step, pl_module.total_steps) < objective.beta
        collapsed, counts = [], []
        for name, moments in self._moments.items():
            latent = pl_module.latents[name]
            activity = latent.unit_activity(trainer.strategy.reduce(moments, reduce_op="sum"))
            is_active = activity > latent.active_threshold
            pl_module.log(f"active/{name}", is_active.sum().float(), sync_dist=True)
            active, alive = is_active.nonzero().flatten().tolist(), self.alive.get(name, [])
            threshold = COLLAPSE_FRACTION * latent.active_threshold
            dead = [] if is_warming_up else [i for i in alive if activity[i] < threshold]
            if dead:
                collapsed.append(describe(latent, name, dead))
                counts.append(f"{len(active)} of {len(activity)} in {name}")
            self.alive[name] = sorted({*alive, *active} - {*dead})
            self.never[name] = [i for i in self.never.get(name, range(len(activity))) if i not in {*alive, *active}]
        if collapsed:
            rank_zero_warn(
                f"{', '.join(collapsed)} collapsed by epoch {trainer.current_epoch}; active: {', '.join(counts)}. More "
                "free bits or a longer warm-up may prevent this. Compare the held-out log-likelihood."
            )

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        names = [describe(pl_module.latents[name], name, indices) for name, indices in self.never.items() if indices]
        if names:
            rank_zero_warn(f"Never active: {', '.join(names)}.")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"alive": dict(self.alive), "never": dict(self.never), "validations": self._num_validations}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.alive, self.never = dict(state["alive"]), dict(state["never"])
        self._num_validations = state["validations"]


def describe(latent: Latent, name: str, indices: Sequence[int]) -> str:
    """Return the names of dimensions, bits or codes: ``"dimension 3 of z"`` or ``"codes 1:0, 2:3 of y"``."""
    names = ", ".join(map(latent.unit_name, indices[:MAX_LISTED]))
    more = f" and {len(indices) - MAX_LISTED} more" if len(indices) > MAX_LISTED else ""
    return f"{latent.unit}{'s' * (len(indices) > 1)} {names}{more} of {name}"
