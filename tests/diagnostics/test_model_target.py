"""The measured gradient is that of the training loss, also with unobserved genes."""

from __future__ import annotations

import pytest
import torch
from models.tiny import COUNT_LIKELIHOODS, FEATURES, counts

from vaekit import DiscreteVAE
from vaekit.diagnostics.gradients.model_report import ModelTarget
from vaekit.estimators import Enumerate


@pytest.mark.parametrize("likelihood", COUNT_LIKELIHOODS)
def test_unobserved_genes_are_ignored(likelihood):
    torch.manual_seed(0)
    model = DiscreteVAE(FEATURES, likelihood(), variables=2, categories=3, hidden=[8], estimator=Enumerate()).eval()
    observed = (torch.arange(FEATURES) != 2).expand(12, FEATURES)
    batch = counts()._replace(observed=observed)
    batch = batch._replace(x=batch.x * observed)

    def measured(one):
        return ModelTarget(model, one, "y", 1.0).gradients({"y": Enumerate()}, 1)[0]

    target = ModelTarget(model, batch, "y", 1.0)
    loss = target.model.loss(batch, 1.0, training=True).total.mean()
    exact = torch.autograd.grad(loss, target.params)
    torch.testing.assert_close(measured(batch), torch.cat([g.flatten() for g in exact]), rtol=1e-4, atol=1e-6)
    zeros = batch._replace(observed=None)
    assert not torch.allclose(measured(batch), measured(zeros), rtol=1e-2)
