"""Means over the training steps of an epoch, computed when they are logged or stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

FOLD_EVERY = 50  # steps: tensors that are kept until then


class MetricAccumulator:
    """Bound, terms and other quantities of all steps since the last :meth:`take`, weighted by their rows.

    A step only hands its tensors over: sums and means of so small values would take as long as a layer, in each step.
    The sums of the steps are added one after another in float64, so that a training that was interrupted and resumed
    anywhere has the means of one that was not.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._sums: dict[str, float] = {}
        self._terms: set[str] = set()
        self._waiting: list[tuple[int, dict[str, Tensor | float]]] = []

    def update(self, terms: Mapping[str, Tensor], others: Mapping[str, Tensor | float]) -> None:
        """Take in a step.

        Parameters
        ----------
        terms
            Of the bound, in nats, each ``[batch]``.
        others
            Numbers that describe the step.
        """
        rows = len(next(iter(terms.values())))
        kept: dict[str, Tensor | float] = {name: value.detach() for name, value in terms.items()}
        for name, number in others.items():
            kept[name] = number.detach().clone() if isinstance(number, Tensor) else number  # temperatures move in place
        self._terms.update(terms)
        self._waiting.append((rows, kept))
        self.rows += rows
        if len(self._waiting) >= FOLD_EVERY:
            self._fold()

    def compute_and_reset(self) -> dict[str, float]:
        """Return ``elbo``, the terms and the others, averaged over all rows, and begin anew."""
        means = self.means()
        self.load_state_dict(MetricAccumulator().state_dict())
        return means

    def means(self) -> dict[str, float]:
        """Return what :meth:`take` returns, and continue."""
        self._fold()
        means = {name: total / max(1, self.rows) for name, total in self._sums.items()}
        return {"elbo": -sum(means[name] for name in means if name in self._terms), **means}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as plain data, for a checkpoint within an epoch."""
        self._fold()
        return {"rows": self.rows, "sums": dict(self._sums), "terms": sorted(self._terms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the sums of a checkpoint."""
        self.rows, self._sums, self._terms = state["rows"], dict(state["sums"]), set(state["terms"])
        self._waiting = []

    def _fold(self) -> None:
        """Add the waiting steps to the sums, in their order; a GPU is waited for once."""
        waiting, self._waiting = self._waiting, []
        tensors = [value.sum() for _, kept in waiting for value in kept.values() if isinstance(value, Tensor)]
        numbers = iter(torch.stack([t.to(tensors[0].device) for t in tensors]).tolist() if tensors else ())
        for rows, kept in waiting:
            for name, value in kept.items():
                number = next(numbers) if isinstance(value, Tensor) else value
                weighted = number if name in self._terms else rows * number
                self._sums[name] = self._sums.get(name, 0.0) + weighted


def mean_terms(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the bound as ``elbo`` and its terms, averaged over the batch, which may have no rows."""
    means = {name: value.sum() / max(1, value.numel()) for name, value in terms.items()}
    return {"elbo": -torch.stack(list(means.values())).sum(), **means}


def no_terms(latents: Iterable[str], like: Tensor) -> dict[str, Tensor]:
    """Return the terms of a batch without rows, which torch's distributions do not take.

    A process that has no rows left logs with the others, and for nothing.
    """
    return {name: like.new_zeros(0) for name in ("reconstruction", *(f"kl_{name}" for name in latents))}
