"""A training step asks nothing of the device, shown on the CPU by the operations that it calls."""

import numpy as np
import pytest
import torch
from models.tiny import MODELS, batch_for
from scipy import sparse as scipy_sparse

from gpu.waiting import NoWaiting, make_optimizer
from vaekit import DiscreteVAE, MixedVAE
from vaekit.data.cells.count_dataset import CountDataset, CountsOnDevice
from vaekit.estimators import ARM, REBAR, RELAX, DisARM, GumbelRao, LocalExpectation, MuProp, Pathwise, ReinMax
from vaekit.latents import Bernoulli as BernoulliLatent
from vaekit.likelihoods import Bernoulli, NegativeBinomial, ZeroInflatedNegativeBinomial
from vaekit.likelihoods.counts import sparse
from vaekit.models import parameter_groups
from vaekit.models.cuda_graph import CUDAGraphStep
from vaekit.models.objectives import ELBO, IWAE
from vaekit.networks import MLP

OTHERS = [ARM, DisARM, GumbelRao, LocalExpectation, MuProp, REBAR, ReinMax, lambda: RELAX(MLP([4]))]


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.clone().__setitem__(x > 0, torch.ones(2)),
        lambda x: torch.repeat_interleave(x.long()),
        lambda x: x.unique(),
        lambda x: x.equal(x + 1),
    ],
)
def test_waiting_is_found(wait):
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        wait(torch.tensor([1.0, 0.0, 2.0]))


def gpu_clip(parameters, limit):
    """Clip as on a GPU, where the norm is not looked at."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Take the branches of a GPU but for its kernels, in whose place is the dense formula."""
    monkeypatch.setattr(parameter_groups, "clip_gradients", gpu_clip)
    monkeypatch.setattr(sparse, "_in_range", lambda *inputs: False)


def check(model, batch):
    model.train()
    optimizer = make_optimizer(model, 1e-3, 1e-4)

    def step():
        optimizer.zero_grad()
        model.on_train_batch_start(batch, 0)
        model.training_step(batch, 1).backward()
        model.configure_gradient_clipping(optimizer, 10.0, "norm")
        optimizer.step()

    step()  # the first one looks for gradient paths
    with NoWaiting():
        step()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("likelihood", [NegativeBinomial, ZeroInflatedNegativeBinomial, Bernoulli])
def test_no_step_waits(as_on_a_gpu, name, likelihood):
    torch.manual_seed(0)
    check(MODELS[name](likelihood()), batch_for(likelihood))


@pytest.mark.parametrize("estimator", OTHERS, ids=lambda make: make.__name__)
def test_no_estimator_waits(as_on_a_gpu, estimator):
    torch.manual_seed(0)
    binary = estimator in (ARM, DisARM, MuProp)
    if binary:
        model = MixedVAE(5, Bernoulli(), latents={"b": BernoulliLatent(3, estimator=estimator())}, hidden=[8])
    else:
        model = DiscreteVAE(5, Bernoulli(), variables=2, categories=3, hidden=[8], estimator=estimator())
    check(model, batch_for(Bernoulli))


def test_no_batch_waits():
    counts = scipy_sparse.csr_matrix(np.random.default_rng(0).poisson(0.4, (30, 12)).astype(np.float32))
    dataset = CountDataset(counts)
    moved = CountsOnDevice(dataset, torch.device("cpu"))
    index = torch.tensor([4, 0, 29])
    lengths = torch.from_numpy(np.diff(counts.indptr))[index].long()
    count = int(lengths.sum())
    with NoWaiting():
        batch = moved.gather(index, lengths, count)
    assert batch.x.equal(dataset.__getitems__(index).x)


@pytest.mark.parametrize("objective", [lambda: ELBO(free_bits=0.1), lambda: IWAE(3)], ids=["elbo", "iwae"])
def test_no_captured_step_waits(as_on_a_gpu, objective):
    """With the divergences' weight as a tensor, as it is recorded."""
    torch.manual_seed(0)
    model = MODELS["gaussian"](NegativeBinomial(), objective=objective())
    step = CUDAGraphStep(model, make_optimizer(model, 1e-3, 1e-4), max_norm=10.0)
    weight = torch.tensor(0.5)
    step._step(batch_for(NegativeBinomial), weight)
    with NoWaiting():
        assert step._step(batch_for(NegativeBinomial), weight)[0].shape == ()


def test_the_weight_of_an_estimator_that_sticks_the_landing_is_a_number():
    model = MODELS["gaussian"](Bernoulli(), estimator=Pathwise(stick_the_landing=True))
    step = CUDAGraphStep(model, make_optimizer(model, 1e-3, 1e-4))
    assert step._numeric_weight
    assert step(batch_for(Bernoulli), 0.5)[0].isfinite()


@pytest.mark.parametrize("name", ["gaussian", "discrete_gumbel_soft", "discrete_enumerate"])
def test_a_captured_step_is_a_training_step(name):
    """Without a GPU nothing is recorded: the same step, in the same order."""

    def train(captured):
        torch.manual_seed(0)
        model = MODELS[name](Bernoulli())
        optimizer = make_optimizer(model, 1e-2, 1e-4)
        step = CUDAGraphStep(model, optimizer, max_norm=0.1)
        batch = batch_for(Bernoulli)
        for _ in range(3):
            if captured:
                step(batch, 0.5)
                continue
            optimizer.zero_grad()
            model.loss(batch, 0.5, training=True).total.mean().backward()
            if not all(estimator.unbiased_value for estimator in model.estimators.values()):
                model.loss(batch)  # draws numbers
            model.configure_gradient_clipping(optimizer, 0.1)
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert train(True).equal(train(False))
