"""Training in bf16 mixed precision ends where training in float32 does."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl

from vaekit import GaussianVAE, MixedVAE
from vaekit.data import GeneExpressionData
from vaekit.likelihoods import NegativeBinomial

from .tiny import trainer


@pytest.fixture(scope="module")
def cells() -> GeneExpressionData:
    return GeneExpressionData(batch_size=64)


@pytest.mark.parametrize("kind", [GaussianVAE, MixedVAE])
def test_the_held_out_bound_is_that_of_float32(kind: type, cells: GeneExpressionData) -> None:
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        pl.seed_everything(0, verbose=False)
        model = kind(cells.features, NegativeBinomial(), learning_rate=0.004)
        trainer(max_epochs=12, precision=precision, limit_val_batches=0).fit(model, datamodule=cells)
        found[precision] = trainer().test(model, datamodule=cells, verbose=False)[0]["test/elbo"]
    assert found["bf16-mixed"] == pytest.approx(found["32-true"], rel=0.003)
