"""Figures: what colors and legends stand for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from vaekit.diagnostics import most_probable_codes
from vaekit.latents import Categorical
from vaekit.plotting import model_figures


def test_colors_and_legend_follow_the_order_of_the_categories() -> None:
    codes = most_probable_codes(Categorical(12), torch.nn.functional.one_hot(torch.arange(12).flip(0), 12).float())
    labels = pd.Categorical(["mid", "low", None] * 4, ["low", "mid", "never"], ordered=True)
    figure = model_figures.scatter(np.random.default_rng(0).normal(size=(12, 2)), {"code": codes, "label": labels})
    named = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in figure.axes]
    assert named == [[str(number) for number in range(12)], ["low", "mid", "unknown"]]
    colors = [collection.get_facecolor()[0].tolist() for collection in figure.axes[0].collections]
    assert len({tuple(color) for color in colors}) == 12
