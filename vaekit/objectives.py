"""Training objectives of variational autoencoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.exceptions import ConfigError


class ELBO(Component, nn.Module):
    r"""The evidence lower bound, its KL divergences weighted and floored as asked.

    .. math:: \mathcal{L} = E_q[\log p(x | z)] - \beta_t \sum_l \max(\lambda, \mathrm{KL}_l)

    With the defaults it is the true bound. What is logged as ``elbo`` is always the true bound.

    Kingma and Welling (2014), Auto-Encoding Variational Bayes; Higgins et al. (2017), beta-VAE; Kingma et al. (2016),
    Improved Variational Inference with Inverse Autoregressive Flow (free bits); Sønderby et al. (2016), Ladder
    Variational Autoencoders (warm-up).

    Parameters
    ----------
    beta
        Weight of the KL divergences after the warm-up.
    warmup
        Share of all training steps over which the weight rises linearly from 0 to ``beta``, in 0..1.
    free_bits
        lambda: nats of KL divergence of each latent, averaged over the batch, that cost nothing more to use.

    Raises
    ------
    ConfigError
        If ``beta`` or ``free_bits`` is negative, or the warm-up would never reach its end.

    Examples
    --------
    >>> ELBO(warmup=0.5).kl_weight(step=25, total_steps=100)
    0.5
    """

    def __init__(self, beta: float = 1.0, warmup: float = 0.0, free_bits: float = 0.0) -> None:
        super().__init__()
        if beta < 0 or free_bits < 0:
            raise ConfigError(f"ELBO: beta is {beta} and free_bits {free_bits}; neither may be negative")
        if not 0 <= warmup <= 1:
            raise ConfigError(
                f"ELBO: warmup is {warmup}, a share of all steps in 0..1; above 1 the KL weight would never reach beta"
            )
        self.beta, self.warmup, self.free_bits = beta, warmup, free_bits

    def check_steps(self, total_steps: float) -> None:
        """Raise an error if a warm-up is asked for and the number of steps is not finite."""
        if self.warmup and not 0 < total_steps < float("inf"):
            raise ConfigError(
                f"ELBO: warmup={self.warmup} is a share of all training steps, whose number is {total_steps}; the KL "
                "weight would never reach its end: set trainer.max_epochs or trainer.max_steps"
            )

    def kl_weight(self, step: int, total_steps: float) -> float:
        """Return the weight of the KL divergences at a training step."""
        if not self.warmup:
            return self.beta
        return self.beta * min(1.0, step / (self.warmup * total_steps))

    def penalty(self, kl: Tensor, share: Tensor) -> Tensor:
        """Return the KL divergence ``[*rows, batch]`` of one latent with its free bits.

        Where its mean is below the floor, it is the floor, and has no gradient. ``share`` weighs the rows: it sums
        to 1 over them.
        """
        if not self.free_bits:
            return kl
        mean = (share * kl.detach()).sum() / kl.shape[-1]
        return torch.where(mean > self.free_bits, kl, self.free_bits)
