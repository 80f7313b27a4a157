"""Training steps as CUDA graphs in Lightning; without a GPU the steps do not use graphs."""

import pytest
import torch
from models.tiny import MODELS, counts, fit

from vaekit.callbacks import CUDAGraphs, GradientClippingMonitor, TerminateOnNonFinite
from vaekit.exceptions import ConfigError
from vaekit.likelihoods import NegativeBinomial
from vaekit.models.objectives import ELBO


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gaussian", "discrete_gumbel_soft", "discrete_moving_average", "mixed"])
def test_training_is_the_same(name):
    def train(callbacks):
        torch.manual_seed(0)
        model = MODELS[name](NegativeBinomial(), objective=ELBO(warmup=0.5))
        used = fit(
            model,
            counts(),
            7,
            callbacks=[TerminateOnNonFinite(), GradientClippingMonitor(), *callbacks],
            gradient_clip_val=1.0,
        )
        assert "compute_step" not in vars(model)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        return weights, used.global_step, {key: value.item() for key, value in used.callback_metrics.items()}

    (weights, *metrics), (expected_weights, *expected_metrics) = train([CUDAGraphs()]), train([])
    assert weights.equal(expected_weights)
    assert metrics == expected_metrics


@pytest.mark.filterwarnings("ignore")
def test_unsupported_trainers():
    with pytest.raises(ConfigError, match="accumulate_grad_batches=2 is not supported"):
        fit(MODELS["gaussian"](NegativeBinomial()), counts(), 4, callbacks=[CUDAGraphs()], accumulate_grad_batches=2)
