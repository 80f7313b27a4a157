"""Every evaluation of a model restores the mode of each module, also after an error."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models.tiny import FEATURES, MODELS, counts, pixels

from vaekit.analysis.decoding import evaluating
from vaekit.batch import Batch
from vaekit.diagnostics import (
    decoded_mean,
    importance_sampled_log_likelihood,
    latent_traversal,
    posterior_summaries,
    sample_prior,
)
from vaekit.diagnostics.image_figures import reconstructions
from vaekit.likelihoods import Bernoulli, NegativeBinomial
from vaekit.models import VAE


def decoded(model: VAE, batch: Batch) -> None:
    with evaluating(model):
        model.posteriors(batch)


def reconstructed(model: VAE, batch: Batch) -> None:
    reconstructions(model, SimpleNamespace(dataloader=lambda *_, **__: [batch], image_shape=(1, 1, FEATURES)))


CALLS: dict[str, Callable[[VAE, Batch], Any]] = {
    "decoding": decoded,
    "importance": lambda model, batch: importance_sampled_log_likelihood(model, [batch], 2),
    "latents": lambda model, batch: posterior_summaries(model, [batch]),
    "traversal": lambda model, batch: latent_traversal(model, "z", Batch(batch.x[:1])),
    "prior": lambda model, batch: decoded_mean(model, sample_prior(model, 2)),
    "reconstructions": reconstructed,
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_modes_are_restored(call: str, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    likelihood, batch = (NegativeBinomial(), counts(4)) if call == "decoding" else (Bernoulli(), pixels(4))
    model = MODELS["gaussian"](likelihood, dropout=0.5).train()
    model.networks.encoder.eval()  # frozen during training
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    during = []

    def look(*_: Any, **__: Any) -> None:
        during.append((any(module.training for module in model.modules()), torch.is_grad_enabled()))
        if fails:
            raise KeyboardInterrupt

    for part in (model.networks.encoder, model.networks.decoder):
        part.register_forward_pre_hook(look)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            CALLS[call](model, batch)
    else:
        CALLS[call](model, batch)
    assert set(during) == {(False, False)}
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()
