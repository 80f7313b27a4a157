"""Panels of codes next to a column of the data with the same title."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from models.tiny import MODELS

from vaekit.diagnostics.usage import add_code_columns, code_columns
from vaekit.likelihoods import NegativeBinomial


def test_a_column_of_the_data_is_kept() -> None:
    model = MODELS["mixed"](NegativeBinomial())
    summaries = {name: torch.full((4, latent.size), 1 / latent.size) for name, latent in model.latents.items()}
    own = pd.Categorical(["a", "b", "a", "b"])
    result = add_code_columns({"code y": own, "age": np.ones(4)}, model, summaries)
    assert list(result) == ["code y", "age", "code y (model)"]
    assert result["code y"] is own
    assert list(result["code y (model)"]) == list(code_columns(model, summaries)["code y"])
