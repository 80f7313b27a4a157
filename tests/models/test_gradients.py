"""The gradient of the training loss: every unbiased estimator agrees with the exact sum over codes.

By z-score, the replicates being backward passes over many copies of two cells. For each parameter tensor two
directions are tested, that of the exact gradient and a random one: some 20 scores a case with |z| < 4, so that a
case is a false alarm with a probability of 0.13 %. The standard error is at most 3 % of the exact gradient's norm,
for a score function without baseline 9 %: a bias of 12 % (36 %) fails.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vaekit import DiscreteVAE, MixedVAE
from vaekit.batch import Batch
from vaekit.estimators import Enumerate
from vaekit.latents import Categorical, Gaussian
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE
from vaekit.models.objectives import ELBO

from .tiny import DISCRETE_ESTIMATORS, FEATURES, UNBIASED, counts, sharpen

REPLICATES, COPIES = 60, 1500


def discrete(estimator) -> VAE:
    return DiscreteVAE(FEATURES, NegativeBinomial(), variables=2, categories=3, hidden=[6], estimator=estimator)


def mixed(estimator) -> VAE:
    latents = {"y": Categorical(3, learned_prior=True, estimator=estimator), "z": Gaussian(1, parents=["y"])}
    return MixedVAE(FEATURES, NegativeBinomial(), latents=latents, hidden=[6], dropout=0.0)


def seen(estimator) -> VAE:
    """A category that the decoder sees with a Gaussian declared first."""
    latents = {"z": Gaussian(1), "y": Categorical(3, estimator=estimator)}
    return MixedVAE(FEATURES, NegativeBinomial(), latents=latents, hidden=[6], dropout=0.0)


def cells(copies: int) -> Batch:
    return Batch(*(None if f is None else f[:2].repeat_interleave(copies, 0) for f in counts()))


def gradients(model: VAE, batch: Batch) -> dict[str, Tensor]:
    """Return the gradient of the loss with respect to the model's own parameters."""
    model.zero_grad()
    model.loss(batch, kl_weight=0.7, training=True).total.mean().backward()
    baselines = {id(p) for e in model.estimators.values() for p in e.parameters()}
    return {n: p.grad.double().flatten() for n, p in model.named_parameters() if id(p) not in baselines}


def summed_gradients(make: Callable[..., VAE]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return parameters, and gradients with the codes summed ``[replicates, size]`` (a Gaussian is still drawn)."""
    model = sharpen(make(Enumerate()), 1.5)
    runs = [gradients(model, cells(COPIES)) for _ in range(REPLICATES)]
    state = model.state_dict()
    return state, {name: torch.stack([run[name] for run in runs]) for name in runs[0]}


@pytest.fixture(scope="module")
def reference() -> Callable:
    found = {}
    for make in (discrete, mixed, seen):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found[make] = summed_gradients(make)
    return found.__getitem__


@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.parametrize("make", [discrete, mixed, seen])
def test_gradient_is_that_of_the_exact_sum(make, name, reference):
    state, summed = reference(make)
    model = make(DISCRETE_ESTIMATORS[name]())
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("baseline" in key for key in missing)
    for _ in range(20):  # until moving averages converge
        gradients(model, cells(10))
    found = [gradients(model, cells(COPIES)) for _ in range(REPLICATES)]
    for parameter, own in summed.items():
        gradient = own.mean(0)
        norm = gradient.norm()
        estimates = torch.stack([run[parameter] for run in found])
        for direction in (gradient / norm, torch.nn.functional.normalize(torch.randn_like(gradient), dim=0)):
            sampled, exact = estimates @ direction, own @ direction
            error = ((sampled.var() + exact.var()) / REPLICATES).sqrt()
            assert error < (0.09 if "score" in name else 0.03) * norm, parameter
            z = (sampled.mean() - exact.mean()) / error.clamp_min(1e-6 * norm)
            assert abs(z) < 4, (parameter, z)


@pytest.mark.parametrize("make", [discrete, mixed, seen])
def test_exact_gradient_is_that_of_finite_differences(make):
    model = sharpen(make(Enumerate()), 1.5).double()
    batch = Batch(*(None if f is None else f.double() if f.is_floating_point() else f for f in cells(20)))
    head = model.latents["y"].head.weight

    def loss() -> Tensor:
        torch.manual_seed(3)  # the same Gaussian noise
        return model.loss(batch, kl_weight=0.7, training=True).total.mean()

    loss().backward()
    for index in [(0, 0), (1, 2), (2, 5)]:
        with torch.no_grad():
            head[index] += 1e-5
            above = loss()
            head[index] -= 2e-5
            below = loss()
            head[index] += 1e-5
        assert head.grad[index] == pytest.approx((above - below).item() / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("make", [discrete, mixed, seen])
def test_free_bits_below_the_floor_leave_the_gradient_of_the_reconstruction(make):
    model = sharpen(make(Enumerate()))

    def of(objective: ELBO, kl_weight: float) -> list[Tensor]:
        model.objective = objective
        torch.manual_seed(3)
        total = model.loss(cells(4), kl_weight, training=True).total.mean()
        found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]

    for floored, reconstruction in zip(of(ELBO(free_bits=50.0), 1.0), of(ELBO(), 0.0), strict=True):
        torch.testing.assert_close(floored, reconstruction, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("estimator", ["enumerate", "leave_one_out", "self_critic"])
@pytest.mark.parametrize("make", [discrete, mixed, seen])
@pytest.mark.parametrize("share", [0.5, 0.9, 1.2])
def test_floor_is_under_the_mean_divergence_of_each_latent(make, estimator, share):
    """However the rows of its parent come: the KL divergence of a latent is a mean over them, too."""
    model = sharpen(make(DISCRETE_ESTIMATORS[estimator]()))
    if make is mixed:
        with torch.no_grad():  # the components lie at different distances from the posterior
            model.latents["z"].components.weight[0].copy_(torch.tensor([0.0, 2.0, 6.0]))
    kl = {n: v.mean().item() for n, v in model.loss(cells(2000)).terms.items() if n.startswith("kl_")}
    floor = share * max(kl.values())
    model.objective = ELBO(free_bits=floor)
    result = model.loss(cells(2000), training=True)
    means = {name: value.mean().item() for name, value in result.terms.items()}
    wanted = means.pop("reconstruction") + sum(max(floor, value) for value in means.values())
    assert result.total.mean().item() == pytest.approx(wanted, rel=1e-4)
