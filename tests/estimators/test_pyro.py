"""Pyro as an independent oracle: the gradient of the ELBO for a discrete parent of a Gaussian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, OneHotCategorical

from vaekit import expectation
from vaekit.estimators import Enumerate, Estimator, LeaveOneOut, Pathwise, ScoreFunction

OBSERVED = 0.8
PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CENTRES = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
REPLICATES = 40_000


def leaves() -> dict[str, Tensor]:
    return {
        "logits": torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64),
        "location": torch.tensor([-0.5, 0.3, 1.1], dtype=torch.float64),
        "log_scale": torch.tensor(-0.4, dtype=torch.float64),
    }


def ours(estimators: dict[str, Estimator]) -> Tensor:
    """Return gradients ``[replicates, 7]`` of minus the ELBO."""
    theta = {n: p.expand(REPLICATES, *p.shape).clone().requires_grad_() for n, p in leaves().items()}

    def at(y: Tensor) -> Normal:
        return Normal((y * theta["location"]).sum(-1), theta["log_scale"].exp())

    prior = OneHotCategorical(probs=PRIOR)
    q_y = OneHotCategorical(logits=theta["logits"])
    cost = {
        "kl_y": lambda y: q_y.log_prob(y) - prior.log_prob(y),
        "kl_z": lambda y, z: at(y).log_prob(z) - Normal((y * CENTRES).sum(-1), 1.0).log_prob(z),
        "reconstruction": lambda z: -Normal(torch.sin(z), 0.5).log_prob(torch.tensor(OBSERVED, dtype=torch.float64)),
    }
    total = expectation(cost, {"y": q_y, "z": at}, estimators)
    return torch.cat([g.reshape(REPLICATES, -1) for g in torch.autograd.grad(total.sum(), list(theta.values()))], 1)


@pytest.fixture(scope="module")
def pyro_gradient() -> tuple[Tensor, Tensor]:
    """Return Pyro's gradient and its error: TraceEnum_ELBO sums over the code and samples the Gaussian."""
    pyro = pytest.importorskip("pyro")
    import pyro.distributions as dist
    from pyro.infer import TraceEnum_ELBO

    pyro.set_rng_seed(0)
    batch = 500

    def gradient() -> Tensor:
        theta = {n: p.clone().requires_grad_() for n, p in leaves().items()}

        def model() -> None:
            with pyro.plate("batch", batch):
                y = pyro.sample("y", dist.Categorical(PRIOR))
                z = pyro.sample("z", dist.Normal(CENTRES[y], 1.0))
                pyro.sample("x", dist.Normal(torch.sin(z), 0.5), obs=torch.full((batch,), OBSERVED).double())

        def guide() -> None:
            with pyro.plate("batch", batch):
                y = pyro.sample("y", dist.Categorical(logits=theta["logits"]), infer={"enumerate": "parallel"})
                pyro.sample("z", dist.Normal(theta["location"][y], theta["log_scale"].exp()))

        loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide) / batch
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(theta.values()))])

    actual = torch.stack([gradient() for _ in range(80)])
    return actual.mean(0), actual.std(0) / len(actual) ** 0.5


@pytest.mark.parametrize(
    "estimators",
    [
        {"y": Enumerate(), "z": Pathwise()},
        {"y": ScoreFunction(num_samples=4, baseline=LeaveOneOut()), "z": Pathwise()},
        {
            "y": ScoreFunction(num_samples=2, baseline=LeaveOneOut()),
            "z": ScoreFunction(num_samples=4, baseline=LeaveOneOut()),
        },
    ],
    ids=["enumerate-pathwise", "score-pathwise", "score-score"],
)
def test_gradient_of_the_elbo_agrees_with_pyro(estimators: dict[str, Estimator], pyro_gradient) -> None:
    theirs, their_error = pyro_gradient
    gradients = ours(estimators)
    error = (their_error.square() + gradients.var(0) / REPLICATES).sqrt()
    assert (error < 0.02 * theirs.norm()).all()
    assert ((gradients.mean(0) - theirs).abs() / error).max() < 4
