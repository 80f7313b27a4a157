"""A run is resumed only with data of the same genes and covariates."""

from __future__ import annotations

import numpy as np
import pytest

from vaekit.data import GeneExpressionData
from vaekit.exceptions import CheckpointError
from vaekit.likelihoods import NegativeBinomial

from .tiny import MODELS, adata, trainer

TRAINED = {
    "batch_key": "batch",
    "categorical_covariate_keys": ["donor", "sex"],
    "continuous_covariate_keys": ["age", "dose"],
}


def cells(rows: slice = slice(None)):
    made = adata()
    made.obs["donor"] = np.array(["d1", "d2", "d3"])[np.arange(60) % 3]
    made.obs["sex"] = np.array(["f", "m"])[np.arange(60) // 30]
    made.obs["age"], made.obs["dose"] = np.arange(60.0), np.linspace(0, 1, 60)
    return made[rows].copy()


@pytest.fixture(scope="module")
def model():
    data = GeneExpressionData(cells(), **TRAINED)
    made = MODELS["gaussian"](NegativeBinomial(), features=data.features, covariates=data.covariates)
    trainer(max_steps=1, limit_val_batches=0).fit(made, datamodule=data)
    return made


def go_on(model, adata, **arguments):
    data = GeneExpressionData(adata, **{**TRAINED, **arguments})
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"categorical_covariate_keys": ["sex", "donor"]}, "2 categorical covariates.*'donor' and 'sex'"),
        ({"continuous_covariate_keys": ["dose", "age"]}, "2 continuous covariates.*'age' and 'dose'"),
        ({"continuous_covariate_keys": ["age"]}, "2 continuous covariates, but the data have 1"),
        ({"batch_key": "sex", "categorical_covariate_keys": ["donor", "batch"]}, "batches"),
    ],
)
def test_other_covariates(model, arguments, message):
    with pytest.raises(CheckpointError, match=message):
        go_on(model, cells(), **arguments)


def test_other_levels(model):
    other = cells()
    other.obs["donor"] = other.obs["donor"].replace({"d2": "d9"})
    with pytest.raises(CheckpointError, match=r"3 categories of the covariate 'donor'.*'d2' and 'd3'"):
        go_on(model, other)
    with pytest.raises(CheckpointError, match="categories of the covariate 'sex', but the data have 1"):
        go_on(model, cells(slice(30)))


def test_the_same_ones_in_other_cells(model):
    go_on(model, cells(slice(6, 54)))
