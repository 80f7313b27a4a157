"""The noise of the gradient during training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from vaekit.exceptions import ConfigError


class GradientNoiseMonitor(Callback):
    r"""Logs variance and signal-to-noise ratio of the gradient at each latent's posterior head.

    ``gradient/<latent>/variance`` is the variance of one step's gradient, summed over the parameters of the head, and
    ``gradient/<latent>/snr`` the norm of its mean over the root of that variance, from exponential moving averages

    .. math:: m = \sum_t w_t g_t, \quad v = \sum_t w_t \|g_t\|^2, \quad
              \mathrm{Var} = \frac{v - \|m\|^2}{1 - \sum_t w_t^2}, \quad
              \mathrm{SNR}^2 = \frac{\max(0, \|m\|^2 - \mathrm{Var} \sum_t w_t^2)}{\mathrm{Var}}

    which take off what a mean of few steps has of noise itself. What is measured is what the optimizer sees, before
    clipping: the noise of the choice of a mini-batch and of dropout as well as that of the estimator (for that alone
    see :func:`vaekit.gradient_report`), and the drift of the mean over some ``every / (1 - decay)`` steps. Adam's own
    averages are no substitute: those of the first and second moment run over 10 and 1000 steps, of clipped gradients.

    Logged at the end of each epoch, as the bound is.

    Parameters
    ----------
    every_n_steps
        Steps from one gradient that is looked at to the next.
    decay
        Share of the old averages that stays.

    Raises
    ------
    ConfigError
        If ``every`` is below 1 or ``decay`` not in (0, 1).
    """

    def __init__(self, every_n_steps: int = 10, decay: float = 0.95) -> None:
        if every_n_steps < 1 or not 0 < decay < 1:
            raise ConfigError(
                f"GradientNoiseMonitor: every_n_steps is {every_n_steps} (1 at least), decay {decay} (between 0 and 1)"
            )
        self.every_n_steps, self.decay = every_n_steps, decay
        self._heads: dict[str, list[Tensor]] = {}
        self._means: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Find the heads: a latent's own parameters, without those of its estimator (Lightning's hook)."""
        for name, latent in pl_module.latents.items():
            head = [p for n, p in latent.named_parameters() if n.startswith("head") and p.requires_grad]
            if head:
                self._heads[name] = head
        self._means = {name: mean.to(pl_module.device) for name, mean in self._means.items()}
        self._squares = {name: square.to(pl_module.device) for name, square in self._squares.items()}

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Take in a gradient (Lightning's hook, before clipping)."""
        if trainer.global_step % self.every_n_steps:
            return
        with torch.no_grad():
            for name, head in self._heads.items():
                flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in head])
                square = flat @ flat
                if name not in self._means:
                    self._means[name], self._squares[name] = torch.zeros_like(flat), torch.zeros_like(square)
                self._means[name].lerp_(flat, 1 - self.decay)
                self._squares[name].lerp_(square, 1 - self.decay)
        self._seen += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log (Lightning's hook)."""
        if self._seen > 1:
            pl_module.log_dict(self.figures(), sync_dist=True)  # the gradient is that of all processes already

    def figures(self) -> dict[str, Tensor]:
        """Return what is logged; needs at least two gradients."""
        total = 1 - self.decay**self._seen  # the weights' sum, and the sum of their squares once it is divided out
        squared = (1 - self.decay) / (1 + self.decay) * (1 - self.decay ** (2 * self._seen)) / total**2
        found = {}
        for name, mean in self._means.items():
            signal, power = (mean @ mean) / total**2, self._squares[name] / total
            variance = (power - signal).clamp_min(0) / (1 - squared)
            ratio = (signal - squared * variance).clamp_min(0) / variance.clamp_min(1e-30)
            found[f"gradient/{name}/variance"], found[f"gradient/{name}/snr"] = variance, ratio.sqrt()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the averages, so that a resumed run goes on with them."""
        return {"seen": self._seen, "means": dict(self._means), "squares": dict(self._squares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the averages of a checkpoint."""
        self._seen, self._means, self._squares = state["seen"], dict(state["means"]), dict(state["squares"])
