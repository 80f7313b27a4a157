"""Markers of codes, compared with codes decoded directly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.tiny import MODELS, adata, counts, sharpen, trainer

from vaekit import DiscreteVAE, MixedVAE, SequentialVAE
from vaekit.analysis import embed, markers
from vaekit.analysis.decoding import composition
from vaekit.analysis.prior_samples import Code, sample_given_code
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.estimators import Enumerate, Pathwise
from vaekit.exceptions import DataError
from vaekit.latents import Bernoulli, Categorical, Dirichlet, Gaussian
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE
from vaekit.networks import MLP, Linear


def fitted(make, **kwargs):
    data = GeneExpressionData(adata(), **kwargs)
    model = make(NegativeBinomial(), data.features, data.covariates)
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    return sharpen(model).eval()


@pytest.mark.parametrize("pseudo_fraction", [0, 1e-4, 0.05])
def test_one_variable_is_exact(pseudo_fraction):
    model = fitted(lambda p, n, c: DiscreteVAE(n, p, c, variables=1, categories=4, hidden=(8,)))
    cells = adata()
    table = markers(cells, model, n_genes=12, pseudo_fraction=pseudo_fraction)
    x = torch.from_numpy(cells.X.toarray())
    with torch.no_grad():
        h = model.networks.encoder(x.log1p())
        probabilities = model.latents["y"].posterior(h).mean[:, 0]
        usage, codes = probabilities.mean(0).double().numpy(), probabilities.argmax(-1).tolist()
        decoded = model.networks.decoder(torch.eye(4))
        rho = model.networks.likelihood.composition(decoded).softmax(-1).double().numpy()
    active = [code for code in range(4) if usage[code] > 0.01]
    assert len(active) > 1
    assert list(dict.fromkeys(table["code"])) == [str(code) for code in sorted(active, key=lambda code: -usage[code])]
    for code in active:
        others = [other for other in active if other != code]
        rest = usage[others] @ rho[others] / usage[others].sum()
        part = table[table["code"] == str(code)].set_index("gene")
        ratio = np.log2((rho[code] + pseudo_fraction) / (rest + pseudo_fraction))
        assert list(part.index) == [f"gene{g}" for g in np.argsort(-ratio, kind="stable")]
        np.testing.assert_allclose(part["log2_fold_change"], np.sort(ratio)[::-1], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(part["usage"], usage[code], rtol=1e-4)
        assert set(part["n_cells"]) == {codes.count(code)}
    assert cells.uns["vaekit_markers"]["pseudo_fraction"] == pseudo_fraction
    assert cells.uns["vaekit_markers"]["latent"] == "y"


def test_other_latents_are_averaged_over_the_component_of_the_code():
    model = fitted(
        lambda p, n, c: MixedVAE(n, p, c, latents={"y": Categorical(2), "z": Gaussian(2, parents=["y"])}, hidden=(8,))
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


@pytest.fixture(scope="module")
def programs():
    """Return cells of four kinds with separate genes, and a model whose codes match the kinds."""
    cells = simulate_counts(800, 300, clusters=4, programs=0, de_fraction=0.15, lfc_scale=2.0, seed=3)
    data = GeneExpressionData(cells, batch_size=64)
    torch.manual_seed(0)
    model = DiscreteVAE(
        data.features, NegativeBinomial(), variables=1, categories=4, hidden=(32,), estimator=Enumerate(),
        learning_rate=0.01,
    )  # fmt: skip
    trainer(max_epochs=40, limit_val_batches=0).fit(model, datamodule=data)
    return cells, model.eval()


def test_known_programs_rank_before_unexpressed_genes(programs):
    cells, model = programs
    table = markers(cells, model, n_genes=10)
    truth = cells.varm["composition"].to_numpy()
    code = dict(zip(cells.obs_names, codes_of_cells(cells, model), strict=True))
    for state, part in table.groupby("code"):
        members = [name for name, index in code.items() if index == state]
        assert set(part["n_cells"]) == {len(members)}
        kind = int(str(cells.obs.loc[members, "cluster"].mode()[0]).removeprefix("cluster"))
        ratio = np.log2((truth + 1e-4) / (np.delete(truth, kind, 1).mean(1) + 1e-4)[:, None])[:, kind]
        place = [cells.var_names.get_loc(gene) for gene in part["gene"]]
        assert (ratio[place] > 1).mean() >= 0.9
        assert (part["scale"] > 1e-4).all()
    plain = markers(cells, model, n_genes=300, pseudo_fraction=0)
    full = markers(cells, model, n_genes=300)
    rare = plain["scale"].lt(2e-5) & plain["scale_others"].lt(2e-5)
    assert plain[rare]["log2_fold_change"].max() > 0.3  # otherwise the test would be vacuous
    rare = full["scale"].lt(2e-5) & full["scale_others"].lt(2e-5)
    assert full[rare]["log2_fold_change"].abs().max() < 0.3


def codes_of_cells(cells, model):
    cells = cells.copy()
    embed(cells, model)
    return cells.obs["vaekit_y"].astype(str)


def test_topics_are_exact():
    """With the network Linear, a topic's composition is the softmax of its weights and the bias."""
    latents = {"topics": Dirichlet(3, estimator=Pathwise()), "z": Gaussian(2)}
    for names in (["topics"], ["topics", "z"]):
        model = fitted(
            lambda p, n, c, names=names: VAE(
                n, MLP([8]), {name: latents[name] for name in names}, Linear(), p, covariates=c
            )
        )
        with torch.no_grad():
            model.networks.likelihood.composition.weight.normal_()
            if "z" in names:
                model.networks.likelihood.composition.weight[:, 3:] = 0
            layer = model.networks.likelihood.composition
            rho = (layer.bias[:, None] + layer.weight[:, :3]).softmax(0).double().numpy()
        table = markers(adata(), model, "topics", n_genes=12, num_samples=5)
        parts = {code: part.set_index("gene") for code, part in table.groupby("code")}
        assert set(parts) == {"0", "1", "2"}
        usage = np.array([parts[str(k)]["usage"].iloc[0] for k in range(3)])
        np.testing.assert_allclose(usage.sum(), 1, rtol=1e-5)
        assert sum(part["n_cells"].iloc[0] for part in parts.values()) == adata().n_obs
        for k, (_, part) in enumerate(sorted(parts.items())):
            others = usage * (np.arange(3) != k)
            rest = rho @ others / others.sum()
            genes = [int(name.removeprefix("gene")) for name in part.index]
            np.testing.assert_allclose(part["scale"], rho[genes, k], rtol=1e-4)
            np.testing.assert_allclose(
                part["log2_fold_change"], np.log2((rho[:, k] + 1e-4) / (rest + 1e-4))[genes], atol=1e-3
            )


def sequence(n_latents: int = 3) -> VAE:
    model = fitted(lambda p, n, c: SequentialVAE(n, p, c, categories=[3, 2, 2][:n_latents], hidden=(8,)))
    with torch.no_grad():  # priors that are far from independent
        for latent in model.latents.values():
            for layer in (module for name, module in latent.named_modules() if name.startswith("prior_network")):
                if isinstance(layer, torch.nn.Linear):
                    layer.weight.normal_(0, 2)
    return model


@pytest.mark.parametrize("enumerate_all", [True, False])  # states of the ancestors, or samples of them
@pytest.mark.parametrize("latent", ["z1", "z2", "z3"])
def test_latents_with_parents_against_exact_enumeration(
    latent: str, enumerate_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sequence()
    names = list(model.latents)
    assert names == ["z1", "z2", "z3"]
    count = 20_000
    if not enumerate_all:
        monkeypatch.setattr("vaekit.analysis.prior_samples.NUM_PROPOSALS", count)
        monkeypatch.setattr("vaekit.analysis.prior_samples.num_states", lambda prior: 10**9)
    table = markers(adata(), model, latent, num_samples=count, n_genes=12)
    codes = torch.cartesian_prod(*(torch.arange(latent.state_shape[1]) for latent in model.latents.values()))
    values = {}
    log_p = torch.zeros(len(codes))
    with torch.no_grad():
        for name, code in zip(names, codes.T, strict=True):
            values[name] = torch.eye(model.latents[name].state_shape[1])[code][:, None]
            log_p += model.networks.prior(name, values, torch.zeros(1)).log_prob(values[name])
        rho = composition(model, values, counts(len(codes), 12)).double()
    torch.testing.assert_close(log_p.logsumexp(0), torch.tensor(0.0), atol=1e-5, rtol=0)
    for state in table["code"].unique():
        joint = torch.where(codes[:, names.index(latent)] == int(state), log_p, -torch.inf).double().exp()
        probability = joint / joint.sum()
        exact = probability @ rho
        effective = count if enumerate_all else count * joint.sum() / 2  # lower bound for the proposals
        error = ((probability @ (rho - exact).square()) / effective).sqrt() + 1e-6
        part = table[table["code"] == state]
        genes = [int(name.removeprefix("gene")) for name in part["gene"]]
        assert np.abs((part["scale"].to_numpy() - exact[genes].numpy()) / error[genes].numpy()).max() < 4.5


def test_a_parent_follows_from_its_copy():
    """In the prior z2 = z1, so z1 follows from z2."""
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
        samples = sample_given_code(model, Code("z2", 0, state), torch.full((1, 2), 0.5), torch.zeros(50, 12))
        assert samples["z2"][:, 0].mean(0).tolist() == [1 - state, state]
        assert samples["z1"][:, 0].mean(0).tolist() == [1 - state, state]


def test_batches_alternate_and_bits_and_vectors_have_names():
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
    for wrong, message in (("z", "must be discrete"), ("x", "not found in the model.*'y'")):
        with pytest.raises(DataError, match=message):
            markers(adata(), model, wrong)
    with pytest.raises(DataError, match="n_genes=0 must"):
        markers(adata(), model, n_genes=0)
    for wrong in (-1e-4, 1, np.nan):
        with pytest.raises(DataError, match=f"pseudo_fraction={wrong} must"):
            markers(adata(), model, pseudo_fraction=wrong)
    with torch.no_grad():
        model.latents["y"].head.weight.zero_()
        model.latents["y"].head.bias.zero_()
        model.latents["y"].head.bias[1] = 50
    with pytest.raises(DataError, match="a single code is in use"):
        markers(adata(), model)


def test_the_order_of_cells_with_covariates_does_not_matter():
    cells = adata(cells=90)
    cells.obs["dose"] = np.linspace(-2, 2, 90) ** 3
    data = GeneExpressionData(cells, batch_key="batch", continuous_covariate_keys=["dose"])
    model = DiscreteVAE(
        data.features, NegativeBinomial(), data.covariates, variables=1, categories=4, hidden=(8,), learning_rate=0.05
    )
    trainer(max_epochs=3, limit_val_batches=0).fit(model, datamodule=data)
    sharpen(model).eval()
    tables = [
        markers(cells[rows].copy(), model, num_samples=20, n_genes=12).sort_values(["code", "gene"])
        for rows in (np.arange(90), np.argsort(-cells.obs["dose"].to_numpy()), np.random.default_rng(0).permutation(90))
    ]
    for table in tables[1:]:
        for column in ("scale", "log2_fold_change"):
            np.testing.assert_allclose(table[column], tables[0][column], rtol=1e-4, atol=1e-5)
