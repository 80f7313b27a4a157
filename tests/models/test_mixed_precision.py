"""Training in bf16 mixed precision ends where training in float32 does."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from vaekit import GaussianVAE, MixedVAE
from vaekit.data import GeneExpressionData
from vaekit.exceptions import ConfigError
from vaekit.latents import Categorical
from vaekit.likelihoods import NegativeBinomial

from .tiny import MODELS, counts, trainer


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


@pytest.mark.parametrize("name", list(MODELS))
def test_latents_are_in_float32(name: str) -> None:
    """Draws of half-precision probabilities would have others, and densities would lose nats."""
    model = MODELS[name](NegativeBinomial())
    batch = counts()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = model.networks.encode(batch)
        assert h.dtype == torch.bfloat16
        values = model.networks.sample_posterior(h, 2)
        for latent in model.latents:
            q = model.networks.posterior(latent, h, values)
            p = model.networks.prior(latent, values, h)
            assert values[latent].dtype == torch.float32, latent
            for distribution in (q, p):
                assert distribution.log_prob(values[latent]).dtype == torch.float32, latent
                assert distribution.mean.dtype == torch.float32, latent


def test_draws_have_the_probabilities_of_the_logits() -> None:
    """Sixty-four categories, most of them rare: sums of half-precision probabilities would skip some of them."""
    torch.manual_seed(0)
    latent = Categorical(64)
    latent.build(8, None)
    with torch.no_grad():
        latent.head.weight.mul_(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = latent.posterior(torch.randn(1, 8))
        found = q.sample((200_000,)).double().mean((0, 1, 2))
    wanted = q.base_dist.logits.double().softmax(-1)[0, 0]
    assert (found - wanted).abs().sum() / 2 < 0.015  # in half precision .04


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_in_half_precision_are_refused(precision: str, cells: GeneExpressionData) -> None:
    model = GaussianVAE(cells.features, NegativeBinomial())
    with pytest.raises(ConfigError, match=f"trainer.precision='{precision}'.*bf16-mixed"):
        trainer(max_epochs=1, precision=precision).fit(model, datamodule=cells)
