"""Decoding of given latents and covariates, and covariates set to any value."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from models.tiny import adata, trainer

from vaekit import GaussianVAE
from vaekit.analysis import decode, embed, map_query, normalized_expression
from vaekit.analysis.covariate_values import set_covariates
from vaekit.data import GeneExpressionData, ImageData
from vaekit.diagnostics import decoded_mean, latent_traversal, prior_means
from vaekit.exceptions import DataError, VaekitError
from vaekit.latents import Bernoulli, Categorical, Dirichlet, Gaussian, LibrarySize
from vaekit.likelihoods import Bernoulli as BernoulliLikelihood
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE
from vaekit.models.objectives import ELBO
from vaekit.networks import MLP


def cells() -> AnnData:
    """Return cells with a batch, a category and two numbers, of which one is constant."""
    made = adata()
    rng = np.random.default_rng(3)
    made.obs["sex"] = np.where(rng.random(made.n_obs) < 0.4, "f", "m")
    made.obs["age"] = rng.normal(50, 10, made.n_obs).round()
    made.obs["dose"] = 2.0
    return made


KEYS = {"categorical_covariate_keys": ["sex"], "continuous_covariate_keys": ["age", "dose"]}
LATENTS = {
    "z": lambda: Gaussian(2),
    "y": lambda: Categorical(3, 2),
    "b": lambda: Bernoulli(2),
    "t": lambda: Dirichlet(3),
}


@pytest.fixture(scope="module")
def model() -> VAE:
    """Return a model of all covariates, with latents of each kind and strong effects of the covariates."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the constant covariate
        torch.manual_seed(0)
        data = GeneExpressionData(cells(), batch_key="batch", **KEYS)
        latents = {**{name: make() for name, make in LATENTS.items()}, "size": LibrarySize()}
        parts = (data.features, MLP([8]), latents, MLP([16]), NegativeBinomial(), data.covariates)
        model = VAE(*parts, objective=ELBO(num_samples=2))
        trainer(max_epochs=2, limit_val_batches=0).fit(model, datamodule=data)
        model.networks.likelihood.composition_shift.data.normal_()
    return model.eval()


VALUES = {"z": [[0.5, -1.0]], "y": [[2, 0]], "b": [[1, 0]], "t": [[0.2, 0.3, 0.5]]}


def by_hand(model: VAE, batch: str, sex: str, age: float) -> np.ndarray:
    """Return the composition of VALUES."""
    one_hot = torch.nn.functional.one_hot(torch.tensor([2, 0]), 3).flatten()
    units = torch.cat([torch.tensor([0.5, -1.0]), one_hot, torch.tensor([1.0, 0.0, 0.2, 0.3, 0.5])])
    mean, std = model.data_registry["continuous_covariate_keys"]["age"]
    covariates = [batch == "b1", batch == "b2", sex == "f", sex == "m", (age - mean) / std, 0.0]
    covariates = torch.tensor([float(value) for value in covariates])
    with torch.no_grad():
        h = model.networks.decoder(torch.cat([units, covariates]))
        likelihood = model.networks.likelihood
        return (likelihood.composition(h) + covariates @ likelihood.composition_shift).softmax(-1).numpy()


def test_values_by_hand(model):
    table = decode(model, VALUES, {"batch": "b2", "sex": "f", "age": 70, "dose": 2.0}, library_size=1)
    assert table.columns.tolist() == model.data_registry["feature_names"]
    np.testing.assert_allclose(table.iloc[0], by_hand(model, "b2", "f", 70), rtol=1e-4)
    other = decode(model, VALUES, {"batch": "b1", "sex": "m", "age": 30, "dose": 2.0}, library_size=1)
    np.testing.assert_allclose(other.iloc[0], by_hand(model, "b1", "m", 30), rtol=1e-4)
    assert np.abs(table - other).to_numpy().max() > 0.01


def test_several_values_are_averaged(model):
    both = decode(model, VALUES, {"batch": ["b1", "b2"], "sex": ["f", "m"], "age": [40, 60], "dose": 2}, library_size=1)
    expected = np.mean([by_hand(model, b, s, a) for b in ("b1", "b2") for s in "fm" for a in (40, 60)], axis=0)
    np.testing.assert_allclose(both.iloc[0], expected, rtol=1e-4)


def test_a_value_that_is_named_twice_counts_once(model):
    others = {"batch": "b1", "age": 50, "dose": 2}
    one = decode(model, VALUES, {**others, "sex": ["f", "m"]})
    pd.testing.assert_frame_equal(decode(model, VALUES, {**others, "sex": ["f", "f", "m"]}), one)
    aged = decode(model, VALUES, {**others, "sex": "f", "age": [50, 60]})
    for ages in (["50", 50.0, 60], np.array([50, 60.0, 50])):
        pd.testing.assert_frame_equal(decode(model, VALUES, {**others, "sex": "f", "age": ages}), aged)
    for age in (np.array(60.0), torch.tensor(60.0)):
        expected = decode(model, VALUES, {**others, "sex": "f", "age": 60})
        pd.testing.assert_frame_equal(decode(model, VALUES, {**others, "sex": "f", "age": age}), expected)


def test_an_embedding_with_its_covariates(model):
    """The covariates that are not set are those of the cells; the codes are the most probable ones."""
    made = cells()
    embed(made, model)
    table = decode(model, made)
    assert table.index.equals(made.obs_names)
    codes = {
        "z": made.obsm["X_vaekit"][:, :2],
        "t": made.obsm["X_vaekit"][:, 2:],
        "y": np.stack([part.argmax(1) for part in np.split(made.obsm["vaekit_y_probabilities"], 2, axis=1)], 1),
        "b": made.obsm["vaekit_b_probabilities"] > 0.5,
    }
    for batch, sex in ((b, s) for b in ("b1", "b2") for s in "fm"):
        rows = np.flatnonzero((made.obs["batch"] == batch) & (made.obs["sex"] == sex))
        for row in rows[:2]:
            covariates = {"batch": batch, "sex": sex, "age": made.obs["age"].iloc[row], "dose": 2}
            one = decode(model, {name: value[row : row + 1] for name, value in codes.items()}, covariates)
            np.testing.assert_allclose(table.iloc[row], one.iloc[0], rtol=1e-3)
    moved = decode(model, made, {"sex": "f"}, batch_size=7)
    is_f = (made.obs["sex"] == "f").to_numpy()
    np.testing.assert_allclose(moved[is_f], table[is_f], rtol=1e-4)
    assert np.abs(np.log(moved[~is_f] / table[~is_f])).to_numpy().max() > 0.1
    del made.obs["sex"]
    np.testing.assert_allclose(decode(model, made, {"sex": "f"}), moved, rtol=1e-4)  # the column is not needed
    with pytest.raises(DataError, match=r"'sex' not found in \.obs"):
        decode(model, made)


def test_the_embedding_of_another_model_warns(model):
    made, other = cells(), copy.deepcopy(model)
    embed(made, model)
    for parameter in other.networks.encoder.parameters():
        parameter.data.add_(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(model, made)
    with pytest.warns(UserWarning, match="was written by another model"):
        decode(other, made)


def test_normalized_expression_keeps_the_latents_and_other_covariates(model):
    """Cells that have the value do not change; the shifts of the others are those of the model."""
    made = cells()
    genes = list(made.var_names)
    plain = normalized_expression(made, model, genes=genes)
    moved = normalized_expression(made, model, genes=genes, covariates={"sex": "f"})
    is_f = (made.obs["sex"] == "f").to_numpy()
    np.testing.assert_allclose(moved[is_f], plain[is_f], rtol=1e-4)
    assert np.abs(np.log(moved[~is_f] / plain[~is_f])).to_numpy().max() > 0.1
    one, two = (
        normalized_expression(made, model, genes=genes, **arguments)
        for arguments in ({"transform_batch": "b2"}, {"covariates": {"batch": "b2"}})
    )
    pd.testing.assert_frame_equal(one, two)
    normalized_expression(made, model, covariates={"batch": ["b1", "b2"], "age": 44})
    assert made.uns["vaekit_normalized"]["covariates"].tolist() == ["batch=b1", "batch=b2", "age=44"]
    assert made.uns["vaekit_normalized"]["transform_batch"].tolist() == ["b1", "b2"]
    aged = [normalized_expression(made, model, genes=genes, covariates={"age": age}) for age in (40, "60.0")]
    changed = made.copy()
    changed.obs["age"] = 60.0
    np.testing.assert_allclose(
        aged[1], normalized_expression(changed, model, genes=genes, covariates={"age": 60}), rtol=1e-4
    )
    assert np.abs(aged[0] - aged[1]).to_numpy().max() > 0.1


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        ({"donor": "A"}, r"covariates=\{'donor': ...\} not found in the covariates of the model. .*'batch'"),
        ({"sexx": "f"}, "Did you mean 'sex'"),
        ({"sex": "x"}, r"\{'sex': 'x'\} not found in the categories of the model. .*'f', 'm'"),
        ({"batch": "b3"}, r"\{'batch': 'b3'\} not found in the categories"),
        ({"age": "old"}, r"\{'age': 'old'\} must be a number: the mean of the training cells is"),
        ({"age": np.nan}, "must be a number"),
        ({"age": np.inf}, "must be a number"),
        ({"sex": []}, r"\{'sex': \[\]\} must name a value"),
        ({"dose": 3}, "all training cells have the value 2, so the model has not learned an effect"),
        (["sex"], r"covariates=\['sex'\] must be a mapping"),
        ({"age": range(2000)}, "2000 combinations, more than 1000"),
        (
            {"age": 1e25},
            r"\{'age': 1e\+25\} is .* standard deviations from the mean.* too far for a meaningful",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*extrapolation")
def test_invalid_covariates(covariates, message, model):
    calls = (
        lambda: decode(model, VALUES, covariates),
        lambda: normalized_expression(cells(), model, covariates=covariates),
    )
    for call in calls:
        with pytest.raises(DataError, match=message):
            call()


def test_both_ways_to_set_the_batch_raise_an_error(model):
    with pytest.raises(DataError, match="both set the batch"):
        normalized_expression(cells(), model, transform_batch="b1", covariates={"batch": "b2"})


def test_extrapolation_warns(model):
    with pytest.warns(UserWarning, match="standard deviations from the mean .* extrapolation"):
        set_covariates(model, {"age": 500})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": None}, r"latents\['z'\] must contain numbers"),
        ({"z": [[1.0]]}, r"latents\['z'\] has shape \(1, 1\), but must have shape \(n, 2\)"),
        ({"z": [[np.nan, 1]]}, "not finite"),
        ({"z": np.zeros((0, 2))}, "is empty"),
        ({"z": [[1e30, 0.0]]}, r"latents\['z'\] has the value 1e\+30, with which float32 overflows"),
        ({"z": np.zeros((3, 2)), "b": np.zeros((2, 2))}, r"numbers of observations differ, \{'b': 2\} and 3"),
        ({"y": [[0, 3]]}, r"latents\['y'\]: codes must be whole numbers from 0 to 2"),
        ({"y": [[0, 0.5]]}, "codes must be whole numbers"),
        ({"y": [[0.4, 0.6, 0, 1, 0, 0]]}, "must contain 0 and 1 only: the decoder sees states, not probabilities"),
        ({"y": [[1, 1, 0, 1, 0, 0]]}, "must contain one category per variable"),
        ({"t": [[0.2, 0.2, 0.2]]}, "must contain proportions"),
        ({"size": [[1.0]]}, r"'size' is not seen by the decoder\. The decoder sees 'z', 'y', 'b', 't'"),
        ({"w": [[1.0]]}, "'w' not found in the model"),
    ],
)
def test_invalid_latents(change, message, model):
    with pytest.raises(DataError, match=message):
        decode(model, {**VALUES, **change}, {"batch": "b1", "sex": "f", "age": 50, "dose": 2})


def test_other_errors(model):
    with pytest.raises(DataError, match=r"must have a value of each covariate.*'sex': 'f' or 'm'; 'age': a number"):
        decode(model, VALUES, {"batch": "b1"})
    with pytest.raises(DataError, match=r"values of 'y', 'b', 't' not found. Pass \{'z': array of shape \(n, 2\)"):
        decode(model, {"z": [[0.0, 1.0]]})
    with pytest.raises(DataError, match=r"must have shape \(n, 13\): 2 of 'z' \+ 6 of 'y'"):
        decode(model, np.zeros((2, 4)))
    for arguments, message in (({"library_size": 0}, "library_size=0"), ({"batch_size": 0}, "batch_size=0")):
        with pytest.raises(DataError, match=f"decode: {message}"):
            decode(model, VALUES, **arguments)
    plain = GaussianVAE(12, NegativeBinomial(), latent_dim=2, hidden=(8,))
    trainer(max_steps=1, limit_val_batches=0).fit(plain, datamodule=GeneExpressionData(adata()))
    assert decode(plain, pd.DataFrame([[0.0, 1.0]], index=["a"])).index.tolist() == ["a"]
    with pytest.raises(DataError, match="the model was trained without covariates"):
        decode(plain, [[0.0, 1.0]], {"batch": "b1"})
    torch.testing.assert_close(torch.tensor(decode(plain, torch.zeros(3, 2)).sum(1).to_numpy()), torch.full((3,), 1e4))


def test_new_batches_have_their_name():
    """A model without a column of batches that was extended knows the batches by the column of the query."""
    model = GaussianVAE(12, NegativeBinomial(), latent_dim=2, hidden=(8,))
    trainer(max_steps=5, limit_val_batches=0).fit(model, datamodule=GeneExpressionData(adata()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapped = map_query(adata(seed=1), model, batch_key="batch", max_epochs=1)
    columns = set_covariates(mapped, {"batch": "b1"}).columns
    assert columns.batch == "batch"
    assert {"b1", "b2"} < set(columns.categories["batch"])
    assert decode(mapped, [[0.0, 0.0]], {"batch": "b1"}).shape == (1, 12)


def test_images():
    data = ImageData("digits")
    model = GaussianVAE(data.features, BernoulliLikelihood(), latent_dim=2, hidden=(8,))
    trainer(max_steps=2, limit_val_batches=0).fit(model, datamodule=data)
    z = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    table = decode(model, {"z": z}, batch_size=2)
    expected = decoded_mean(model, {"z": torch.from_numpy(z)})
    np.testing.assert_allclose(table, expected, rtol=1e-5)
    assert table.columns.tolist() == list(range(data.features))


def test_means_of_cells_name_decode():
    """The functions for images do not fail in a product of matrices."""
    for covariates in (0, 2):
        model = GaussianVAE(12, NegativeBinomial(), covariates, latent_dim=2, hidden=(8,))
        with pytest.raises(VaekitError, match=r"also depends on .*vaekit\.analysis\.decode"):
            prior_means(model, 3)
    batch = GeneExpressionData(adata()).dataset.__getitems__([0])
    with pytest.raises(VaekitError, match=r"size factor.*vaekit\.analysis\.decode"):
        latent_traversal(GaussianVAE(12, NegativeBinomial(), latent_dim=2), "z", batch)
