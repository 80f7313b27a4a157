"""Section on the likelihood of held-out observations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.analysis.report.page import Element, Paragraph, Section, Table, Tile, counted, number
from vaekit.analysis.report.subject import Subject, spread
from vaekit.data.dataset import RowSubset, sequential_loader
from vaekit.diagnostics.evaluation import elbo_terms
from vaekit.diagnostics.importance import LikelihoodEstimate, importance_sampled_log_likelihood

BATCH_SIZE = 256
NUM_ELBO_SAMPLES = 10  # per observation, for the terms of the ELBO
LOW_ESS = 10.0  # effective importance samples below which the estimate is far below the log-likelihood


class HeldOut:
    """Likelihood of the test observations, or of 2,000 of them that are equally spaced in the data.

    Parameters
    ----------
    subject : Subject
        Model and data.

    Attributes
    ----------
    total : int
        Number of test observations.
    likelihood : LikelihoodEstimate
        Log-likelihood of each evaluated observation.
    terms : dict[str, Tensor], each of shape (observations,)
        Terms of the negative ELBO.
    """

    def __init__(self, subject: Subject) -> None:
        data, model = subject.data, subject.model
        assert data is not None
        rows = data.split_indices["test"]
        self.total = len(rows)
        subset = RowSubset(data.dataset, rows[spread(self.total)])
        batches = sequential_loader(subset, BATCH_SIZE)
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(subject.seed)
            self.terms = elbo_terms(model, batches, NUM_ELBO_SAMPLES)
            self.likelihood: LikelihoodEstimate = importance_sampled_log_likelihood(model, batches, subject.num_samples)

    @property
    def elbo(self) -> Tensor:
        """ELBO of each observation."""
        return -torch.stack(list(self.terms.values())).sum(0)


def likelihood_tile(held_out: HeldOut, noun: str) -> Tile:
    """Return the log-likelihood for the top of the page."""
    likelihood = held_out.likelihood
    error = number(likelihood.standard_error())
    return Tile("Held-out log-likelihood", number(likelihood.mean()), f"\N{PLUS-MINUS SIGN} {error} nats per {noun}")


def likelihood_section(subject: Subject, held_out: HeldOut) -> Section:
    """Return the section on the likelihood."""
    likelihood, terms = held_out.likelihood, held_out.terms
    evaluated = len(likelihood.elbo)
    rows = [
        _row("Log-likelihood (importance sampling)", likelihood.log_likelihood),
        _row("ELBO", held_out.elbo),
        _row("Reconstruction, \N{MINUS SIGN}E[log p(x | z)]", terms["reconstruction"]),
        *(_row(f"KL of {name.removeprefix('kl_')}", value) for name, value in terms.items() if name.startswith("kl_")),
    ]
    shown = counted(held_out.total, f"test {subject.noun}")
    if evaluated < held_out.total:
        shown = f"{evaluated:,} of {shown}, equally spaced"
    columns = ["Quantity", "Mean", "Standard error", "Lowest", "Highest"]
    elements: list[Element] = [
        Paragraph(
            f"In nats per {subject.noun}, over {shown}, which training did not use. The ELBO is minus the sum of "
            f"reconstruction and KL divergences. Standard errors are over {subject.noun}s."
        ),
        Table(f"Bounds on held-out {subject.noun}s", columns, rows),
        Paragraph(_samples_text(likelihood)),
    ]
    return Section("Held-out likelihood", elements)


def _row(name: str, values: Tensor) -> list[str]:
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return [name, *(number(x, 2) for x in (values.mean().item(), error, values.min().item(), values.max().item()))]


def _samples_text(likelihood: LikelihoodEstimate) -> str:
    effective = likelihood.ess.mean().item()
    text = (
        f"The log-likelihood has {likelihood.num_samples} importance samples per observation, of which {effective:.1f} "
        f"are effective; its Monte Carlo error is {number(likelihood.monte_carlo_error(), 2)} nats."
    )
    if effective < LOW_ESS and likelihood.num_samples >= LOW_ESS:
        text += (
            " So few effective samples mean that the estimate is a lower bound, and that more samples will raise it: "
            "vaekit evaluate CHECKPOINT --num_samples 5000."
        )
    return text
