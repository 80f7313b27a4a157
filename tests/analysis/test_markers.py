"""Markers of codes, against codes decoded by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.tiny import MODELS, adata, sharpen, trainer

from vaekit import DiscreteVAE, MixedVAE
from vaekit.analysis import markers
from vaekit.data import GeneExpressionData
from vaekit.exceptions import DataError
from vaekit.latents import Bernoulli, Categorical, Gaussian
from vaekit.likelihoods import NegativeBinomial


def fitted(make, **kwargs):
    data = GeneExpressionData(adata(), **kwargs)
    model = make(NegativeBinomial(), data.features, data.covariates)
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    return sharpen(model).eval()


def test_one_variable_is_exact():
    model = fitted(lambda p, n, c: DiscreteVAE(n, p, c, variables=1, categories=4, hidden=(8,)))
    cells = adata()
    table = markers(cells, model, n_genes=12)
    x = torch.from_numpy(cells.X.toarray())
    with torch.no_grad():
        h = model.networks.encoder(x.log1p())
        use = model.latents["y"].posterior(h).mean[:, 0].mean(0).double().numpy()
        decoded = model.networks.decoder(torch.eye(4))
        rho = model.networks.likelihood.composition(decoded).softmax(-1).double().numpy()
    used = [code for code in range(4) if use[code] > 0.01]
    assert len(used) > 1
    assert list(dict.fromkeys(table["code"])) == [str(code) for code in sorted(used, key=lambda code: -use[code])]
    for code in used:
        others = [other for other in used if other != code]
        rest = use[others] @ rho[others] / use[others].sum()
        part = table[table["code"] == str(code)].set_index("gene")
        ratio = np.log2(rho[code] / rest)
        assert list(part.index) == [f"gene{g}" for g in np.argsort(-ratio, kind="stable")]
        np.testing.assert_allclose(part["log2_ratio"], np.sort(ratio)[::-1], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(part["use"], use[code], rtol=1e-4)
    assert cells.uns["vaekit_markers"]["latent"] == "y"


def test_a_code_that_chooses_a_component_is_averaged_over_it():
    model = fitted(
        lambda p, n, c: MixedVAE(n, p, c, latents={"y": Categorical(2), "z": Gaussian(2, parent="y")}, hidden=(8,))
    )
    table = markers(adata(), model, num_samples=4000, n_genes=12)
    with torch.no_grad():
        for code in table["code"].unique():
            prior = model.latents["z"].prior(torch.eye(2)[int(code)], torch.zeros(1))
            decoded = model.networks.decoder(prior.sample((20_000,)))
            rho = model.networks.likelihood.composition(decoded).softmax(-1)
            part = table[table["code"] == code]
            genes = [int(name.removeprefix("gene")) for name in part["gene"]]
            error = rho.std(0)[genes] * np.sqrt(1 / 4000 + 1 / 20_000)
            # 24 z-values: one beyond 4.5 by chance in 1 of 6,000 seeds
            assert np.abs((part["scale"].to_numpy() - rho.mean(0)[genes].numpy()) / error.numpy()).max() < 4.5


def test_batches_take_turns_and_bits_and_vectors_are_named():
    latents = {"b": Bernoulli(2), "y": Categorical(3, variables=2), "z": Gaussian(2)}
    model = fitted(lambda p, n, c: MixedVAE(n, p, c, latents=latents, hidden=(8,)), batch_key="batch")
    cells = adata()
    bits = markers(cells, model, "b", n_genes=3)
    assert set(bits["code"]) <= {"0:0", "0:1", "1:0", "1:1"}
    assert (bits.groupby("code").size() == 3).all()
    vector = markers(cells, model, "y", n_genes=2, key_added="vector")
    assert set(vector["code"]) <= {f"{variable}:{state}" for variable in range(2) for state in range(3)}
    assert markers(cells, model, "y", n_genes=2).equals(vector)
    assert {"vector", "vaekit_markers"} <= set(cells.uns)


def test_errors():
    model = fitted(lambda p, n, c: MODELS["mixed"](p, n, covariates=c))
    for wrong, message in (("z", "is not discrete"), ("x", "does not exist.*'y'")):
        with pytest.raises(DataError, match=message):
            markers(adata(), model, wrong)
    with pytest.raises(DataError, match="n_genes is 0"):
        markers(adata(), model, n_genes=0)
    with torch.no_grad():
        model.latents["y"].head.weight.zero_()
        model.latents["y"].head.bias.zero_()
        model.latents["y"].head.bias[1] = 50
    with pytest.raises(DataError, match="one code only"):
        markers(adata(), model)
