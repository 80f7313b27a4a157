"""Monitor of the noise of the gradient."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from vaekit.exceptions import ConfigError


class GradientNoiseMonitor(Callback):
    r"""Callback that logs variance and signal-to-noise ratio of the gradient at each latent's posterior head.

    ``gradient/<latent>/variance`` is the variance of the gradient of one step, summed over the parameters of the head.
    ``gradient/<latent>/snr`` is the norm of its mean over the root of that variance. Both use exponential moving
    averages

    .. math:: m = \sum_t w_t g_t, \quad v = \sum_t w_t \|g_t\|^2, \quad
              \mathrm{Var} = \frac{v - \|m\|^2}{1 - \sum_t w_t^2}, \quad
              \mathrm{SNR}^2 = \frac{\max(0, \|m\|^2 - \mathrm{Var} \sum_t w_t^2)}{\mathrm{Var}}

    and subtract the noise of a mean of few steps. The gradient is the one before clipping. Its noise comes from the
    choice of the mini-batch and from dropout as well as from the estimator (:func:`vaekit.gradient_report` isolates the
    latter), and from the drift of the mean over about ``every_n_steps / (1 - decay)`` steps. The averages of Adam do
    not replace these: they are of clipped gradients, and over 10 steps for the first moment but 1000 for the second.

    The metrics are logged at the end of each epoch.

    Parameters
    ----------
    every_n_steps : int
        Number of steps between gradients that are used.
    decay : float
        Weight of the previous averages, in (0, 1).

    Raises
    ------
    ConfigError
        If an argument is out of its range.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> monitor = vaekit.callbacks.GradientNoiseMonitor(every_n_steps=1)
    >>> trainer = pl.Trainer(
    ...     max_epochs=2, callbacks=[monitor], gradient_clip_val=100.0, logger=False, enable_progress_bar=False
    ... )
    >>> trainer.fit(model, datamodule=data)
    >>> "gradient/y/snr" in trainer.callback_metrics
    True
    """

    def __init__(self, every_n_steps: int = 10, decay: float = 0.95) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"GradientNoiseMonitor: every_n_steps={every_n_steps} must be at least 1.")
        if not 0 < decay < 1:
            raise ConfigError(f"GradientNoiseMonitor: decay={decay} must be between 0 and 1.")
        self.every_n_steps, self.decay = every_n_steps, decay
        self._heads: dict[str, list[Tensor]] = {}
        self._means: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._num_gradients = 0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for name, latent in pl_module.latents.items():
            head = [p for n, p in latent.named_parameters() if n.startswith("head") and p.requires_grad]
            if head:
                self._heads[name] = head
        self._means = {name: mean.to(pl_module.device) for name, mean in self._means.items()}
        self._squares = {name: square.to(pl_module.device) for name, square in self._squares.items()}

    @override
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step % self.every_n_steps:
            return
        with torch.no_grad():
            for name, head in self._heads.items():
                gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in head])
                square = gradient @ gradient
                if name not in self._means:
                    self._means[name], self._squares[name] = torch.zeros_like(gradient), torch.zeros_like(square)
                self._means[name].lerp_(gradient, 1 - self.decay)
                self._squares[name].lerp_(square, 1 - self.decay)
        self._num_gradients += 1

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._num_gradients > 1:
            pl_module.log_dict(self.metrics(), sync_dist=True)

    def metrics(self) -> dict[str, Tensor]:
        """Return the logged metrics, after at least two gradients."""
        total = 1 - self.decay**self._num_gradients  # sum of the weights, then the sum of their normalized squares
        squared = (1 - self.decay) / (1 + self.decay) * (1 - self.decay ** (2 * self._num_gradients)) / total**2
        metrics: dict[str, Tensor] = {}
        for name, mean in self._means.items():
            signal, power = (mean @ mean) / total**2, self._squares[name] / total
            variance = (power - signal).clamp_min(0) / (1 - squared)
            snr = ((signal - squared * variance).clamp_min(0) / variance.clamp_min(1e-30)).sqrt()
            metrics |= {f"gradient/{name}/variance": variance, f"gradient/{name}/snr": snr}
        return metrics

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._num_gradients, "means": dict(self._means), "squares": dict(self._squares)}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._num_gradients, self._means, self._squares = state["seen"], dict(state["means"]), dict(state["squares"])
