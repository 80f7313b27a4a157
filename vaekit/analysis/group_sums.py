"""Sums over the cells of a group, and the log ratio of two groups' compositions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.covariate_values import set_batch
from vaekit.analysis.decoding import Chunk, PosteriorSampler, composition
from vaekit.analysis.model_source import get_data_registry
from vaekit.batch import Batch
from vaekit.data.dataset import BatchDataset
from vaekit.models import VAE

DECODED_BATCHES = 4  # in which each sample of a large group is decoded
MIN_BATCH_SAMPLES = 50  # decoded samples per batch; fewer are decoded in all batches
PSEUDOCOUNT = 0.5  # weight of the model's prediction, in counts


@dataclass(frozen=True)
class GroupSums:
    """Sums over the cells of a group, float64.

    Attributes
    ----------
    batches, cells : ndarray, shape (strata,)
        Indices of the batches that have cells of the group, ascending, and number of cells in each; one stratum if the
        model was trained without batches.
    counts, expected : ndarray, shape (strata, genes)
        Observed counts, and counts that the model expects in the cells' batches.
    likelihood_variance, squared_residuals : ndarray, shape (strata, genes)
        Sum of the likelihood's variances, and of the squared differences between observed and expected counts.
    compositions, squared_compositions : ndarray, shape (genes,)
        Sum of the compositions over the observed genes, averaged over all batches of the model, and of their squares.
    nonzero, normalized : ndarray, shape (genes,)
        Number of cells with a count, and sum of the counts scaled to 10,000 per cell.
    """

    batches: np.ndarray
    cells: np.ndarray
    counts: np.ndarray
    expected: np.ndarray
    likelihood_variance: np.ndarray
    squared_residuals: np.ndarray
    compositions: np.ndarray
    squared_compositions: np.ndarray
    nonzero: np.ndarray
    normalized: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Variance of the observed sums: the likelihood's or the squared residuals, if larger, ``[strata, genes]``."""
        return np.maximum(self.likelihood_variance, self.squared_residuals)

    @property
    def composition(self) -> np.ndarray:
        """Mean composition, ``[genes]``; genes without counts have a finite logarithm."""
        return np.maximum(self.compositions / self.cells.sum(), np.finfo(float).tiny)

    def in_batches(self, batches: np.ndarray) -> GroupSums:
        """Return the group with the strata of some of its batches only."""
        rows = np.searchsorted(self.batches, batches)
        return replace(self, batches=batches, **{name: getattr(self, name)[rows] for name in PER_BATCH})


PER_BATCH = ("cells", "counts", "expected", "likelihood_variance", "squared_residuals")
PER_GROUP = ("compositions", "squared_compositions", "nonzero", "normalized")


def merge(parts: Sequence[GroupSums]) -> GroupSums:
    """Return the sums over the cells of several disjoint groups."""
    batches, stratum = np.unique(np.concatenate([part.batches for part in parts]), return_inverse=True)
    by_batch = {}
    for name in PER_BATCH:
        values = np.concatenate([getattr(part, name) for part in parts])
        by_batch[name] = np.zeros((len(batches), *values.shape[1:]), dtype=values.dtype)
        np.add.at(by_batch[name], stratum, values)
    return GroupSums(
        batches, **by_batch, **{name: np.sum([getattr(part, name) for part in parts], axis=0) for name in PER_GROUP}
    )


def sum_groups(
    sampler: PosteriorSampler, dataset: BatchDataset, groups: Sequence[np.ndarray], progress: bool = False
) -> list[GroupSums]:
    """Return sums over the cells of each group, given by their indices; a cell may be in several groups."""
    from tqdm.auto import tqdm

    total = sum(map(len, groups))
    with tqdm(total=total, desc="comparing", unit="cell", disable=not progress) as bar:
        return [sum_group(sampler, dataset, torch.from_numpy(index), bar.update) for index in groups]


def sum_group(
    sampler: PosteriorSampler, dataset: BatchDataset, index: Tensor, advance: Callable[[int], Any] = int
) -> GroupSums:
    """Return sums over the cells at ``index``, and call ``advance`` with the number of cells of each chunk.

    The samples follow from the content of the cells, so groups of the same cells have the same sums in any order.
    """
    model = sampler.model
    num_batches = len(get_data_registry(model)["batch_categories"])
    num_decoded, num_samples = min(num_batches, DECODED_BATCHES), len(index) * sampler.num_samples
    if num_samples * DECODED_BATCHES < MIN_BATCH_SAMPLES * num_batches:
        num_decoded = num_batches
    strata, kwargs = max(1, num_batches), {"dtype": torch.float64, "device": model.device}
    cells = torch.zeros(strata, **kwargs)  # type: ignore[call-overload]
    by_batch = torch.zeros(4, strata, model.features, **kwargs)  # type: ignore[call-overload]
    by_gene = torch.zeros(4, model.features, **kwargs)  # type: ignore[call-overload]
    for chunk in sampler.chunks(dataset, index, None, "comparing", progress=False):
        batch, x = chunk.batch, chunk.batch.x.double()
        latents = sampler.sample(chunk)
        q = model.networks.observation(latents, _match_observed_total(model, latents, batch))
        mean, variance = q.mean.double().mean(0), q.variance.double().mean(0)
        if batch.observed is not None:
            mean, variance = mean * batch.observed, variance * batch.observed
        stratum = batch.covariates[:, :num_batches].argmax(1) if num_batches else x.new_zeros(len(x), dtype=torch.int64)  # type: ignore[index]
        cells.index_add_(0, stratum, cells.new_ones(len(x)))
        for total, values in zip(by_batch, (x, mean, variance, (x - mean).square()), strict=True):
            total.index_add_(0, stratum, values)
        compositions = _mean_compositions(model, latents, chunk, num_batches, num_decoded)
        by_gene[0] += compositions.sum(0)
        by_gene[1] += compositions.square().sum(0)
        by_gene[2] += (x > 0).sum(0)
        by_gene[3] += (x * (1e4 / x.sum(1, keepdim=True).clamp_min(1))).sum(0)
        advance(len(x))
    num_cells = cells.cpu().numpy()
    batches = np.flatnonzero(num_cells)
    return GroupSums(batches, num_cells[batches], *by_batch.cpu().numpy()[:, batches], *by_gene.cpu().numpy())


def _mean_compositions(
    model: VAE, latents: dict[str, Tensor], chunk: Chunk, num_batches: int, num_decoded: int
) -> Tensor:
    """Return each cell's composition over the observed genes, averaged over samples and batches, ``[cells, genes]``.

    Each sample is decoded in ``num_decoded`` equally spaced batches. The first follows from the cell's key, so the mean
    over a large group covers all batches.
    """
    batch, batches = chunk.batch, [chunk.batch]
    if num_batches:
        num_samples, device = len(next(iter(latents.values()))), batch.x.device
        first = torch.from_numpy((chunk.keys % np.uint64(num_batches)).astype(np.int64)).to(device)
        first = first + torch.arange(num_samples, device=device)[:, None]
        offsets = (step * num_batches // num_decoded for step in range(num_decoded))
        batches = [set_batch(batch, (first + offset) % num_batches, num_batches) for offset in offsets]
    means = []
    for moved in batches:
        fraction = composition(model, latents, moved)
        if batch.observed is not None:
            fraction = torch.where(batch.observed, fraction, 0)
            fraction = fraction / fraction.sum(-1, keepdim=True)
        means.append(fraction.double().mean(0))
    return sum(means) / len(batches)  # type: ignore[return-value]


def _match_observed_total(model: VAE, latents: dict[str, Tensor], batch: Batch) -> Batch:
    """Return cells with the size factor at which the expected counts of the observed genes sum to the observed total.

    The size factor in ``batch`` assumes that unobserved genes have the same fraction of the counts in cells of every
    type. A latent library size does not depend on it.
    """
    if batch.observed is None:
        return batch
    fraction = torch.where(batch.observed, composition(model, latents, batch), 0).sum(-1, keepdim=True)
    return batch._replace(size_factor=batch.x.sum(-1, keepdim=True).clamp_min(1) / fraction)


class LogRatio(NamedTuple):
    """Log ratio of two groups' mean compositions.

    Attributes
    ----------
    estimate, error : ndarray, shape (genes,)
        Natural logarithm of the ratio, and its standard error.
    shapes : ndarray, shape (2, genes)
        Effective counts of the two groups, including half a count of the model's prediction.
    """

    estimate: np.ndarray
    error: np.ndarray
    shapes: np.ndarray


def log_ratio(first: GroupSums, second: GroupSums) -> LogRatio:
    r"""Estimate the log ratio of the mean compositions of two groups, and its standard error.

    The observed counts correct the model's ratio batch by batch, so an error in the effect of a batch cancels:

    .. math::
        \hat\beta = \log\frac{\bar\rho_1}{\bar\rho_2} + \log\frac{r_1}{r_2}, \qquad
        r_k = \frac{\sum_b h_b\, X_{kb} / M_{kb}}{\sum_b h_b}, \qquad
        h_b = \frac{M_{1b} M_{2b}}{M_{1b} + M_{2b}}

    with the observed counts X and the expected counts M of group k in batch b. This is the rate ratio of Mantel and
    Haenszel with the expected counts as the time at risk. If no batch has cells of both groups, the weights h are the
    expected counts, and the effect of the batches is not corrected.

    Each r has the effective number of counts n = (its expectation)^2 / variance and gets half a count of the model's
    prediction. Its logarithm has the variance of a log gamma variable of shape :math:`r n + 1/2`, which is
    :math:`\psi_1(r n + 1/2)`. The logarithm of few counts is far from normal; ``shapes`` describe its distribution.

    Notes
    -----
    Mantel and Haenszel (1959), Statistical aspects of the analysis of data from retrospective studies of disease;
    Greenland and Robins (1985), Estimation of a common effect parameter from sparse follow-up data.
    """
    from scipy.special import polygamma

    estimate = np.log(first.composition) - np.log(second.composition)
    shapes = np.empty((2, len(estimate)))
    for position, (sign, (ratio, effective)) in enumerate(zip((1, -1), count_ratios(first, second), strict=True)):
        shapes[position] = ratio * effective + PSEUDOCOUNT
        estimate = estimate + sign * np.log(shapes[position] / (effective + PSEUDOCOUNT))
    return LogRatio(estimate, np.sqrt(polygamma(1, shapes).sum(0)), shapes)


def have_common_batch(first: GroupSums, second: GroupSums) -> bool:
    """Return whether any batch has cells of both groups."""
    return len(np.intersect1d(first.batches, second.batches)) > 0


def count_ratios(first: GroupSums, second: GroupSums) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return each group's ratio of observed and expected counts, and its effective number of counts, ``[genes]``.

    The batches have the weights of :func:`log_ratio`.
    """
    if not have_common_batch(first, second):
        return count_ratio(first, first.expected), count_ratio(second, second.expected)
    batches = np.intersect1d(first.batches, second.batches)
    first, second = first.in_batches(batches), second.in_batches(batches)
    weight = divide(first.expected * second.expected, first.expected + second.expected)
    return count_ratio(first, weight), count_ratio(second, weight)


def count_ratio(group: GroupSums, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted ratio of observed and expected counts, and its effective number of counts, ``[genes]``."""
    per_count = divide(weight, group.expected)
    expected = weight.sum(0)
    effective = divide(expected**2, (per_count**2 * group.variance).sum(0))
    return divide((per_count * group.counts).sum(0), expected, default=1.0), effective


def divide(numerator: np.ndarray | float, denominator: np.ndarray, default: np.ndarray | float = 0.0) -> np.ndarray:
    """Return a quotient, and ``default`` where the denominator is not positive."""
    quotient = np.array(np.broadcast_to(default, np.broadcast_shapes(np.shape(numerator), denominator.shape)), float)
    return np.divide(numerator, denominator, out=quotient, where=denominator > 0)
