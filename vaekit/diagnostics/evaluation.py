"""Evaluation of a model on held-out data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.diagnostics.agreement import Agreement, label_agreement
from vaekit.diagnostics.importance import LikelihoodEstimate, importance_sampled_log_likelihood
from vaekit.diagnostics.usage import LatentUsage, latent_usage, posterior_summaries
from vaekit.models import VAE
from vaekit.models.evaluation_mode import evaluation_mode


class Evaluation(NamedTuple):
    """Result of :func:`evaluate_model`.

    Attributes
    ----------
    likelihood : LikelihoodEstimate
        Log-likelihood and ELBO of each observation.
    use : LatentUsage
        Active dimensions and usage of codes.
    agreement : Agreement or None
        Agreement with labels; None without labels.

    Examples
    --------
    >>> import vaekit
    >>> evaluation = vaekit.diagnostics.evaluate_model(model, [batch], num_samples=10)
    >>> evaluation.use.units, len(evaluation.likelihood.elbo)
    (2, 64)
    """

    likelihood: LikelihoodEstimate
    use: LatentUsage
    agreement: Agreement | None

    def to_dict(self) -> dict[str, Any]:
        """Return the values of the command line's JSON, in nats per observation; None if undefined."""
        likelihood, agreement = self.likelihood, self.agreement
        values = {
            "elbo": likelihood.elbo.mean().item(),
            "log_likelihood": likelihood.mean(),
            "log_likelihood_se": likelihood.standard_error(),
            "ess": likelihood.ess.mean().item(),
            "active_units": self.use.active_units,
            **{name: None if agreement is None else getattr(agreement, name) for name in ("ari", "nmi", "accuracy")},
            "observations": len(likelihood.elbo),
            "num_samples": likelihood.num_samples,
            "used_codes": {name: self.use.used_codes(name) for name in self.use.code_usage},
        }
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def evaluate_model(model: VAE, batches: Iterable[Batch], num_samples: int = 1000) -> Evaluation:
    """Evaluate a model on mini-batches.

    Parameters
    ----------
    model : VAE
        Trained model.
    batches : Iterable[Batch]
        Observations. They are iterated over once and not stored. Their labels are used for the agreement only.
    num_samples : int
        Number of importance samples per observation.

    Examples
    --------
    >>> import vaekit
    >>> evaluation = vaekit.diagnostics.evaluate_model(model, data.test_dataloader(), num_samples=10)
    >>> evaluation.likelihood.mean() > evaluation.likelihood.elbo.mean().item()  # nats per cell
    True
    """
    parts: list[tuple[dict[str, Tensor], Tensor | None]] = []

    def summarize() -> Iterator[Batch]:
        for batch in batches:
            parts.append(_summaries(model, batch))
            yield batch

    likelihood = importance_sampled_log_likelihood(model, summarize(), num_samples)
    return _evaluation(model, likelihood, parts)


class BatchEvaluation(NamedTuple):
    """Evaluation of one mini-batch on the CPU, for :func:`join_evaluations`."""

    likelihood: LikelihoodEstimate
    summaries: dict[str, Tensor]
    label: Tensor | None


def evaluate_batch(model: VAE, batch: Batch, num_samples: int) -> BatchEvaluation:
    """Evaluate a model on one mini-batch that is not empty."""
    return BatchEvaluation(importance_sampled_log_likelihood(model, [batch], num_samples), *_summaries(model, batch))


def join_evaluations(model: VAE, parts: Sequence[BatchEvaluation]) -> Evaluation:
    """Return the evaluation of the observations of all mini-batches, in the order of ``parts``."""
    bounds, elbos, sizes = (torch.cat(column) for column in zip(*(part.likelihood[:3] for part in parts), strict=True))
    likelihood = LikelihoodEstimate(bounds, elbos, sizes, parts[0].likelihood.num_samples)
    return _evaluation(model, likelihood, [part[1:] for part in parts])


def _summaries(model: VAE, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the posterior summaries of a mini-batch, and its labels."""
    return posterior_summaries(model, [batch]), None if batch.label is None else batch.label.cpu()


def _evaluation(
    model: VAE, likelihood: LikelihoodEstimate, parts: Sequence[tuple[dict[str, Tensor], Tensor | None]]
) -> Evaluation:
    summaries = {name: torch.cat([summary[name] for summary, _ in parts]) for name in model.latents}
    labels = [label for _, label in parts if label is not None]
    agreement = label_agreement(model, summaries, torch.cat(labels).numpy()) if labels else None
    return Evaluation(likelihood, latent_usage(model, summaries), agreement)


def elbo_terms(model: VAE, batches: Iterable[Batch], num_samples: int = 10) -> dict[str, Tensor]:
    r"""Estimate the terms of the negative ELBO of each observation, in nats.

    .. math:: -\mathrm{ELBO}(x) = -E_{q(z | x)}[\log p(x | z)] + \sum_l \mathrm{KL}_l(x)

    Parameters
    ----------
    model : VAE
        Trained model. It is in evaluation mode during the call.
    batches : Iterable[Batch]
        Observations.
    num_samples : int
        Number of evaluations that are averaged, each with new samples of torch's generator.

    Returns
    -------
    dict[str, Tensor], each of shape (observations,)
        ``reconstruction`` and ``kl_<latent>`` in float64, on the CPU.
    """
    parts: list[dict[str, Tensor]] = []
    with evaluation_mode(model):
        for batch in batches:
            batch = batch.to(model.device)
            terms = [model.loss(batch).terms for _ in range(num_samples)]
            parts.append(
                {name: torch.stack([each[name] for each in terms]).double().mean(0).cpu() for name in terms[0]}
            )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
