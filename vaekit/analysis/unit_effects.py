"""Effects of the units of an additive decoder on the expression of genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.markers import PSEUDO_FRACTION, compare_compositions
from vaekit.analysis.unit_values import code_values, unit_slices
from vaekit.batch import Batch
from vaekit.latents.activity import ACTIVE_PROBABILITY
from vaekit.models import VAE

LOW, HIGH, NUM_QUANTILES = 0.001, 0.999, 101  # ends of the range of a unit, and positions in it


class UnitEffect(NamedTuple):
    """Effect of one unit on all genes.

    Attributes
    ----------
    latent, unit : str
        Name of the latent, and of the unit in it.
    changes : dict of ndarray, shape (genes,)
        Log2 fold change at each end of the unit: ``"+"``, and for a dimension ``"-"``.
    loadings : ndarray, shape (genes,)
        Standard deviation of the log2 expression that is due to the unit, with the sign of its direction.
    strength : float
        Root mean square of the loadings, weighted by the composition.
    """

    latent: str
    unit: str
    changes: dict[str, np.ndarray]
    loadings: np.ndarray
    strength: float


def unit_effects(
    model: VAE, summaries: Mapping[str, Tensor], covariates: Tensor | None, pseudo_fraction: float = PSEUDO_FRACTION
) -> Iterator[UnitEffect]:
    """Yield the effect of each unit in use, with all others at the reference: the definition of ``loadings``.

    Parameters
    ----------
    model : VAE
        Model with an additive decoder, in evaluation mode.
    summaries : mapping of Tensor, each of shape (observations, size)
        Posterior means, or probabilities of the states, of each latent; or values of the prior.
    covariates : Tensor or None, shape (1, width)
        Covariates of the reference.
    pseudo_fraction : float
        Fraction added to the compositions.
    """
    decoder = _ReferenceDecoder(model, summaries, covariates, pseudo_fraction)
    for name in decoder.slices:
        if model.latents[name].state_shape is None:
            yield from _dimension_effects(decoder, name, summaries[name].double().numpy())
        else:
            yield from _state_effects(decoder, name, summaries[name])


class _ReferenceDecoder:
    """Decoder of one latent, with all others at the reference.

    It has the medians of dimensions, the most frequent states, and the mean proportions of topics.
    """

    def __init__(
        self, model: VAE, summaries: Mapping[str, Tensor], covariates: Tensor | None, pseudo_fraction: float
    ) -> None:
        self.model, self.pseudo_fraction, self.slices = model, pseudo_fraction, unit_slices(model)
        self.covariates = None if covariates is None else covariates.to(model.device)
        self.reference = torch.cat([_reference(model, name, summaries[name]) for name in self.slices])
        self.scale = self.compositions(next(iter(self.slices)), None)[0]

    def compositions(self, name: str, points: Tensor | None) -> np.ndarray:
        """Return compositions ``[points, genes]`` at units ``[points, size]`` of a latent; None means the reference."""
        units = self.reference[None] if points is None else self.reference.repeat(len(points), 1)
        if points is not None:
            units[:, self.slices[name]] = points.to(units)
        networks, device = self.model.networks, self.model.device
        covariates = None if self.covariates is None else self.covariates.expand(len(units), -1)
        batch = Batch(torch.zeros(len(units), self.model.features, device=device), covariates=covariates)
        logits = networks.likelihood.logits(networks.decode_units(units.to(device), covariates), batch)  # type: ignore[operator]
        return logits.double().softmax(-1).cpu().numpy()

    def effect(self, name: str, unit: str, changes: dict[str, np.ndarray], loadings: np.ndarray) -> UnitEffect:
        """Return the effect of a unit with its strength."""
        strength = float(np.sqrt((self.scale * loadings**2).sum()))
        return UnitEffect(name, unit, changes, loadings, strength)


def _reference(model: VAE, name: str, summary: Tensor) -> Tensor:
    """Return the reference of a latent, ``[size]``."""
    latent = model.latents[name]
    if latent.state_shape is None:
        return torch.from_numpy(np.median(summary.double().numpy(), axis=0)).float()
    if latent.is_proportions:
        return summary.double().mean(0).float()
    return code_values(latent, latent.state_probabilities(summary).double().mean(0).argmax(-1)[None])[0]


def _dimension_effects(decoder: _ReferenceDecoder, name: str, values: np.ndarray) -> Iterator[UnitEffect]:
    """Yield the effects of dimensions, from the quantiles of each over the observations."""
    reference = decoder.reference[decoder.slices[name]]
    start = np.log2(decoder.scale + decoder.pseudo_fraction)
    for unit, column in enumerate(values.T):
        grid = np.quantile(column, np.linspace(LOW, HIGH, NUM_QUANTILES))
        points = reference.repeat(NUM_QUANTILES, 1)
        points[:, unit] = torch.from_numpy(grid)
        expression = np.log2(decoder.compositions(name, points) + decoder.pseudo_fraction)
        sign = np.where((grid - grid.mean()) @ expression < 0, -1.0, 1.0)
        changes = {"+": expression[-1] - start, "-": expression[0] - start}
        unit_name = decoder.model.latents[name].unit_name(unit)
        yield decoder.effect(name, unit_name, changes, sign * expression.std(0))


def _state_effects(decoder: _ReferenceDecoder, name: str, summary: Tensor) -> Iterator[UnitEffect]:
    """Yield the effects of categories, bits or topics in use, each compared with the others of its variable."""
    latent = decoder.model.latents[name]
    usage = latent.state_probabilities(summary).double().mean(0)
    is_bits = latent.event_dim == 1 and not latent.is_proportions
    for variable, probability in enumerate(usage):
        states = torch.nonzero(probability > ACTIVE_PROBABILITY).flatten()
        if len(states) < 2:
            continue
        if latent.is_proportions:
            points = torch.eye(latent.size)[states]
        else:
            codes = usage.argmax(-1).repeat(len(states), 1)
            codes[:, variable] = states
            points = code_values(latent, codes)
        weights = probability[states].numpy()
        ratios = compare_compositions(decoder.compositions(name, points), weights, decoder.pseudo_fraction)[1]
        for state, weight, ratio in zip(states.tolist(), weights / weights.sum(), ratios, strict=True):
            unit = latent.unit_name(variable) if is_bits else latent.state_name(variable, state)
            if state or not is_bits:  # state 0 of a bit is the opposite of state 1
                yield decoder.effect(name, unit, {"+": ratio}, np.sqrt(weight * (1 - weight)) * ratio)
