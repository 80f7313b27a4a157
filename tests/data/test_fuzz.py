"""Any h5ad file ends in a trained model with finite numbers, or in one clear error."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models.tiny import trainer
from scipy import sparse

from vaekit import GaussianVAE, MixedVAE, VaekitError
from vaekit.analysis import embed
from vaekit.callbacks import TerminateOnNonFinite
from vaekit.data import GeneExpressionData
from vaekit.likelihoods import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

UNICODE = ["", " ", "T-Zelle", "Ť buňka", "细胞", "🧬", "a\nb", "nan", "None", "1", "a/b", "..", "ﬀ", "\u200b", "'"]


def mostly(good: list, bad: list) -> st.SearchStrategy:
    """Draw from the good ones nine times in ten: a file with ten faults is told of one."""
    return st.integers(0, 9).flatmap(lambda number: st.sampled_from(bad if number == 9 else good))


cells, genes = mostly([12, 30, 31], [0, 1, 2, 3, 5]), mostly([2, 7, 8], [0, 1])


def values(kind: str, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Return a matrix of a kind."""
    counts = generator.poisson(1.5, shape)
    match kind:
        case "zeros":
            return np.zeros(shape, np.float32)
        case "empty cells":
            return counts.astype(np.float32) * (np.arange(shape[0]) % 3 > 0)[:, None]
        case "empty genes":
            return counts.astype(np.float32) * (np.arange(shape[1]) % 3 > 0)
        case "large":
            return generator.integers(0, 2**24, shape).astype(np.float64)
        case "huge":
            return generator.choice([0.0, 1.0, 2.0**40, 2.0**100, 3e38], shape)
        case "inexact":
            return generator.choice([0, 1, 2**24 + 1, 2**53 + 1, 2**62], shape).astype(np.int64)
        case "fractions":
            return generator.random(shape)
        case "NaN" | "infinite" | "negative":
            counts = counts.astype(np.float64)
            counts.flat[: 1 + counts.size // 9] = {"NaN": np.nan, "infinite": np.inf, "negative": -1}[kind]
            return counts
        case "complex":
            return counts.astype(np.complex64)
        case _:
            return counts.astype(kind)


KINDS = mostly(
    [
        "float32",
        "float64",
        "int64",
        "int32",
        "uint8",
        "uint16",
        "bool",
        "float16",
        "zeros",
        "empty cells",
        "empty genes",
        "large",
        "huge",
    ],
    ["inexact", "fractions", "NaN", "infinite", "negative", "complex"],
)


def column(kind: str, count: int, generator: np.random.Generator) -> Any:
    """Return a column of obs of a kind."""
    match kind:
        case "unicode":
            return pd.Categorical(generator.choice(UNICODE, count))
        case "unused levels":
            return pd.Categorical(generator.choice(["a", "b"], count), categories=["never", "b", "a", "nor this"])
        case "ordered":
            return pd.Categorical(generator.choice(["low", "high"], count), categories=["low", "high"], ordered=True)
        case "some NaN":
            return pd.Categorical(generator.choice(["a", "b", None], count))
        case "all NaN":
            return np.full(count, np.nan)
        case "one level":
            return pd.Categorical(["only"] * count)
        case "all different":
            return [f"cell {i}" for i in range(count)]
        case "strings":
            return np.array(generator.choice(["x", "y", "1"], count), dtype=object)
        case "bool":
            return generator.random(count) < 0.5
        case "integers":
            return generator.integers(-3, 3, count)
        case "numbers":
            return generator.normal(0, 3, count)
        case "positive":
            return generator.lognormal(3, 1, count)
        case "constant":
            return np.full(count, 2.5)
        case "extreme":
            return generator.choice([1e-300, 1e300, 1.0, 1e38, 1e-45], count)
        case "infinite":
            return generator.choice([1.0, np.inf, -np.inf], count)
        case _:
            return np.zeros(count)


GROUPS = ["unicode", "unused levels", "ordered", "one level", "strings", "bool", "integers"]
NUMBERS = ["integers", "numbers", "positive", "constant", "extreme"]
OTHERS = ["some NaN", "all NaN", "all different", "infinite", "zeros"]


@st.composite
def files(draw: st.DrawFn) -> tuple[anndata.AnnData, dict[str, Any]]:
    """Draw the contents of a file, and how it is read."""
    generator = np.random.default_rng(draw(st.integers(0, 2**20)))
    shape = draw(cells), draw(genes)
    matrix: Any = values(draw(KINDS), shape, generator)
    form = draw(st.sampled_from(["dense", "csr", "csc"]))
    if form != "dense" and matrix.dtype != np.float16:
        matrix = getattr(sparse, f"{form}_matrix")(matrix)
    kinds = {key: draw(mostly(GROUPS, OTHERS)) for key in ("label", "batch", "group")}
    kinds |= {
        "number": draw(mostly(NUMBERS, OTHERS)),
        "size": draw(mostly(["positive", "constant"], ["extreme", *OTHERS])),
    }
    obs = pd.DataFrame(
        {key: column(kind, shape[0], generator) for key, kind in kinds.items()},
        index=[f"c{i}" for i in range(shape[0])],
    )
    names = draw(mostly(["unique", "unicode", "digits"], ["duplicated", "empty"]))
    var_names = {
        "unique": [f"g{i}" for i in range(shape[1])],
        "duplicated": ["g"] * shape[1],
        "unicode": UNICODE[2 : 2 + shape[1]],
        "empty": UNICODE[: shape[1]],
        "digits": [str(i) for i in range(shape[1])],
    }[names]
    if draw(st.booleans()) and shape[0]:
        obs.index = [UNICODE[i % 9] for i in range(shape[0])]
    adata = anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=var_names))
    layer = draw(mostly([None, "X", "counts"], ["raw", "missing"]))
    if layer == "counts":
        adata.layers["counts"] = matrix
    if layer == "raw" and draw(st.booleans()):
        adata.raw = adata.copy()
    asked = {
        "layer": layer,
        "label_key": draw(mostly([None, "label"], ["missing", "number"])),
        "batch_key": draw(mostly([None, "batch"], ["missing", "number"])),
        "categorical_covariate_keys": draw(mostly([None, ["group"]], [["group", "batch"], ["number"], ["missing"]])),
        "continuous_covariate_keys": draw(mostly([None, ["number"]], [["size"], ["label"]])),
        "size_factor_key": draw(mostly([None, "size"], ["number", "label"])),
        "n_top_genes": draw(mostly([None, 1, 2], [1000, 0, -2])),
        "batch_size": draw(mostly([1, 8, 128], [0])),
    }
    return adata, asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return tmp_path_factory.mktemp("fuzz")


def attempt(adata: anndata.AnnData, asked: dict[str, Any], folder: Path, kind: int) -> None:
    """Write, read, train for two steps, and embed."""
    adata.write_h5ad(folder / "cells.h5ad")
    likelihood = (NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial)[kind % 3]()
    model_class = (GaussianVAE, MixedVAE)[kind % 2]
    data = GeneExpressionData(path=str(folder / "cells.h5ad"), **asked)
    model = model_class(data.features, likelihood, covariates=data.covariates, hidden=[4])
    trainer(folder, max_steps=2, callbacks=[TerminateOnNonFinite()]).fit(model, datamodule=data)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    bound = model.eval().loss(data.example).total
    assert bound.isfinite().all()
    found = anndata.read_h5ad(folder / "cells.h5ad")
    embed(found, model)
    assert np.isfinite(found.obsm["X_vaekit"]).all()


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(file=files(), kind=st.integers(0, 5))
def test_any_file_ends_in_a_result_or_one_clear_error(folder: Path, file: tuple, kind: int) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = None
        try:
            attempt(*file, folder, kind)
        except VaekitError as error:
            message = str(error)
    if message is not None:
        assert len(message) > 20
        assert "\n" not in message.replace("a\nb", "")
