"""The gradient of latents that depend on one another: against all paths, and who pays for what.

By z-score as in test_gradients.py: the replicates are backward passes over many copies of two cells, and each parameter
tensor is looked at along the exact gradient and along a random direction: some 40 scores a case with |z| < 4, a false
alarm with a probability of 0.3 %.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vaekit.estimators import Enumerate, Estimator, GumbelSoftmax, LeaveOneOut, MovingAverage, ScoreFunction
from vaekit.models import VAE
from vaekit.models.objectives import ELBO, IWAE

from .paths import cells, critic, list_paths, sequential
from .tiny import sharpen

REPLICATES, COPIES, KL_WEIGHT = 60, 400, 0.7

JOINT: dict[str, tuple[Estimator, int]] = {
    "leave_one_out": (ScoreFunction(baseline=LeaveOneOut()), 4),
    "critic": (critic(), 1),
    "critics": (critic(), 3),
    "critic_and_leave_one_out": (critic(baseline=LeaveOneOut()), 3),
    "moving_average": (ScoreFunction(baseline=MovingAverage()), 2),
}


def own_parameters(model: VAE) -> dict[str, Tensor]:
    """Return the parameters that are not a critic's."""
    critics = {id(p) for e in model.estimators.values() for p in e.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) not in critics}


@torch.no_grad()
def blind_decoder(model: VAE) -> None:
    """Set the decoder to a constant."""
    next(m for m in model.networks.decoder.modules() if isinstance(m, torch.nn.Linear)).weight.zero_()


def exact_gradients(model: VAE) -> dict[str, Tensor]:
    parameters = own_parameters(model)
    loss = list_paths(model, cells(1)).loss(KL_WEIGHT).mean()
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def drawn_gradients(model: VAE) -> dict[str, Tensor]:
    """Return independent estimates, ``[replicates, *parameter]``."""
    parameters = own_parameters(model)
    runs = []
    for _ in range(REPLICATES):
        loss = model.loss(cells(COPIES), KL_WEIGHT, training=True).total.mean()
        runs.append(torch.autograd.grad(loss, list(parameters.values())))
    return {name: torch.stack(column) for name, column in zip(parameters, zip(*runs, strict=True), strict=True)}


def scores(model: VAE) -> tuple[float, float]:
    """Return the largest |z| over parameters and directions, and the largest error over the gradient's norm."""
    exact, drawn = exact_gradients(model), drawn_gradients(model)
    worst, coarsest = 0.0, 0.0
    for name, gradient in exact.items():
        own, estimates = gradient.double().flatten(), drawn[name].double().flatten(1)
        norm = own.norm()
        for direction in (own / norm, torch.nn.functional.normalize(torch.randn_like(own), dim=0)):
            along = estimates @ direction
            error = (along.std() / math.sqrt(REPLICATES)).clamp_min(1e-5 * norm)
            worst = max(worst, ((along.mean() - own @ direction).abs() / error).item())
            coarsest = max(coarsest, (error / norm).item())
    return worst, coarsest


@pytest.mark.parametrize("name", JOINT)
def test_gradient_on_joint_trajectories_is_that_of_all_paths(name):
    estimator, num_samples = JOINT[name]
    model = sharpen(sequential(estimator, num_samples), 1.5)
    for _ in range(20):  # until running means converge
        model.loss(cells(10), KL_WEIGHT, training=True)
    worst, coarsest = scores(model)
    assert coarsest < 0.15
    assert worst < 4


def test_a_wrong_critic_biases_below_one_alone():
    """Else the test above could not fail."""
    found = {}
    for lam in (0.0, 1.0):
        model = sharpen(sequential(critic(lam), 3), 1.5)
        for latent in model.latents.values():
            latent.estimator.critic.running.requires_grad_(False)
            torch.nn.init.normal_(latent.estimator.critic.head.weight, std=30.0)
        found[lam] = scores(model)[0]
    assert found[1.0] < 4 < 10 < found[0.0]


def test_sums_over_all_latents_are_exact():
    model = sharpen(sequential(Enumerate(), None), 1.5)
    result = model.loss(cells(1), KL_WEIGHT, training=True)
    listed = list_paths(model, cells(1))
    torch.testing.assert_close(result.total.double(), listed.loss(KL_WEIGHT), rtol=1e-5, atol=1e-5)
    parameters = own_parameters(model)
    found = torch.autograd.grad(result.total.mean(), list(parameters.values()))
    for (name, exact), gradient in zip(exact_gradients(model).items(), found, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-3, atol=1e-5, msg=name)
    # each divergence is a mean over the paths before it
    log_q, difference = listed.log_q.detach(), (listed.log_q - listed.log_p).detach()
    for place, name in enumerate(model.latents):
        divergence = (log_q.sum(0).exp() * difference[place]).sum(0)
        torch.testing.assert_close(result.terms[f"kl_{name}"].double(), divergence, rtol=1e-4, atol=1e-6)


def test_relaxed_values_pass_their_gradient_on():
    model = sharpen(sequential(GumbelSoftmax(hard=True), 4))
    model.loss(cells(5), training=True).total.mean().backward()
    for name in ("z1", "z2", "z3"):
        assert model.latents[name].head.weight.grad.abs().sum() > 0
    # where the decoder sees nothing, the first latent still acts on the divergences of the others
    model = sharpen(sequential(GumbelSoftmax(hard=True), 4))
    blind_decoder(model)
    model.networks.latents["z1"].prior_logits.requires_grad_(False)
    batch = cells(5)
    total = model.loss(batch, training=True).total.mean()
    h = model.networks.encode(batch)
    own = torch.distributions.kl_divergence(
        model.networks.posterior("z1", h, {}), model.networks.prior("z1", {}, h)
    ).mean()
    head = [model.latents["z1"].head.weight]
    assert not torch.autograd.grad(total, head)[0].allclose(torch.autograd.grad(own, head)[0], atol=1e-4)


def test_a_latent_pays_for_what_it_can_change():
    """With a constant decoder, the last latent's gradient equals the gradient of its divergence exactly."""
    model = sharpen(sequential(ScoreFunction(baseline=LeaveOneOut())))
    blind_decoder(model)  # all values have one reconstruction, which leave-one-out subtracts
    batch = cells(5)
    result = model.loss(batch, KL_WEIGHT, training=True)
    values = {name: draw.value for name, draw in result.samples.items()}
    last, h = model.latents["z3"], model.networks.encode(batch)
    q = model.networks.posterior("z3", h, values)
    p = model.networks.prior("z3", values, h)
    divergence = torch.distributions.kl_divergence(q, p).mean()
    (found,) = torch.autograd.grad(result.total.mean(), [last.head.weight])
    (wanted,) = torch.autograd.grad(KL_WEIGHT * divergence, [last.head.weight])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_importance_weighted_gradient_is_that_of_all_pairs_of_paths():
    """|z| < 4 for two directions of some 13 tensors: a false alarm with a probability of 0.2 %."""
    model = sharpen(sequential(categories=(2, 2), objective=IWAE(2)), 1.5)
    listed = list_paths(model, cells(1))
    log_q, log_weight = listed.log_q.sum(0), listed.log_x + listed.log_p.sum(0) - listed.log_q.sum(0)
    pair = torch.stack(torch.broadcast_tensors(log_weight[:, None], log_weight[None])).logsumexp(0) - math.log(2)
    exact = -((log_q[:, None] + log_q[None]).exp() * pair).sum((0, 1)).mean()
    parameters = own_parameters(model)
    wanted = torch.autograd.grad(exact, list(parameters.values()))
    runs = [
        torch.autograd.grad(model.loss(cells(COPIES), training=True).total.mean(), list(parameters.values()))
        for _ in range(REPLICATES)
    ]
    for name, own, column in zip(parameters, wanted, zip(*runs, strict=True), strict=True):
        estimates, norm = torch.stack(column).double().flatten(1), own.norm().double()
        for direction in (
            own.flatten().double() / norm,
            torch.nn.functional.normalize(torch.randn(own.numel()).double(), dim=0),
        ):
            along = estimates @ direction
            error = (along.std() / math.sqrt(REPLICATES)).clamp_min(1e-5 * norm)
            assert error < 0.2 * norm, name
            assert (along.mean() - own.flatten().double() @ direction).abs() < 4 * error, name


@pytest.mark.parametrize("num_samples", [None, 4])
@pytest.mark.parametrize("share", [0.5, 1.2])
def test_floor_is_under_the_mean_divergence_of_each_latent(num_samples, share):
    """For any order of the samples of its parents."""
    model = sharpen(sequential(ScoreFunction(), num_samples))
    batch = cells(5000)
    means = {name: value.mean().item() for name, value in model.loss(batch, training=True).terms.items()}
    floor = share * max(value for name, value in means.items() if name != "reconstruction")
    model.objective = ELBO(free_bits=floor, num_samples=num_samples)
    result = model.loss(batch, training=True)
    means = {name: value.mean().item() for name, value in result.terms.items()}
    wanted = means.pop("reconstruction") + sum(max(floor, value) for value in means.values())
    assert result.total.mean().item() == pytest.approx(wanted, rel=1e-4)
