"""Moments of replicated counts, compared with the likelihood, and of the data, compared with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vaekit.analysis import plot_predictive_check, posterior_predictive_check, prepare_query
from vaekit.exceptions import DataError


def test_moments_of_the_data(simulated):
    cells = simulated[0].copy()
    table = posterior_predictive_check(cells, simulated[1], num_samples=2)
    x = cells.X.toarray().astype(float)
    np.testing.assert_allclose(table["mean"], x.mean(0))
    np.testing.assert_allclose(table["variance"], x.var(0, ddof=1))
    np.testing.assert_allclose(table["zero_fraction"], (x == 0).mean(0))
    np.testing.assert_allclose(cells.obs["vaekit_ppc_zero_fraction"], (x == 0).mean(1))
    assert list(table.index) == list(cells.var_names)


def test_moments_of_replicates_agree_with_the_likelihood(simulated):
    cells, model = simulated[0].copy(), simulated[1]
    table = posterior_predictive_check(cells, model, num_samples=40, seed=5)
    batch = prepare_query(model, cells, None, "batch").dataset.__getitems__(range(cells.n_obs))
    with torch.no_grad():
        latents = {name: q.sample((200,)) for name, q in model.posteriors(batch).items()}
        mean, zero = torch.zeros(150).double(), torch.zeros(150).double()
        for z in latents["z"]:
            q = model.networks.observation({"z": z}, batch)
            mean += q.mean.mean(0) / 200
            zero += q.base_dist.log_prob(torch.zeros(1200, 150)).exp().mean(0) / 200
    for name, value in (("mean", mean), ("zero_fraction", zero)):
        z = (table[f"{name}_replicated"] - value.numpy()) / (table[f"{name}_replicated_std"] / np.sqrt(40))
        # 150 t-values with 39 degrees of freedom: one exceeds 5 by chance in 1 of 500 seeds
        assert np.abs(z).max() < 5
        assert 0.8 < z.std() < 1.3
    totals = cells.obs["vaekit_ppc_total_replicated"]
    assert np.corrcoef(totals, cells.obs["library_size"])[0, 1] > 0.9


def test_the_summary_detects_a_poor_fit(simulated):
    cells, model = simulated[0].copy(), simulated[1]
    posterior_predictive_check(cells, model)
    good = cells.uns["vaekit_ppc"]
    assert good["ratio_mean"] == pytest.approx(1, abs=0.1)
    assert good["zero_fraction_error"] < 0.05
    theta = model.networks.likelihood.log_inverse_dispersion
    before = theta.detach().clone()
    with torch.no_grad():
        theta.fill_(-2.0)
    posterior_predictive_check(cells, model, key_added="worse")
    with torch.no_grad():
        theta.copy_(before)
    assert cells.uns["worse"]["zero_fraction_error"] > 2 * good["zero_fraction_error"]
    assert cells.uns["worse"]["ratio_variance"] > 1.5 * good["ratio_variance"]


def test_seed_single_replicate_and_missing_genes(simulated):
    cells, model = simulated[0][:70].copy(), simulated[1]
    one, same = (posterior_predictive_check(cells, model, num_samples=1, seed=2) for _ in range(2))
    assert one.equals(same)
    assert one["mean_replicated_std"].isna().all()
    with pytest.warns(UserWarning, match="lacks 5"):
        assert len(posterior_predictive_check(cells[:, 5:].copy(), model, num_samples=1)) == 145
    with pytest.raises(DataError, match="num_samples=0 must"):
        posterior_predictive_check(cells, model, num_samples=0)


def test_plot(simulated, tmp_path):
    cells = simulated[0].copy()
    figure = plot_predictive_check(posterior_predictive_check(cells, simulated[1], num_samples=1), "cells")
    figure.savefig(tmp_path / "check.png")
    assert (tmp_path / "check.png").stat().st_size > 5000
    assert [axis.get_xscale() for axis in figure.axes] == ["log", "linear"]
