"""The evaluation of a trained model on held-out data, as one record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.diagnostics.agreement import Agreement, label_agreement
from vaekit.diagnostics.importance import LikelihoodEstimate, importance_sampled_log_likelihood
from vaekit.diagnostics.usage import LatentUsage, latent_usage, posterior_summaries
from vaekit.models import VAE


class Evaluation(NamedTuple):
    """What :func:`evaluate_model` measured.

    Attributes
    ----------
    likelihood
        Log-likelihood and bound of each observation.
    use
        Active units and code usage.
    agreement
        ARI and NMI against labels, None where there are none.
    """

    likelihood: LikelihoodEstimate
    use: LatentUsage
    agreement: Agreement | None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures under the names of the command line's JSON, in nats an observation; None if undefined."""
        likelihood, found = self.likelihood, self.agreement
        figures = {
            "elbo": likelihood.elbo.mean().item(),
            "log_likelihood": likelihood.mean(),
            "log_likelihood_se": likelihood.standard_error(),
            "ess": likelihood.ess.mean().item(),
            "active_units": self.use.active_units,
            "ari": None if found is None else found.ari,
            "nmi": None if found is None else found.nmi,
            "accuracy": None if found is None else found.accuracy,
            "observations": len(likelihood.elbo),
            "num_samples": likelihood.num_samples,
            "used_codes": {name: self.use.used_codes(name) for name in self.use.code_usage},
        }
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}


def evaluate_model(model: VAE, batches: Iterable[Batch], num_samples: int = 1000) -> Evaluation:
    """Evaluate a model on batches.

    Parameters
    ----------
    model
        The trained model.
    batches
        Observations; gone through once, and none of them kept. Their labels, where they have any, serve for the
        agreement only.
    num_samples
        Importance samples an observation.
    """
    summaries: list[dict[str, Tensor]] = []
    labels: list[Tensor] = []

    def passing() -> Iterator[Batch]:
        for batch in batches:  # of each only what is a few numbers an observation is kept
            summaries.append(posterior_summaries(model, [batch]))
            if batch.label is not None:
                labels.append(batch.label.cpu())
            yield batch

    likelihood = importance_sampled_log_likelihood(model, passing(), num_samples)
    whole = {name: torch.cat([part[name] for part in summaries]) for name in model.latents}
    found = label_agreement(model, whole, torch.cat(labels).numpy()) if labels else None
    return Evaluation(likelihood, latent_usage(model, whole), found)
