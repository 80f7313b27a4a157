"""Linear and additive decoders: no interactions, exact sums, covariates, new batches, training, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models.tiny import COUNT_LIKELIHOODS, adata, trainer

from vaekit.analysis import map_query, normalized_expression
from vaekit.batch import Batch
from vaekit.data import GeneExpressionData
from vaekit.exceptions import ConfigError
from vaekit.latents import Bernoulli, Categorical, Dirichlet, Gaussian
from vaekit.likelihoods import NegativeBinomial
from vaekit.likelihoods.counts import sparse
from vaekit.models import VAE, load, save
from vaekit.models.objectives import ELBO
from vaekit.networks import MLP, Additive, Identity, Linear, Network

DECODERS = [Linear, Identity, lambda: Additive(5), lambda: Additive(1, dropout=0.5)]


def build(decoder: Network, likelihood=NegativeBinomial, covariates: int = 3, **latents) -> VAE:
    torch.manual_seed(0)
    latents = latents or {"z": Gaussian(3), "y": Categorical(3, 2), "b": Bernoulli(2), "t": Dirichlet(2)}
    return VAE(12, MLP([8]), latents, decoder, likelihood(), covariates, ELBO(num_samples=2)).eval()


@pytest.mark.parametrize("likelihood", COUNT_LIKELIHOODS)
@pytest.mark.parametrize("make", DECODERS)
def test_effects_of_units_and_covariates_add_up(make, likelihood):
    """The second difference of the logits by any two inputs is 0."""
    model = build(make(), likelihood).double()
    networks, units = model.networks, 3 + 6 + 2 + 2

    def logits(x: torch.Tensor) -> torch.Tensor:
        batch = Batch(torch.zeros(1, 12), covariates=x[None, units:])
        return networks.likelihood.logits(networks.decode_units(x[None, :units], x[None, units:]), batch)[0]

    start = torch.randn(units + 3, dtype=torch.float64)
    steps = torch.eye(units + 3, dtype=torch.float64) * 1.7
    changes = [(logits(start + step) - logits(start)) for step in steps]
    assert min(change.abs().max() for change in changes) > 1e-3  # every input has an effect
    for i in range(units + 3):
        for j in range(i):
            both = logits(start + steps[i] + steps[j]) - logits(start)
            torch.testing.assert_close(both, changes[i] + changes[j])


def test_the_mlp_has_interactions():
    assert [network.is_additive for network in (MLP([4]), Linear(), Additive())] == [False, True, True]


def test_additive_is_a_sum_of_networks_of_one_unit():
    """Compare with a loop over the units, each with its own network."""
    network = Additive(4)
    width = network.build_decoder(3, 2)
    head = torch.nn.Linear(width, 7, bias=False)
    with torch.no_grad():
        network.slope.normal_()
        network.offset.normal_()
        x = torch.randn(2, 5, 5)
        total = x[..., 3:] @ head.weight[:, 15:].T
        for unit in range(3):
            z = x[..., unit, None]
            hidden = torch.relu(z * network.slope[unit] + network.offset[unit])
            columns = slice(3 + 4 * unit, 3 + 4 * (unit + 1))
            total = total + z * head.weight[:, unit] + hidden @ head.weight[:, columns].T
        torch.testing.assert_close(head(network(x)), total)


def test_no_tensor_of_units_and_genes():
    """The features of all units are the input of one matrix product, so memory does not grow with units x genes."""
    network = Additive(16)
    assert network.build_decoder(32, 0) == 32 * 17
    assert network(torch.zeros(64, 32)).shape == (64, 32 * 17)


@pytest.mark.parametrize("make", DECODERS[::2])
def test_the_sparse_likelihood_is_used(make, monkeypatch):
    data = GeneExpressionData(adata(), batch_key="batch", batch_size=20)
    data.setup("fit")
    calls = []
    original = sparse.log_prob
    monkeypatch.setattr(sparse, "log_prob", lambda *args: calls.append(1) or original(*args))
    model = build(make(), covariates=2, z=Gaussian(2))
    model.loss(next(iter(data.train_dataloader())), training=True).total.mean().backward()
    assert calls
    assert all(parameter.grad is not None for parameter in model.networks.decoder.parameters())


@pytest.mark.parametrize("make", DECODERS[::2])
def test_a_saved_model_and_new_batches(make, tmp_path):
    """A mapped model keeps the results of the known batches, because the covariates are the last features."""
    data = GeneExpressionData(adata(), batch_key="batch", batch_size=20)
    model = build(make(), covariates=2, z=Gaussian(2))
    trainer(max_epochs=3, limit_val_batches=0).fit(model, datamodule=data)
    save(model, tmp_path / "model.ckpt")
    loaded = load(tmp_path / "model.ckpt")
    cells, genes = adata(), list(adata().var_names)
    before = normalized_expression(cells, model, genes=genes)
    np.testing.assert_array_equal(before, normalized_expression(cells, loaded, genes=genes))
    query = adata(seed=1)
    query.obs["batch"] = "b3"
    mapped = map_query(query, loaded, batch_key="batch", max_epochs=2)
    np.testing.assert_allclose(normalized_expression(cells, mapped, genes=genes), before, rtol=1e-4)


def test_curves_that_a_line_cannot_follow():
    """The head of an additive decoder fits a bump by least squares; that of a linear one does not."""
    z = torch.linspace(-2, 2, 50)[:, None]
    target = torch.exp(-4 * z.square())
    errors = []
    for network in (Linear(), Additive(16)):
        network.build_decoder(1, 0)
        features = torch.cat([network(z).detach(), torch.ones(50, 1)], 1)
        solution = torch.linalg.lstsq(features, target, driver="gelsd").solution
        errors.append((features @ solution - target).square().mean().sqrt().item())
    assert errors[0] > 0.2
    assert errors[1] < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": 0}, "Additive: hidden=0 must be a positive number"),
        ({"dropout": 1.0}, r"Additive: dropout=1.0 must be in \[0, 1\)"),
        ({"dropout": -0.1}, r"Additive: dropout=-0.1 must be in \[0, 1\)"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Additive(**arguments)
