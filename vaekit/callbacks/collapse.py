"""A watch on latent units and codes that go out of use."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from vaekit.diagnostics.latents import ACTIVE_VARIANCE
from vaekit.exceptions import ConfigError

USED = 0.01  # mean probability of a code in use, as for LatentUse.used_codes
DEAD = 0.5  # share of a threshold below which something that was above it is dead, so that noise does not kill


class Collapse(Callback):
    r"""Counts the units and codes in use on the validation data, and warns of those that die.

    A unit :math:`i` of a continuous latent is in use while the variance over the data of its posterior mean,
    :math:`\mathrm{Var}_x(E[z_i | x])`, is above 0.01 (Burda, Grosse and Salakhutdinov, 2016, Importance Weighted
    Autoencoders); a code while its mean posterior probability is. One that was in use and has fallen below half of its
    threshold is dead: the warning names it, once, or again after it came back to life. Not using all units can be what
    the likelihood asks for, so nothing is done about it.

    Logs ``use/<latent>``, the number of units or codes in use.

    Parameters
    ----------
    every
        Validations from one count to the next.

    Raises
    ------
    ConfigError
        If ``every`` is below 1.
    """

    def __init__(self, every: int = 5) -> None:
        if every < 1:
            raise ConfigError(f"Collapse: every is {every}; it counts validations, 1 at least")
        self.every = every
        self.alive: dict[str, list[int]] = {}
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
        if trainer.sanity_checking or self._validations % self.every:
            return
        with torch.no_grad():
            for name, q in pl_module.posteriors(batch).items():
                summary = pl_module.latents[name].summary(q).double()
                moments = torch.stack([torch.ones_like(summary), summary, summary.square()]).sum(1)
                self._sums[name] = self._sums.get(name, 0) + moments

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log the numbers in use, and warn of what died (Lightning's hook)."""
        for name, sums in self._sums.items():
            count, total, squares = trainer.strategy.reduce(sums, reduce_op="sum")  # of all processes
            latent = pl_module.latents[name]
            mean = total / count
            level = mean if latent.discrete else squares / count - mean.square()
            threshold = USED if latent.discrete else ACTIVE_VARIANCE
            used = level > threshold
            pl_module.log(f"use/{name}", used.sum().float(), sync_dist=True)
            dead = [i for i in self.alive.get(name, []) if level[i] < DEAD * threshold]
            if dead:
                kind = "codes" if latent.discrete else "units"
                rank_zero_warn(
                    f"latent {name!r}: {kind} {', '.join(map(str, dead))} died by epoch {trainer.current_epoch}; "
                    f"{int(used.sum())} of {len(level)} {kind} are in use. More free bits or a longer warm-up keep "
                    f"them, if the held-out likelihood gains by it"
                )
            kept = [i for i in self.alive.get(name, []) if i not in dead]
            self.alive[name] = sorted({*kept, *used.nonzero().flatten().tolist()})

    def state_dict(self) -> dict[str, Any]:
        """Return what was in use, so that a resumed run goes on with it."""
        return {"alive": dict(self.alive), "validations": self._validations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the state of a checkpoint."""
        self.alive, self._validations = dict(state["alive"]), state["validations"]
