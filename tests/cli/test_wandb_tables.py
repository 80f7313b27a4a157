"""Tables of codes and markers for Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from models.tiny import MODELS, adata, trainer

from vaekit.cli.wandb_tables import result_tables
from vaekit.data import GeneExpressionData
from vaekit.likelihoods import NegativeBinomial


def test_markers_of_a_file_that_names_its_axis_of_genes(tmp_path: Path) -> None:
    cells = adata(cells=60, genes=20)
    counts = pd.DataFrame(cells.to_df().to_numpy().astype(int))
    counts.index, counts.columns = (f"s{i}" for i in range(60)), (f"q{i}" for i in range(20))
    counts.to_csv(tmp_path / "cells.csv")
    data = GeneExpressionData(path=str(tmp_path / "cells.csv"), genes_in="columns")
    model = MODELS["mixed"](NegativeBinomial(), data.features)
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    assert set(result_tables(model, data, ["y"])) == {"codes/y", "markers/y"}
