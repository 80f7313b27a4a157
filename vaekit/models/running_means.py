"""Means over training steps, worked out when they are logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Bound, terms and other quantities of the steps since the last :meth:`take`, weighted by their rows.

    A step only hands its tensors over: sums and means of so small values would take as long as a layer, in each step.
    """

    def __init__(self) -> None:
        self._terms: dict[str, list[Tensor]] = {}
        self._others: dict[str, list[tuple[int, Tensor | float]]] = {}
        self.rows = 0

    def add(self, terms: Mapping[str, Tensor], others: Mapping[str, Tensor | float]) -> None:
        """Take in a step.

        Parameters
        ----------
        terms
            Of the bound, in nats, each ``[batch]``.
        others
            Numbers that describe the step.
        """
        rows = len(next(iter(terms.values())))
        for name, value in terms.items():
            self._terms.setdefault(name, []).append(value.detach())
        for name, number in others.items():
            kept = number.detach().clone() if isinstance(number, Tensor) else number  # a temperature goes on in place
            self._others.setdefault(name, []).append((rows, kept))
        self.rows += rows

    def take(self) -> dict[str, Any]:
        """Return ``elbo``, the terms and the others, averaged over all rows, and begin anew."""
        means: dict[str, Any] = mean_terms({name: torch.cat(values) for name, values in self._terms.items()})
        for name, steps in self._others.items():
            means[name] = sum(rows * number for rows, number in steps) / max(1, self.rows)
        self._terms, self._others, self.rows = {}, {}, 0
        return means


def mean_terms(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the bound as ``elbo`` and its terms, averaged over the batch, which may have no rows."""
    means = {name: value.sum() / max(1, value.numel()) for name, value in terms.items()}
    return {"elbo": -torch.stack(list(means.values())).sum(), **means}
