"""What a comparison of two groups of cells needs of each: sums over its cells, and nothing a cell long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.decoding import chunks, composition, draws, measured, set_batch
from vaekit.batch import Batch
from vaekit.data.dataset import BatchDataset
from vaekit.diagnostics.keyed_noise import number_repeats, observation_keys
from vaekit.models import VAE

TURNS = 50  # draws of a group's cells in each batch, beyond which a part of the batches serves for each draw
DECODED_BATCHES = 4  # in which a draw is decoded then
PSEUDOCOUNT = 0.5  # that an unseen gene is taken to have: the model's prediction is worth so much


@dataclass(frozen=True)
class GroupSums:
    """Sums over the cells of a group, float64.

    Attributes
    ----------
    cells
        Cells of each batch, ``[batches]``; one batch where the model knows none.
    counts, expected
        Observed counts, and those that the model expects in the cells' own batches, ``[batches, genes]``.
    variance
        Of the observed sum around the expected one, ``[batches, genes]``: what the likelihood says, or the squares of
        the residuals, whichever is larger.
    composition
        Mean over the cells of the composition of the observed genes, averaged over all batches that the model knows,
        ``[genes]``.
    nonzero, normalized
        Cells with a count, and the sum of counts scaled to 10,000 a cell, ``[genes]``.
    """

    cells: np.ndarray
    counts: np.ndarray
    expected: np.ndarray
    variance: np.ndarray
    composition: np.ndarray
    nonzero: np.ndarray
    normalized: np.ndarray


def sum_group(
    model: VAE,
    dataset: BatchDataset,
    rows: Tensor,
    batches: int,
    num_samples: int,
    batch_size: int,
    bar: object,
    seed: int = 0,
) -> GroupSums:
    """Sum over the cells ``rows``, with ``num_samples`` draws of the latents a cell; ``bar`` counts cells.

    The draws follow from the cells' content, not from their order: groups of the same cells have the same sums.
    """
    strata, genes = max(1, batches), model.features
    device = model.device
    by_batch = {
        key: torch.zeros(strata, genes, dtype=torch.float64, device=device)
        for key in ("counts", "expected", "squares", "variance")
    }
    whole = {
        key: torch.zeros(genes, dtype=torch.float64, device=device) for key in ("composition", "nonzero", "normalized")
    }
    cells = torch.zeros(strata, dtype=torch.float64, device=device)
    everywhere = len(rows) * num_samples * DECODED_BATCHES < TURNS * batches
    critic_input: dict[int, int] = {}
    for _, batch in chunks(model, dataset, rows, num_samples, batch_size):
        x = batch.x.double()
        keys = number_repeats(observation_keys(batch, seed), critic_input)
        values = draws(model, batch, num_samples, keys)
        seen = model.networks.observation(values, _with_measured_total(model, values, batch))
        mean, variance = seen.mean.double().mean(0), seen.variance.double().mean(0)
        if batch.observed is not None:
            mean, variance = mean * batch.observed, variance * batch.observed
        stratum = batch.covariates[:, :batches].argmax(1) if batches else x.new_zeros(len(x), dtype=torch.int64)  # type: ignore[index]
        cells.index_add_(0, stratum, cells.new_ones(len(x)))
        parts = {"counts": x, "expected": mean, "squares": (x - mean).square(), "variance": variance}
        for key, part in parts.items():
            by_batch[key].index_add_(0, stratum, part)
        count = batches if everywhere else min(batches, DECODED_BATCHES)
        whole["composition"] += _over_batches(model, values, batch, batches, count, keys)
        whole["nonzero"] += (x > 0).sum(0)
        whole["normalized"] += (x * (1e4 / x.sum(1, keepdim=True).clamp_min(1))).sum(0)
        bar.update(len(x))  # type: ignore[attr-defined]
    return GroupSums(
        cells=cells.cpu().numpy(),
        counts=by_batch["counts"].cpu().numpy(),
        expected=by_batch["expected"].cpu().numpy(),
        variance=torch.maximum(by_batch["variance"], by_batch["squares"]).cpu().numpy(),
        # finite logarithms, also for genes that were not measured
        composition=(whole["composition"] / len(rows)).clamp_min(torch.finfo(torch.float64).tiny).cpu().numpy(),
        nonzero=whole["nonzero"].cpu().numpy(),
        normalized=whole["normalized"].cpu().numpy(),
    )


def _over_batches(
    model: VAE, values: dict[str, Tensor], batch: Batch, batches: int, count: int, keys: np.ndarray
) -> Tensor:
    """Return the sum over cells of the composition averaged over batches, ``[genes]``.

    Each draw of each cell is decoded in ``count`` batches at equal distances, from one that follows from the key of the
    cell on: all of them, or in the mean over a large group as good as all.
    """
    places = [batch]
    if batches:
        num_samples = len(next(iter(values.values())))
        first = torch.from_numpy((keys % np.uint64(batches)).astype(np.int64)).to(batch.x.device)
        first = first + torch.arange(num_samples, device=batch.x.device)[:, None]
        places = [set_batch(batch, (first + step * batches // count) % batches, batches) for step in range(count)]
    parts = (measured(composition(model, values, place), batch).double().mean(0).sum(0) for place in places)
    return sum(parts) / len(places)  # type: ignore[return-value]


def _with_measured_total(model: VAE, values: dict[str, Tensor], batch: Batch) -> Batch:
    """Return cells that lack genes with the size factor at which the genes that they have sum to their total count.

    Theirs is the total divided by the fraction of the training counts that these genes had, for cells of every type. It
    does not affect a latent library size.
    """
    if batch.observed is None:
        return batch
    fraction = torch.where(batch.observed, composition(model, values, batch), 0).sum(-1, keepdim=True)
    return batch._replace(size_factor=batch.x.sum(-1, keepdim=True).clamp_min(1) / fraction)


class LogRatio(NamedTuple):
    """Log ratio of two groups' mean compositions.

    Attributes
    ----------
    estimate, error
        Natural logarithm and its standard error, ``[genes]``.
    shapes
        Effective counts of the two groups, with half a count of the model's prediction, ``[2, genes]``.
    """

    estimate: np.ndarray
    error: np.ndarray
    shapes: np.ndarray


def log_ratio(first: GroupSums, second: GroupSums) -> LogRatio:
    r"""Estimate the log ratio of the mean compositions of two groups, and its standard error.

    The model's own ratio is corrected by what it misses of the counts, batch by batch, so that an error of the
    model in the effect of a batch cancels:

    .. math::
        \hat\beta = \log\frac{\bar\rho_1}{\bar\rho_2} + \log\frac{r_1}{r_2}, \qquad
        r_k = \frac{\sum_b h_b\, X_{kb} / M_{kb}}{\sum_b h_b}, \qquad
        h_b = \frac{M_{1b} M_{2b}}{M_{1b} + M_{2b}}

    with the counts X that were observed in group k and batch b, and M that the model expects there: the rate ratio
    of Mantel and Haenszel with the expected counts as the time at risk. Where no batch has cells of both groups
    the weights are M, and nothing corrects the model's effect of the batches.

    Each r has the effective number of counts n = (its expectation)^2 / variance, gets half a count of the model's
    prediction, and the variance of the logarithm of a gamma variable of shape :math:`r n + 1/2`,
    :math:`\psi_1(r n + 1/2)`. For a handful of counts such a logarithm is far from normal: use the shapes.

    Notes
    -----
    Mantel and Haenszel (1959), Statistical aspects of the analysis of data from retrospective studies of disease;
    Greenland and Robins (1985), Estimation of a common effect parameter from sparse follow-up data.
    """
    from scipy.special import polygamma

    shared = (first.cells > 0) & (second.cells > 0)
    total = first.expected + second.expected
    common = np.divide(first.expected * second.expected, total, out=np.zeros_like(total), where=total > 0)
    common = common * shared[:, None]
    estimate = np.log(first.composition) - np.log(second.composition)
    shapes = np.empty((2, len(estimate)))
    for number, (sign, group) in enumerate(((1, first), (-1, second))):
        weight = common if shared.any() else group.expected
        per_count = np.divide(weight, group.expected, out=np.zeros_like(weight), where=group.expected > 0)
        expected = weight.sum(0)
        noise = (per_count**2 * group.variance).sum(0)
        effective = np.divide(expected**2, noise, out=np.zeros_like(noise), where=noise > 0)
        ratio = np.divide((per_count * group.counts).sum(0), expected, out=np.ones_like(noise), where=expected > 0)
        shape = ratio * effective + PSEUDOCOUNT
        estimate = estimate + sign * np.log(shape / (effective + PSEUDOCOUNT))
        shapes[number] = shape
    return LogRatio(estimate, np.sqrt(polygamma(1, shapes).sum(0)), shapes)
