"""A watch on latent units and codes that go out of use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from vaekit.exceptions import ConfigError
from vaekit.latents import Latent

DEAD = 0.5  # share of a threshold below which something that was above it is dead, so that noise does not kill
LISTED = 12  # numbers in a message


class PosteriorCollapseMonitor(Callback):
    r"""Counts the units and codes in use on the validation data, and warns of those that die.

    A unit :math:`i` of a continuous latent is in use while the variance over the data of its posterior mean,
    :math:`\mathrm{Var}_x(E[z_i | x])`, is above 0.01 (Burda, Grosse and Salakhutdinov, 2016, Importance Weighted
    Autoencoders); a code while its mean posterior probability is and the data explain more than 1 % of its variance,
    if its variable takes another one as well (:meth:`vaekit.latents.Latent.activity`). One that was in use and
    has fallen below half of its threshold is dead: the warning names it, once, or again after it came back to life.
    While the KL weight rises, units come and go; those that the warm-up has cost are named at its end. At the end of
    training one line names all units and codes that never were in use. Not using all units can be what the likelihood
    asks for, so nothing is done about it.

    Logs ``active/<latent>``, the number of units, bits or codes in use.

    Parameters
    ----------
    every_n_validations
        Validations from one count to the next.

    Raises
    ------
    ConfigError
        If ``every`` is below 1.
    """

    def __init__(self, every_n_validations: int = 5) -> None:
        if every_n_validations < 1:
            raise ConfigError(
                f"Collapse: every_n_validations is {every_n_validations}; it counts validations, 1 at least"
            )
        self.every_n_validations = every_n_validations
        self.alive: dict[str, list[int]] = {}
        self.never: dict[str, list[int]] = {}
        self._validations = 0
        self._sums: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begin a count, if it is time for one (Lightning's hook)."""
        self._sums = {}
        if not trainer.sanity_checking:
            self._validations += 1

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take in a batch (Lightning's hook)."""
        if trainer.sanity_checking or self._validations % self.every_n_validations:
            return
        with torch.no_grad():
            for name, q in pl_module.posteriors(batch).items():
                latent = pl_module.latents[name]
                if not latent.is_nuisance:  # a library size varies whether the model learns or not
                    self._sums[name] = self._sums.get(name, 0) + latent.moments(latent.summary(q))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log the numbers in use, and warn of those that died (Lightning's hook)."""
        objective = pl_module.objective
        rising = objective.kl_weight(pl_module.global_step, pl_module._total_steps) < objective.beta
        died, left = [], []
        for name, sums in self._sums.items():
            latent = pl_module.latents[name]
            level = latent.unit_activity(trainer.strategy.reduce(sums, reduce_op="sum"))  # of all processes
            threshold = latent.active_threshold
            used = level > threshold
            pl_module.log(f"active/{name}", used.sum().float(), sync_dist=True)
            alive = self.alive.get(name, [])
            dead = [] if rising else [i for i in alive if level[i] < DEAD * threshold]
            if dead:
                died.append(describe(latent, name, dead))
                left.append(f"{name} {int(used.sum())} of {len(level)}")
            lives = used.nonzero().flatten().tolist()
            self.alive[name] = sorted({*alive, *lives} - {*dead})
            self.never[name] = [i for i in self.never.get(name, range(len(level))) if i not in {*alive, *lives}]
        if died:
            rank_zero_warn(
                f"{', '.join(died)} died by epoch {trainer.current_epoch}; in use: {', '.join(left)}. More free bits "
                "or a longer warm-up keep them, if the held-out likelihood gains by it"
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Name the units and codes that never were in use (Lightning's hook)."""
        names = [describe(pl_module.latents[name], name, unused) for name, unused in self.never.items() if unused]
        if names:
            rank_zero_warn(f"never in use: {', '.join(names)}")

    def state_dict(self) -> dict[str, Any]:
        """Return the units and codes in use and never in use, so that a resumed run keeps tracking them."""
        return {"alive": dict(self.alive), "never": dict(self.never), "validations": self._validations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.alive, self.never = dict(state["alive"]), dict(state.get("never", {}))
        self._validations = state["validations"]


def describe(latent: Latent, name: str, indices: Sequence[int]) -> str:
    """Return the names of dimensions, bits or codes: ``"dimension 3 of z"`` or ``"codes 1:0, 2:3 of y"``."""
    names = ", ".join(map(latent.unit_name, indices[:LISTED]))
    more = f" and {len(indices) - LISTED} more" if len(indices) > LISTED else ""
    return f"{latent.unit}{'s' * (len(indices) > 1)} {names}{more} of {name}"
