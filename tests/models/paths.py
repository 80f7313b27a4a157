"""Small sequential models, and their exact ELBO from a list of all paths."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit import SequentialVAE
from vaekit.batch import Batch
from vaekit.estimators import Critic, ScoreFunction
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE
from vaekit.models.objectives import ELBO
from vaekit.networks import MLP

from .tiny import FEATURES, counts


def critic(lam: float = 1.0, **kwargs) -> ScoreFunction:
    """Return a score function with a separate critic."""
    return ScoreFunction(critic=Critic(MLP([4])), lam=lam, **kwargs)


def sequential(estimator="auto", num_samples: int | None = 4, categories=(2, 3, 2), **kwargs) -> SequentialVAE:
    """Return a model of a few paths."""
    objective = kwargs.pop("objective", None) or ELBO(num_samples=num_samples)
    return SequentialVAE(
        FEATURES,
        NegativeBinomial(),
        categories=list(categories),
        hidden=[6],
        estimator=estimator,
        objective=objective,
        **kwargs,
    )


def cells(copies: int) -> Batch:
    """Return two cells, many times."""
    return Batch(*(None if f is None else f[:2].repeat_interleave(copies, 0) for f in counts()))


class Paths(NamedTuple):
    """Every path of the categories, with gradients; ``[paths, batch]``, float64 except the codes.

    Attributes
    ----------
    codes
        Categories of each path, int64 ``[paths, latents]``.
    log_x, log_p, log_q
        log p(x | z), log p(z) and log q(z | x), the latter two of each latent, ``[latents, paths, batch]``.
    """

    codes: Tensor
    log_x: Tensor
    log_p: Tensor
    log_q: Tensor

    def loss(self, kl_weight: float = 1.0) -> Tensor:
        """Return the negative bound, ``[batch]``, its divergences weighted."""
        log_q = self.log_q.sum(0)
        return (log_q.exp() * (kl_weight * (log_q - self.log_p.sum(0)) - self.log_x)).sum(0)

    def log_likelihood(self) -> Tensor:
        """Return log p(x), ``[batch]``."""
        return (self.log_x + self.log_p.sum(0)).logsumexp(0)


def list_paths(model: VAE, batch: Batch) -> Paths:
    """List the paths of a model whose latents are ``z1``, ``z2``, ..., each given those before it."""
    latents = [model.latents[f"z{number}"] for number in range(1, 1 + len(model.latents))]
    ranges = [torch.arange(latent.size) for latent in latents]
    codes = torch.cartesian_prod(*ranges).reshape(-1, len(latents))
    h = model.networks.encode(batch)
    cells, before, values, log_p, log_q = len(h), [], {}, [], []
    for place, latent in enumerate(latents):
        code = codes[:, place]
        if before:
            seen = torch.cat(before, -1)  # [paths, ancestors' categories]
            spread = seen[:, None].expand(-1, cells, -1)
            features = latent.joining(torch.cat([h.expand(len(codes), -1, -1), spread], -1))
            prior = latent.prior_network(seen)
        else:
            features, prior = h.expand(len(codes), -1, -1), latent.prior_logits.expand(len(codes), -1)
        q, p = latent.head(features).double().log_softmax(-1), prior.double().log_softmax(-1)
        log_q.append(q.gather(-1, code[:, None, None].expand(-1, cells, 1)).squeeze(-1))
        log_p.append(p.gather(-1, code[:, None]).expand(-1, cells))
        before.append(F.one_hot(code, latent.size).to(h.dtype))
        values[f"z{place + 1}"] = before[-1][:, None, None].expand(-1, cells, 1, -1)
    log_x = model.networks.observation(values, batch).log_prob(batch.x).double()
    return Paths(codes, log_x, torch.stack(log_p), torch.stack(log_q))
