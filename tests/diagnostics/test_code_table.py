"""Sizes, certainty and labels of codes."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

import vaekit
from vaekit.diagnostics import code_table
from vaekit.diagnostics.code_table import MAX_LABELS


def model(variables: int = 1, categories: int = 3) -> vaekit.VAE:
    return vaekit.DiscreteVAE(4, vaekit.likelihoods.Bernoulli(), variables=variables, categories=categories)


PROBABILITIES = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])


def test_sizes_and_entropy() -> None:
    table = code_table(model(), {"y": PROBABILITIES}, "y")
    assert table["code"].tolist() == ["0", "1", "2"]
    assert table["n"].tolist() == [3, 0, 1]
    assert table["usage"].tolist() == pytest.approx([2.5 / 4, 0.25 / 4, 1.25 / 4])
    assert table["entropy"].tolist() == pytest.approx([1.5 * math.log(2) / 3, math.nan, 0], nan_ok=True)


def test_labels() -> None:
    labels = pd.Categorical(["b", "a", "b", None], ["a", "b", "unseen"])
    table = code_table(model(), {"y": PROBABILITIES}, "y", labels)
    assert table["label"].tolist() == ["b", "", ""]  # the only member of code 2 has no label
    assert table["label_fraction"].tolist() == pytest.approx([2 / 3, math.nan, math.nan], nan_ok=True)
    assert table["label_entropy"][0] == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert table["fraction a"].tolist() == pytest.approx([1 / 3, 0, 0])
    assert table["fraction b"].tolist() == pytest.approx([2 / 3, 0, 0])


def test_several_variables_and_many_labels() -> None:
    summary = torch.rand(200, 2 * 3).unflatten(-1, (2, 3)).softmax(-1).flatten(1)
    labels = pd.Categorical([f"{min(i, i % 50)}" for i in range(200)])
    table = code_table(model(2), {"y": summary}, "y", labels)
    assert table["code"].tolist() == ["0:0", "0:1", "0:2", "1:0", "1:1", "1:2"]
    assert table.groupby(table["code"].str[0])["n"].sum().tolist() == [200, 200]
    assert table.groupby(table["code"].str[0])["usage"].sum().tolist() == pytest.approx([1, 1])
    assert sum(column.startswith("fraction ") for column in table) == MAX_LABELS
