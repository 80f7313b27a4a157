"""Markers of codes, against codes decoded by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.tiny import MODELS, adata, counts, sharpen, trainer

from vaekit import DiscreteVAE, MixedVAE, SequentialVAE
from vaekit.analysis import markers
from vaekit.analysis.decoding import composition
from vaekit.analysis.prior_given import Code, draw_given
from vaekit.data import GeneExpressionData
from vaekit.exceptions import DataError
from vaekit.latents import Bernoulli, Categorical, Gaussian
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE


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


def sequence(n_latents: int = 3) -> VAE:
    model = fitted(lambda p, n, c: SequentialVAE(n, p, c, categories=[3, 2, 2][:n_latents], hidden=(8,)))
    with torch.no_grad():  # priors that are far from independent
        for latent in model.latents.values():
            for layer in (module for name, module in latent.named_modules() if name.startswith("prior_network")):
                if isinstance(layer, torch.nn.Linear):
                    layer.weight.normal_(0, 2)
    return model


@pytest.mark.parametrize("every", [True, False])  # state of the ancestors, or draws of them
@pytest.mark.parametrize("latent", ["z1", "z2", "z3"])
def test_latents_with_parents_against_exact_enumeration(
    latent: str, every: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sequence()
    names = list(model.latents)
    assert names == ["z1", "z2", "z3"]
    count = 20_000
    if not every:
        monkeypatch.setattr("vaekit.analysis.prior_given.PROPOSALS", count)
        monkeypatch.setattr("vaekit.analysis.prior_given.num_states", lambda prior: 10**9)
    table = markers(adata(), model, latent, num_samples=count, n_genes=12)
    codes = torch.cartesian_prod(*(torch.arange(latent.shape[1]) for latent in model.latents.values()))
    values = {}
    log_p = torch.zeros(len(codes))
    with torch.no_grad():
        for name, code in zip(names, codes.T, strict=True):
            values[name] = torch.eye(model.latents[name].shape[1])[code][:, None]
            log_p += model.networks.prior(name, values, torch.zeros(1)).log_prob(values[name])
        rho = composition(model, values, counts(len(codes), 12)).double()
    torch.testing.assert_close(log_p.logsumexp(0), torch.tensor(0.0), atol=1e-5, rtol=0)
    for state in table["code"].unique():
        joint = torch.where(codes[:, names.index(latent)] == int(state), log_p, -torch.inf).double().exp()
        given = joint / joint.sum()
        exact = given @ rho
        effective = count if every else count * joint.sum() / 2  # at least, of the proposals
        error = ((given @ (rho - exact).square()) / effective).sqrt() + 1e-6
        part = table[table["code"] == state]
        genes = [int(name.removeprefix("gene")) for name in part["gene"]]
        assert np.abs((part["scale"].to_numpy() - exact[genes].numpy()) / error[genes].numpy()).max() < 4.5


def test_a_copy_of_its_parent_has_it():
    """z2 = z1 in the prior: given z2 = 0, z1 was 1 in half of the draws."""
    model = fitted(lambda p, n, c: SequentialVAE(n, p, c, categories=[2, 2], hidden=(8,)))
    with torch.no_grad():
        network, last = model.latents["z2"].prior_network
        first = network.layers[0]
        for layer in (first, last):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[:2, :2] = 10 * torch.eye(2)
        last.weight[:2, :2] = 10 * torch.eye(2)
    for state in (0, 1):
        drawn = draw_given(model, Code("z2", 0, state), torch.full((1, 2), 0.5), torch.zeros(50, 12))
        assert drawn["z2"][:, 0].mean(0).tolist() == [1 - state, state]
        assert drawn["z1"][:, 0].mean(0).tolist() == [1 - state, state]


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
