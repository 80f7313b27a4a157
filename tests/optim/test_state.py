"""State of the optimizers in checkpoints, and the errors of wrong arguments."""

from __future__ import annotations

import copy
import io
import logging

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.optim import SAGA, SVRG, FixedBatchSampler
from vaekit.optim.variance_reduced_sgd import num_observations

from .problems import ROWS, WIDTH, logistic, losses_and_outputs

KINDS = ["SVRG", "SAGA, mini-batches", "SAGA, observations"]


class Run:
    """A run that can be resumed: a network with dropout by SVRG, or logistic regression by SAGA."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Linear(6, 1))
        self.w = logistic()[0]
        options = {"momentum": 0.9, "weight_decay": 0.01}
        if kind == "SVRG":
            self.optimizer: SVRG | SAGA = SVRG(self.net.parameters(), 0.05, **options)
        elif kind == "SAGA, mini-batches":
            self.optimizer = SAGA([self.w], 0.05, batch_sizes=[4] * 3, **options)
        else:
            self.optimizer = SAGA([self.w], 0.05, num_observations=ROWS, num_outputs=1, **options)

    def loss(self, rows: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.net(torch.cos(rows[:, None] * torch.arange(1.0, 5.0))).square().mean()
        loss.backward()
        return loss

    def logistic(self, rows: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = losses_and_outputs(self.w, rows)[0].mean()
        loss.backward()
        return loss

    def snapshot(self) -> None:
        if self.kind == "SVRG":
            self.optimizer.snapshot(self.loss, torch.arange(ROWS).split(5), num_passes=2)

    def steps(self, count: int) -> None:
        for _ in range(count):
            rows, j = torch.randperm(ROWS)[:4], int(torch.randint(3, ()))
            if self.kind == "SVRG":
                self.optimizer.step(lambda rows=rows: self.loss(rows))
            elif self.kind == "SAGA, mini-batches":
                self.optimizer.step(lambda j=j: self.logistic(torch.arange(ROWS).split(4)[j]), j)
            else:
                self.optimizer.step(lambda rows=rows: losses_and_outputs(self.w, rows), rows)

    def state(self) -> dict:
        return {
            "net": self.net.state_dict(),
            "w": self.w.detach(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }

    def load(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.w.data.copy_(state["w"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_resuming_is_bit_exact(kind, steps):
    first = Run(kind)
    first.snapshot()
    first.steps(steps)
    file = io.BytesIO()
    torch.save(first.state(), file)
    first.steps(5)
    first.snapshot()
    first.steps(5)
    file.seek(0)
    second = Run(kind)
    second.load(torch.load(file, weights_only=True))
    second.steps(5)
    second.snapshot()
    second.steps(5)
    assert first.w.equal(second.w)
    for one, other in zip(first.net.parameters(), second.net.parameters(), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_independent(kind):
    first = Run(kind)
    first.snapshot()
    second = copy.deepcopy(first)
    for run in (first, second):
        torch.manual_seed(3)
        run.steps(3)
    assert first.optimizer.state_dict().keys() == second.optimizer.state_dict().keys()
    assert second.optimizer.parameters()[0] is not first.optimizer.parameters()[0]
    assert all(a.equal(b) for a, b in zip(first.optimizer.parameters(), second.optimizer.parameters(), strict=True))


def test_snapshots_have_separate_random_numbers_that_depend_on_the_seed():
    gradients = []
    for seed in (0, 0, 1):
        w = torch.zeros(2, requires_grad=True)
        optimizer = SVRG([w], 0.1, seed=seed)
        for _ in range(2):
            optimizer.snapshot(lambda _, w=w: (w * torch.randn(2)).sum().backward() or 0.0, [torch.arange(3)])
            gradients.append(optimizer.state[w]["full_gradient"].clone())
    first, second, again, _, other, _ = gradients
    assert first.equal(again)
    assert not first.equal(second)
    assert not first.equal(other)


def test_a_snapshot_keeps_gradients_and_parameters_and_returns_the_mean_loss():
    w, closure = logistic()
    optimizer = SVRG([w], 0.1)
    closure(torch.arange(3))
    before = w.grad
    mean = optimizer.snapshot(closure, torch.arange(ROWS).split(5))
    assert w.grad is before
    assert w.eq(0).all()
    assert mean == pytest.approx(closure(torch.arange(ROWS)).item(), rel=1e-14)


def test_a_parameter_without_gradient_is_unchanged():
    w, closure = logistic()
    unused = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = SVRG([w, unused], 0.1, weight_decay=0.5)
    optimizer.snapshot(closure, [torch.arange(ROWS)])
    optimizer.step(lambda: closure(torch.arange(3)))
    assert unused.eq(1).all()  # as with torch's SGD


def test_gradients_can_be_clipped_between_the_correction_and_the_step():
    w, closure = logistic()
    optimizer = SVRG([w], 1.0)
    optimizer.snapshot(closure, [torch.arange(ROWS)])
    state, rows = optimizer.rng_state(), torch.arange(3)
    closure(rows)
    optimizer.correct(lambda: closure(rows), state)
    torch.nn.utils.clip_grad_norm_([w], 1e-3)
    optimizer.step()
    assert w.norm().item() == pytest.approx(1e-3, rel=1e-3)
    with pytest.raises(EstimatorError, match="not corrected since"):
        optimizer.step()


def test_memory_is_logged_and_limited(caplog):
    net = nn.Linear(99, 10)
    with caplog.at_level(logging.INFO, "vaekit"):
        optimizer = SAGA(net.parameters(), 0.1, batch_sizes=[8] * 5)
    assert optimizer.memory == 6 * 1000 * 4
    assert "a table of gradients of 5 mini-batches and their mean take 24.0 kB" in caplog.text
    stored = [t for p in net.parameters() for t in optimizer.state[p].values()]
    assert sum(t.numel() * t.element_size() for t in stored) == optimizer.memory
    assert SAGA(net.parameters(), 0.1, num_observations=500, num_outputs=10).memory == (5000 + 1000) * 4
    with pytest.raises(ConfigError, match=r"24\.0 kB, over max_bytes=23\.0 kB"):
        SAGA(net.parameters(), 0.1, batch_sizes=[8] * 5, max_bytes=23_000)


def test_a_nonlinear_model_has_no_table_of_observations():
    w, _ = logistic()
    rows = torch.arange(4)

    def nonlinear():
        losses, outputs = losses_and_outputs(w, rows)
        outputs = outputs.tanh()
        return outputs.square() + 0 * losses, outputs

    def other_path():
        losses, outputs = losses_and_outputs(w, rows)
        return losses + w.square().sum(), outputs

    for closure, problem in ((nonlinear, "outputs are not linear"), (other_path, "another way than the outputs")):
        with pytest.raises(ConfigError, match=problem):
            SAGA([w], 0.1, num_observations=ROWS, num_outputs=1).step(closure, rows)
    assert w.eq(0).all()


def test_observations_and_mini_batches_of_one_have_the_same_iterates():
    """Softmax regression with a bias."""
    torch.manual_seed(0)
    x, y = torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    nets = [nn.Linear(4, 3).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    examples = SAGA(nets[0].parameters(), 0.3, weight_decay=0.1, num_observations=6, num_outputs=3)
    batches = SAGA(nets[1].parameters(), 0.3, weight_decay=0.1, batch_sizes=[1] * 6)

    def observation_losses(rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = nets[0](x[rows])
        return nn.functional.cross_entropy(logits, y[rows], reduction="none"), logits

    def batch_loss(rows: Tensor) -> Tensor:
        nets[1].zero_grad()
        loss = nn.functional.cross_entropy(nets[1](x[rows]), y[rows])
        loss.backward()
        return loss

    for i in torch.randint(6, (50,)):
        one = examples.step(lambda i=i: observation_losses(i[None]), i[None])
        other = batches.step(lambda i=i: batch_loss(i[None]), int(i))
        assert torch.allclose(one, other, rtol=0, atol=1e-13)
    assert torch.allclose(nets[0].weight, nets[1].weight, rtol=0, atol=1e-13)
    assert torch.allclose(nets[0].bias, nets[1].bias, rtol=0, atol=1e-13)


def test_distributed_training_is_rejected():
    w, closure = logistic()
    optimizer = SVRG([w], 0.1)
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        for make in (lambda: SVRG([w], 0.1), lambda: SAGA([w], 0.1, batch_sizes=[3])):
            with pytest.raises(ConfigError, match="distributed over 2 processes"):
                make()
        with pytest.raises(ConfigError, match="distributed over 2 processes"):
            optimizer.snapshot(closure, [torch.arange(ROWS)])
    finally:
        torch.distributed.destroy_process_group()


W = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)


def saga(**kwargs) -> SAGA:
    return SAGA([W], 0.1, **{"batch_sizes": [3], **kwargs})


def linear_saga(num_outputs: int = 1) -> SAGA:
    return SAGA([W], 0.1, num_observations=5, num_outputs=num_outputs)


ERRORS = {
    "lr=0 must": lambda: SVRG([W], 0),
    "lr=nan must": lambda: SVRG([W], float("nan")),
    "momentum=1.0 in": lambda: SVRG([W], 0.1, momentum=1.0),
    "weight_decay=-1 not": lambda: saga(weight_decay=-1),
    "nesterov requires": lambda: SVRG([W], 0.1, nesterov=True),
    "num_passes=0": lambda: SVRG([W], 0.1).snapshot(logistic()[1], [torch.arange(3)], num_passes=0),
    "pass 1 of 1 over batches contains no observations": lambda: SVRG([W], 0.1).snapshot(logistic()[1], []),
    "pass 2 of 2 over batches": lambda: SVRG([W], 0.1).snapshot(lambda _: 0.0, iter([torch.arange(3)]), num_passes=2),
    "Give either the sizes": lambda: SAGA([W], 0.1),
    "or both numbers": lambda: SAGA([W], 0.1, num_observations=3),
    "batch_sizes=[3], num_observations=3": lambda: saga(num_observations=3, num_outputs=1),
    "batch_sizes=[3, 0]": lambda: saga(batch_sizes=[3, 0]),
    "batch_sizes=[]": lambda: saga(batch_sizes=[]),
    "entry=1 not found in a table of 1 mini-batches": lambda: saga().correct(1, SVRG([W], 0.1).rng_state()),
    "entry=-1": lambda: saga().step(lambda: 0.0),
    "twice": lambda: linear_saga().step(None.__class__, [1, 1]),
    "0..4": lambda: linear_saga().step(None.__class__, [5]),
    "entry=None": lambda: linear_saga().step(None.__class__),
    "cannot be added": lambda: saga().add_param_group({"params": [W.clone()]}),
    "only step(closure, index)": lambda: linear_saga().correct(0, SVRG([W], 0.1).rng_state()),
    "belongs to mini-batches of [3]": lambda: saga(batch_sizes=[4]).load_state_dict(saga().state_dict()),
    "SAGA: the saved state belongs to another": lambda: saga().load_state_dict(SVRG([W], 0.1).state_dict()),
    "SVRG: the saved state belongs to another": lambda: SVRG([W], 0.1).load_state_dict(
        torch.optim.AdamW([W], 0.1).state_dict()
    ),
    "one loss each, [3]": lambda: linear_saga(2).step(lambda: losses_and_outputs(W, torch.arange(3)), [0, 1, 2]),
    "num_observations=0": lambda: FixedBatchSampler(0, 3),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    with pytest.raises(ConfigError) as error:
        ERRORS[message]()
    assert message in str(error.value)


def test_a_step_needs_a_snapshot():
    w, closure = logistic()
    with pytest.raises(EstimatorError, match="no snapshot"):
        SVRG([w], 0.1).step(lambda: closure(torch.arange(3)))


def test_num_observations_batch_losses():
    x = torch.zeros(7, 2)
    assert [num_observations(b) for b in (x, (x, x), [x], {"a": x}, [3, 4], range(5), (x.numpy(), 1))] == [
        7,
        7,
        7,
        7,
        2,
        5,
        7,
    ]


def test_fixed_batches_have_fixed_members_in_random_order():
    sampler = FixedBatchSampler(10, 3, seed=1)
    orders, members = [], []
    for _ in range(8):
        rows = torch.tensor(list(sampler)).split(3)
        orders.append(sampler.order)
        members.append(dict(zip(sampler.order, (frozenset(r.tolist()) for r in rows), strict=True)))
    assert all(members[0] == later for later in members[1:])
    assert sorted(orders[0]) == [0, 1, 2, 3]
    assert all(order[-1] == 3 for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert set(frozenset().union(*members[0].values())) == set(range(10))
    assert members[0][0] != {0, 1, 2}  # random, not in the order of the data
