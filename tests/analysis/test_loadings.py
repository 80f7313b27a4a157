"""Loadings: planted genes are found again, values equal their definition, states, the prior, errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from models.tiny import adata, trainer
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from analysis.results import linear_model
from vaekit import GaussianVAE
from vaekit.analysis import decode, embed, loadings, markers, plot_loadings
from vaekit.data import GeneExpressionData, ImageData
from vaekit.exceptions import CheckpointError, DataError
from vaekit.latents import Bernoulli, Categorical, Dirichlet, Gaussian, Latent, Product
from vaekit.latents import Poisson as Counts
from vaekit.likelihoods import Bernoulli as BernoulliLikelihood
from vaekit.likelihoods import NegativeBinomial, Poisson
from vaekit.models import VAE
from vaekit.models.objectives import ELBO
from vaekit.networks import MLP, Additive, Linear, Network

CELLS, GENES, SET = 500, 60, 8


def simulate(effects: np.ndarray) -> AnnData:
    """Return Poisson counts of cells with log effects ``[cells, genes]`` on genes of similar means."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 0.3, GENES) + effects
    composition = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    counts = rng.poisson(600 * composition).astype(np.float32)
    return AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=[f"gene{i}" for i in range(GENES)]))


def activities(units: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(CELLS, units))


def train(cells: AnnData, decoder: Network, latents: dict[str, Latent]) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(cells, batch_size=64)
        model = VAE(GENES, MLP([32]), latents, decoder, Poisson(), learning_rate=0.01)
        trainer(max_epochs=40, limit_val_batches=0).fit(model, datamodule=data)
    return model.eval()


def genes_of(table: pd.DataFrame) -> dict[tuple[str, str], set[int]]:
    """Return the top genes of each unit and direction."""
    parts = table.groupby(["unit", "direction"])
    return {key: {int(gene.removeprefix("gene")) for gene in part["gene"].head(SET)} for key, part in parts}


def test_planted_loadings_of_one_dimension():
    """They are found up to the sign. Several Gaussian dimensions could be rotated without a change of the model."""
    truth = np.zeros(GENES)
    truth[: 2 * SET] = np.where(np.arange(2 * SET) < SET, 1.0, -0.7)
    cells = simulate(activities(1) @ truth[None])
    table = loadings(train(cells, Linear(), {"z": Gaussian(1)}), cells, pseudo_fraction=0)
    found = table[table["direction"] == "+"].set_index("gene")["loading"][cells.var_names] * np.log(2)
    sign = np.sign(found @ truth)
    expected = truth - truth.mean()  # the composition determines loadings up to a constant
    assert np.corrcoef(sign * found, truth)[0, 1] > 0.97
    np.testing.assert_allclose(sign * (found - found.mean()), expected, atol=0.5)
    top = genes_of(table)["0", "+" if sign > 0 else "-"]
    assert top == set(range(SET))


def test_planted_topics():
    """The genes of each topic are found, up to the order of the topics."""
    truth = np.zeros((3, GENES))
    for topic in range(3):
        truth[topic, topic * SET : (topic + 1) * SET] = 2.5
    proportions = np.random.default_rng(2).dirichlet([0.3] * 3, CELLS)
    cells = simulate(proportions @ truth)
    table = loadings(train(cells, Linear(), {"t": Dirichlet(3)}), cells)
    tops = genes_of(table)
    assert set(tops) == {(unit, "+") for unit in "012"}  # a topic has one direction
    expected = [set(range(topic * SET, (topic + 1) * SET)) for topic in range(3)]
    overlap = np.array([[len(genes & other) for other in tops.values()] for genes in expected])
    assert overlap[linear_sum_assignment(-overlap)].tolist() == [SET] * 3


def test_planted_directions():
    """Each end of a unit raises its own genes: an additive decoder finds all four sets, a linear one cannot."""
    z, effects = activities(2), np.zeros((CELLS, GENES))
    sets = [set(range(start, start + SET)) for start in range(0, 4 * SET, SET)]
    for unit, scale in enumerate((2.0, 1.4)):
        effects[:, sorted(sets[2 * unit])] += scale * np.maximum(z[:, unit], 0)[:, None]
        effects[:, sorted(sets[2 * unit + 1])] += scale * np.maximum(-z[:, unit], 0)[:, None]
    cells = simulate(effects)
    tops = [genes_of(loadings(train(cells, decoder, {"z": Gaussian(2)}), cells)) for decoder in (Additive(8), Linear())]

    def best(found: dict[tuple[str, str], set[int]], first: set[int], second: set[int]) -> int:
        """Return the number of genes of two sets at opposite ends of the best unit, with any sign."""
        pairs = [(found[unit, one], found[unit, other]) for unit in "01" for one, other in ("+-", "-+")]
        return max(len(up & first) + len(down & second) for up, down in pairs)

    additive, linear = ([best(found, *sets[:2]), best(found, *sets[2:])] for found in tops)
    assert additive == [2 * SET, 2 * SET]
    assert min(linear) < 2 * SET


def test_the_definition_for_a_linear_decoder():
    """Without a pseudo-fraction, the fold changes are the weights times the range, minus the change of the sum."""
    cells = adata()
    data = GeneExpressionData(cells, batch_key="batch")
    model = VAE(12, MLP([8]), {"z": Gaussian(2)}, Linear(), NegativeBinomial(), data.covariates)
    trainer(max_epochs=2, limit_val_batches=0).fit(model, datamodule=data)
    table = loadings(model, cells, pseudo_fraction=0)
    embed(cells, model)
    z, head = cells.obsm["X_vaekit"].astype(float), model.networks.likelihood.composition
    weight, bias = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    shift = model.networks.likelihood.composition_shift.detach().double().numpy()
    logits = bias + weight[:, :2] @ np.median(z, 0) + (weight[:, 2:].T + shift).mean(0)
    scale = np.exp(logits) / np.exp(logits).sum()
    for unit in range(2):
        for direction, end in (("+", 0.999), ("-", 0.001)):
            change = weight[:, unit] * (np.quantile(z[:, unit], end) - np.median(z[:, unit]))
            expected = (change - np.log((scale * np.exp(change)).sum())) / np.log(2)
            part = table[(table["unit"] == str(unit)) & (table["direction"] == direction)].set_index("gene")
            np.testing.assert_allclose(part.loc[cells.var_names, "log2_fold_change"], expected, atol=1e-4)
            strength = np.sqrt((scale * part.loc[cells.var_names, "loading"] ** 2).sum())
            np.testing.assert_allclose(part["strength"], strength, rtol=1e-4)


def test_states_equal_the_markers():
    """With one categorical latent, the reference is the model itself."""
    cells = adata()
    data = GeneExpressionData(cells)
    model = VAE(12, MLP([8]), {"y": Categorical(3)}, Linear(), NegativeBinomial())
    trainer(max_epochs=5, limit_val_batches=0).fit(model, datamodule=data)
    table, expected = loadings(model, cells), markers(cells, model, n_genes=12)
    assert set(table["direction"]) == {"+"}
    merged = table.merge(expected, left_on=["unit", "gene"], right_on=["code", "gene"])
    assert len(merged) == len(table) == len(expected)
    np.testing.assert_allclose(merged["log2_fold_change_x"], merged["log2_fold_change_y"], atol=1e-4)


def test_variables_with_other_numbers_of_categories():
    """Each category of a Product has its name, and the weights that the decoder gives it."""
    cells = adata()
    model = VAE(12, MLP([8]), {"p": Product({"a": 2, "b": 4}), "k": Counts(2)}, Linear(), NegativeBinomial())
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=GeneExpressionData(cells))
    table = loadings(model, cells, pseudo_fraction=0)
    assert (
        {"a:0", "a:1", "b:0", "b:1", "b:2", "b:3"} >= set(table.loc[table["latent"] == "p", "unit"]) >= {"a:0", "a:1"}
    )
    change = table[table["unit"] == "a:1"].set_index("gene")["log2_fold_change"][cells.var_names] * np.log(2)
    weight = model.networks.likelihood.composition.weight.detach().numpy()
    difference = change - (weight[:, 1] - weight[:, 0])
    np.testing.assert_allclose(difference, difference.mean(), atol=1e-4)
    assert set(table.loc[table["latent"] == "k", "direction"]) == {"+", "-"}
    values = {"k": [[1, 2]], "p": [[1, 3]]}
    one_hot = {"k": [[1, 2]], "p": [[0, 1, 0, 0, 0, 1]]}
    pd.testing.assert_frame_equal(decode(model, values), decode(model, one_hot))
    with pytest.raises(DataError, match=r"a code that a variable does not have\. Its states are a:0, a:1, b:0"):
        decode(model, {**values, "p": [[2, 0]]})


def test_bits_compare_1_with_0():
    cells = adata()
    data = GeneExpressionData(cells)
    model = VAE(12, MLP([8]), {"b": Bernoulli(2)}, Linear(), NegativeBinomial())
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    table = loadings(model, cells, pseudo_fraction=0)
    weight = model.networks.likelihood.composition.weight.detach().numpy()
    for unit, part in table.groupby("unit"):
        change = part.set_index("gene")["log2_fold_change"][cells.var_names].to_numpy() * np.log(2)
        difference = change - weight[:, int(unit)]
        np.testing.assert_allclose(difference, difference.mean(), atol=1e-4)
    assert set(table["unit"]) == {"0", "1"}


def test_without_cells_the_prior_determines_the_range():
    cells = adata()
    data = GeneExpressionData(cells, batch_key="batch")
    base = GaussianVAE(12, NegativeBinomial(), data.covariates, latent_dim=2, hidden=(8,))
    trainer(max_epochs=1, limit_val_batches=0).fit(base, datamodule=data)
    model = linear_model(base)
    table = loadings(model)
    pd.testing.assert_frame_equal(table, loadings(model))
    weight = model.networks.likelihood.composition.weight.detach().numpy()
    part = table[(table["latent"] == "z") & (table["direction"] == "+")]
    for unit in "01":
        values = part[part["unit"] == unit].set_index("gene")["loading"][cells.var_names] * np.log(2)
        column = weight[:, 2 + int(unit)]  # after the two categories
        assert np.corrcoef(values, column)[0, 1] > 0.99  # a standard normal unit has standard deviation 1
    assert not torch.is_inference_mode_enabled()


def test_an_adata_receives_the_table(tmp_path):
    cells = adata()
    data = GeneExpressionData(cells)
    model = VAE(12, MLP([8]), {"z": Gaussian(2)}, Additive(4), NegativeBinomial())
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    table = loadings(model, cells, n_genes=3)
    assert len(table) == 2 * 2 * 3
    pd.testing.assert_frame_equal(cells.uns["vaekit_loadings"]["table"], table)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells.uns["mine"] = 1
    with pytest.raises(DataError, match="mine"):
        loadings(model, cells, key_added="mine")
    for arguments, message in (
        ({"n_genes": 0}, "loadings: n_genes=0 must be at least 1"),
        ({"pseudo_fraction": 1.0}, "loadings: pseudo_fraction=1.0 must be at least 0 and below 1"),
        ({"batch_size": 0}, "loadings: batch_size=0 must be at least 1"),
    ):
        with pytest.raises(DataError, match=message):
            loadings(model, cells, **arguments)


def test_other_models_raise_errors():
    data = GeneExpressionData(adata())
    model = GaussianVAE(12, NegativeBinomial(), latent_dim=2, hidden=(8,))
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    with pytest.raises(CheckpointError, match=r"The decoder MLP mixes the units.*vaekit\.analysis\.markers"):
        loadings(model, adata())
    images = ImageData("digits")
    digits = VAE(images.features, MLP([8]), {"z": Gaussian(2)}, Linear(), BernoulliLikelihood())
    trainer(max_steps=1, limit_val_batches=0).fit(digits, datamodule=images)
    with pytest.raises(CheckpointError, match="trained on images"):
        loadings(digits)


def test_one_state_in_use_raises_an_error():
    data = GeneExpressionData(adata())
    model = VAE(12, MLP([8]), {"y": Categorical(3)}, Linear(), NegativeBinomial(), objective=ELBO())
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=data)
    with torch.no_grad():
        model.latents["y"].head.bias[0] = 1e3
    with pytest.raises(DataError, match="single state in use"):
        loadings(model, adata())


def test_the_figure_shows_the_top_genes():
    names = {"latent": "z", "unit": ["0"] * 4 + ["1"] * 4, "direction": ["+", "+", "-", "-"] * 2, "strength": 0.5}
    change = {"gene": list("abcdefgh"), "log2_fold_change": [2.0, 1, 3, 1, 1, 1, 1, 1]}
    axis, other = plot_loadings(pd.DataFrame({**names, **change}), n_genes=1).axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "c"]
    assert [bar.get_width() for bar in axis.patches] == [2.0, -3.0]
    assert other.get_title() == "z 1 (strength 0.50)"
