"""Sums over the cells of a group, and the log ratio of two groups' compositions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.decoding import Chunk, PosteriorSampler, composition, set_batch
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
    cells : ndarray, shape (batches,)
        Number of cells per batch; one batch if the model was trained without batches.
    counts, expected : ndarray, shape (batches, genes)
        Observed counts, and counts that the model expects in the cells' batches.
    variance : ndarray, shape (batches, genes)
        Variance of the observed sum: the sum of the likelihood's variances or of the squared residuals, whichever
        is larger.
    composition : ndarray, shape (genes,)
        Composition over the observed genes, averaged over the cells and over all batches of the model.
    nonzero, normalized : ndarray, shape (genes,)
        Number of cells with a count, and sum of the counts scaled to 10,000 per cell.
    """

    cells: np.ndarray
    counts: np.ndarray
    expected: np.ndarray
    variance: np.ndarray
    composition: np.ndarray
    nonzero: np.ndarray
    normalized: np.ndarray


def sum_group(sampler: PosteriorSampler, dataset: BatchDataset, index: Tensor, progress: bool = False) -> GroupSums:
    """Return sums over the cells at ``index``.

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
    by_gene = torch.zeros(3, model.features, **kwargs)  # type: ignore[call-overload]
    for chunk in sampler.chunks(dataset, index, None, "comparing", progress):
        batch, x = chunk.batch, chunk.batch.x.double()
        latents = sampler.sample(chunk)
        q = model.networks.observation(latents, _match_observed_total(model, latents, batch))
        mean, variance = q.mean.double().mean(0), q.variance.double().mean(0)
        if batch.observed is not None:
            mean, variance = mean * batch.observed, variance * batch.observed
        stratum = batch.covariates[:, :num_batches].argmax(1) if num_batches else x.new_zeros(len(x), dtype=torch.int64)  # type: ignore[index]
        cells.index_add_(0, stratum, cells.new_ones(len(x)))
        for total, values in zip(by_batch, (x, mean, (x - mean).square(), variance), strict=True):
            total.index_add_(0, stratum, values)
        by_gene[0] += _sum_compositions(model, latents, chunk, num_batches, num_decoded)
        by_gene[1] += (x > 0).sum(0)
        by_gene[2] += (x * (1e4 / x.sum(1, keepdim=True).clamp_min(1))).sum(0)
    counts, expected, squares, variances = by_batch.cpu().numpy()
    compositions, nonzero, normalized = by_gene.cpu().numpy()
    mean_composition = np.maximum(
        compositions / len(index), np.finfo(float).tiny
    )  # genes without counts have a finite log
    return GroupSums(
        cells.cpu().numpy(), counts, expected, np.maximum(variances, squares), mean_composition, nonzero, normalized
    )


def _sum_compositions(
    model: VAE, latents: dict[str, Tensor], chunk: Chunk, num_batches: int, num_decoded: int
) -> Tensor:
    """Return the sum over cells of the composition over observed genes, averaged over batches, ``[genes]``.

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
    sums = []
    for moved in batches:
        fraction = composition(model, latents, moved)
        if batch.observed is not None:
            fraction = torch.where(batch.observed, fraction, 0)
            fraction = fraction / fraction.sum(-1, keepdim=True)
        sums.append(fraction.double().mean(0).sum(0))
    return sum(sums) / len(batches)  # type: ignore[return-value]


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

    shared = (first.cells > 0) & (second.cells > 0)
    common = _divide(first.expected * second.expected, first.expected + second.expected) * shared[:, None]
    estimate = np.log(first.composition) - np.log(second.composition)
    shapes = np.empty((2, len(estimate)))
    for position, (sign, group) in enumerate(((1, first), (-1, second))):
        weight = common if shared.any() else group.expected
        per_count = _divide(weight, group.expected)
        expected = weight.sum(0)
        effective = _divide(expected**2, (per_count**2 * group.variance).sum(0))
        ratio = _divide((per_count * group.counts).sum(0), expected, default=1.0)
        shapes[position] = ratio * effective + PSEUDOCOUNT
        estimate = estimate + sign * np.log(shapes[position] / (effective + PSEUDOCOUNT))
    return LogRatio(estimate, np.sqrt(polygamma(1, shapes).sum(0)), shapes)


def _divide(numerator: np.ndarray, denominator: np.ndarray, default: float = 0.0) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full_like(numerator, default), where=denominator > 0)
