"""Thinning of the encoder's counts: its distribution, and that only the encoder in training sees it."""

import math

import pytest
import torch
from torch.distributions import Binomial

from vaekit.batch import Batch, CSREntries
from vaekit.exceptions import ConfigError
from vaekit.likelihoods import NegativeBinomial
from vaekit.likelihoods.counts.thinning import thinned_log_counts

ROWS = 40_000
LIMIT = 4.5  # |z|, a false alarm in 0.001 % of the comparisons


def cells(row: list[float], sparse: bool) -> Batch:
    x = torch.tensor(row, dtype=torch.float32).repeat(ROWS, 1)
    if not sparse:
        return Batch(x)
    index, column = x.nonzero().T
    indptr = torch.arange(ROWS + 1) * (len(index) // ROWS)
    return Batch(x, nonzero=CSREntries(x, indptr, column, x[index, column]))


def mixture_probabilities(count: int, fraction: float) -> torch.Tensor:
    """Return P(k of the molecules are kept), by quadrature over the fraction of lost molecules."""
    lost = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * fraction
    return Binomial(count, 1 - lost[:, None]).log_prob(torch.arange(count + 1.0)).exp().mean(0)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("fraction", [0.3, 0.9])
def test_each_molecule_is_kept_with_one_probability_per_cell(sparse, fraction):
    """19 comparisons per case with |z| < 4.5."""
    torch.manual_seed(0)
    counts = thinned_log_counts(cells([0, 1, 3, 6, 1], sparse), fraction).expm1().round()
    assert (counts[:, 0] == 0).all()
    for gene, count in ((1, 1), (2, 3), (3, 6)):
        expected = mixture_probabilities(count, fraction)
        observed = (counts[:, gene, None] == torch.arange(count + 1)).double().mean(0)
        z = (observed - expected) / (expected * (1 - expected) / ROWS).sqrt()
        assert (z.abs() < LIMIT).all()
    both = (counts[:, 1] * counts[:, 4]).double()  # genes of a cell share the fraction: E[(1 - f)^2]
    expected = 1 - fraction + fraction**2 / 3
    assert abs(both.mean() - expected) / (both.std() / math.sqrt(ROWS)) < LIMIT


def test_only_the_encoder_in_training_sees_thinned_counts():
    likelihood, batch = NegativeBinomial(thinning=0.9), cells([0, 1, 3, 6, 1], sparse=True)
    likelihood.build(4, 5)
    exact = batch.x.log1p()
    assert (likelihood.encoder_input(batch) < exact - 0.1).any()
    assert (batch.x == torch.tensor([0.0, 1, 3, 6, 1])).all()
    torch.testing.assert_close(likelihood.eval().encoder_input(batch), exact)


@pytest.mark.parametrize("thinning", [-0.1, 1.0])
def test_invalid_fraction(thinning):
    with pytest.raises(ConfigError, match=r"NegativeBinomial: thinning=.* fraction of the molecules"):
        NegativeBinomial(thinning=thinning)
