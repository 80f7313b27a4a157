"""Baselines: the costs that they use, and the variance that they save."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical

from vaekit import expectation
from vaekit.estimators import (
    Baseline,
    Enumerate,
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    NodeSample,
    ScoreFunction,
    SelfCritic,
)
from vaekit.estimators.running_moments import RunningMoments
from vaekit.exceptions import EstimatorError


def sample_with(weight: Tensor, context: Tensor | None = None) -> NodeSample:
    q = Bernoulli(logits=torch.zeros(weight.shape[1:]))
    return NodeSample(torch.zeros(weight.shape), weight, torch.zeros(weight.shape), q, context=context)


EVEN = sample_with(torch.full((2, 3), 0.5))


def constant(value: float) -> Tensor:
    return torch.full((2, 3), value)


def baseline_before_update(baseline: MovingAverage, sample: NodeSample, cost: Tensor) -> Tensor:
    """Return the baseline of a step, then update it with the step's costs."""
    before = baseline(sample, cost)
    baseline.update(cost, sample.weight)
    return before


def test_moving_average_does_not_contain_the_current_cost() -> None:
    baseline = MovingAverage(decay=0.9)
    assert baseline_before_update(baseline, EVEN, constant(5.0)) == 0
    assert baseline_before_update(baseline, EVEN, constant(7.0)) == pytest.approx(5.0)
    weights = 0.9, 1.0
    expected = (5.0 * weights[0] + 7.0 * weights[1]) / sum(weights)
    assert baseline_before_update(baseline, EVEN, constant(1e6)) == pytest.approx(expected)


def test_moving_average_shared_by_two_nodes_does_not_contain_the_current_cost() -> None:
    """The fold visits the deeper node first. Its costs must not reach the other node in the same call."""
    logits = torch.zeros(2, requires_grad=True)

    def gradient(shared: bool) -> Tensor:
        torch.manual_seed(3)
        estimators = [ScoreFunction(baseline=MovingAverage()) for _ in range(2)]
        total = expectation(
            lambda y, z: y + z + 3,
            {"y": Bernoulli(logits=logits[0]), "z": Bernoulli(logits=logits[1])},
            estimators[0] if shared else dict(zip("yz", estimators, strict=True)),
        )
        return torch.autograd.grad(total, logits)[0]

    torch.testing.assert_close(gradient(shared=True), gradient(shared=False))


def test_moving_average_stands_still_in_eval_mode() -> None:
    baseline = MovingAverage()
    estimator = ScoreFunction(baseline=baseline)
    expectation(lambda z: 0 * z + 5, Bernoulli(logits=torch.zeros(3)), estimator)
    estimator.eval()
    for _ in range(3):
        expectation(lambda z: 0 * z + 100, Bernoulli(logits=torch.zeros(3)), estimator)
        assert baseline(EVEN, constant(0.0)) == pytest.approx(5.0)


def test_auxiliary_samples_do_not_enter_the_moving_average() -> None:
    baseline = MovingAverage()
    sample = sample_with(torch.tensor([[0.5], [0.5], [0.0]]).expand(3, 4))
    baseline_before_update(baseline, sample, torch.tensor([[1.0], [3.0], [torch.inf]]).expand(3, 4))
    assert baseline(sample, torch.zeros(3, 4)) == pytest.approx(2.0)


def test_a_cost_that_is_not_finite_does_not_change_the_moving_average() -> None:
    baseline = MovingAverage()
    baseline_before_update(baseline, EVEN, constant(5.0))
    baseline_before_update(baseline, EVEN, constant(torch.inf))
    assert baseline(EVEN, constant(0.0)) == pytest.approx(5.0)


def test_samples_of_other_nodes_enter_the_moving_average_by_their_weight() -> None:
    """The cost is 10 if y = 1, which has probability 0.01. The exact sum over y evaluates both values."""
    baseline = MovingAverage()
    y = Bernoulli(probs=torch.full((4,), 0.01))
    estimators = {"y": Enumerate(), "z": ScoreFunction(baseline=baseline)}
    q = {"y": y, "z": lambda y: Bernoulli(logits=0 * y)}
    expectation(lambda y, z: 10 * y + 0 * z, q, estimators)
    assert baseline(EVEN, constant(0.0)) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("rows", [2, 4])
def test_leave_one_out_is_the_mean_of_the_others(rows: int) -> None:
    cost = torch.randn(rows, 3, dtype=torch.float64)
    actual = LeaveOneOut()(sample_with(torch.full((rows, 3), 1 / rows)), cost)
    for i in range(rows):
        torch.testing.assert_close(actual[i], cost[[j for j in range(rows) if j != i]].mean(0))


def test_leave_one_out_gradient_is_its_formula() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    q = Independent(Bernoulli(logits=logits), 1)
    cost = lambda z: (z * torch.arange(1.0, 4.0, dtype=torch.float64)).sum(-1).square()  # noqa: E731
    torch.manual_seed(5)
    total = expectation(cost, q, ScoreFunction(num_samples=5, baseline=LeaveOneOut()))
    (actual,) = torch.autograd.grad(total.sum(), logits)
    torch.manual_seed(5)
    z = q.sample((5,))
    f = cost(z)
    score = z - torch.sigmoid(logits)  # derivative by the logit of a Bernoulli variable
    expected = ((f - f.mean(0))[..., None] * score).sum(0) / 4  # the mean over all samples, divided by S - 1
    torch.testing.assert_close(actual, expected.detach())
    torch.testing.assert_close(total, f.mean(0))


def test_leave_one_out_runs_across_joint_samples() -> None:
    logits = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    q = {"y": Bernoulli(logits=logits[:, 0]), "z": lambda y: Bernoulli(logits=logits[:, 1] + y)}
    seen: dict[str, Tensor] = {}

    def cost(y: Tensor, z: Tensor) -> Tensor:
        seen.update(y=y, z=z)
        return (y + 2 * z - 0.7) ** 2

    total = expectation(cost, q, ScoreFunction(baseline=LeaveOneOut()), num_samples=4)
    (actual,) = torch.autograd.grad(total.sum(), logits)
    y, z = seen["y"], seen["z"]
    assert y.shape == z.shape == (4, 3)
    f = (y + 2 * z - 0.7) ** 2
    score = torch.stack([y - 0.5, z - torch.sigmoid(y)], -1)
    torch.testing.assert_close(actual, ((f - f.mean(0))[..., None] * score).sum(0) / 3)


@pytest.mark.parametrize("kind", ["bernoulli", "categorical", "normal"])
def test_self_critic_compares_with_the_most_probable_value(kind: str) -> None:
    location = torch.tensor([[0.4, -0.9, 1.2], [0.1, 0.2, -0.3]])
    q = {
        "bernoulli": Independent(Bernoulli(logits=location), 1),
        "categorical": OneHotCategorical(logits=location),
        "normal": Independent(Normal(location, 1.0), 1),
    }[kind]
    mode = {
        "bernoulli": (location > 0).float(),
        "categorical": nn.functional.one_hot(location.argmax(-1), 3).float(),
        "normal": location,
    }[kind]
    estimator = ScoreFunction(num_samples=2, baseline=SelfCritic())
    sample = estimator.sample(q)
    assert sample.value.shape == (3, 2, 3)
    torch.testing.assert_close(sample.value[-1], mode)
    assert sample.weight.expand(3, 2)[:, 0].tolist() == [0.5, 0.5, 0.0]


def test_self_critic_accepts_a_bernoulli_at_one_half() -> None:
    total = expectation(lambda z: z, Bernoulli(logits=torch.zeros(4)), ScoreFunction(baseline=SelfCritic()))
    assert total.isfinite().all()


def test_auxiliary_sample_does_not_enter_the_value() -> None:
    q = Bernoulli(logits=torch.full((1000,), -2.0))
    torch.manual_seed(1)
    plain = expectation(lambda z: 5 * z + 1, q, ScoreFunction())
    torch.manual_seed(1)
    critic = expectation(lambda z: torch.where(z > 0, 6.0, 1.0), q, ScoreFunction(baseline=SelfCritic()))
    torch.testing.assert_close(plain, critic)


@pytest.mark.parametrize("baseline", [MovingAverage, LeaveOneOut, SelfCritic])
def test_baselines_lower_the_variance_of_a_cost_far_from_zero(baseline: type[Baseline]) -> None:
    def variance(estimator: ScoreFunction) -> float:
        logits = torch.zeros(5000, requires_grad=True)
        for _ in range(3):
            total = expectation(lambda z: 10 + z, Bernoulli(logits=logits), estimator)
        return torch.autograd.grad(total.sum(), logits)[0].var().item()

    chosen = baseline()
    count = max(chosen.min_samples, 1)
    assert variance(ScoreFunction(count, chosen)) < 0.05 * variance(ScoreFunction(count))


class TestLearned:
    """The cost is 10 x for a context x, which only a network can predict."""

    def setup_method(self) -> None:
        self.x = torch.randn(2000, 1)
        self.encoder = nn.Linear(1, 1)

    def gradients(self, estimator: ScoreFunction) -> tuple[Tensor, Tensor]:
        logits = self.encoder(self.x)[:, 0]
        total = expectation(lambda z: 10 * self.x[:, 0] + z, Bernoulli(logits=logits), estimator, context=self.x)
        return total, torch.autograd.grad(total.sum(), logits, retain_graph=True)[0]

    def test_lowers_the_variance_after_training(self) -> None:
        estimator = ScoreFunction(baseline=LearnedBaseline(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))))
        optimizer = torch.optim.Adam(estimator.parameters(), 0.02)
        untrained = self.gradients(ScoreFunction(baseline=MovingAverage()))[1].var()
        for _ in range(150):
            total, _ = self.gradients(estimator)
            optimizer.zero_grad()
            total.mean().backward()
            optimizer.step()
        assert self.gradients(estimator)[1].var() < 0.1 * untrained

    def test_trains_its_network_without_a_gradient_of_the_encoder(self) -> None:
        network = nn.Linear(1, 1)
        context = self.encoder(self.x)  # a context that depends on the encoder
        total = expectation(
            lambda z: z,
            Bernoulli(logits=torch.zeros(2000)),
            ScoreFunction(baseline=LearnedBaseline(network)),
            context=context,
        )
        total.mean().backward()
        assert network.weight.grad.abs().sum() > 0
        assert self.encoder.weight.grad is None

    def test_its_loss_does_not_change_the_value(self) -> None:
        torch.manual_seed(1)
        plain, _ = self.gradients(ScoreFunction())
        torch.manual_seed(1)
        baseline = LearnedBaseline(nn.Linear(1, 1))
        torch.manual_seed(1)
        learned, _ = self.gradients(ScoreFunction(baseline=baseline))
        torch.testing.assert_close(learned, plain)

    def test_needs_a_context(self) -> None:
        with pytest.raises(EstimatorError, match="context"):
            expectation(
                lambda z: z,
                Bernoulli(logits=torch.zeros(3)),
                ScoreFunction(baseline=LearnedBaseline(nn.Linear(1, 1))),
            )

    def test_its_network_moves_towards_the_cost(self) -> None:
        """Prediction 0 and cost 1: gradient descent on the expectation must raise the prediction."""
        network = nn.Linear(1, 1)
        nn.init.zeros_(network.weight)
        nn.init.zeros_(network.bias)
        estimator = ScoreFunction(baseline=LearnedBaseline(network))
        q = Bernoulli(logits=torch.zeros(50))
        expectation(lambda z: 1 + 0 * z, q, estimator, context=torch.ones(50, 1)).mean().backward()
        assert network.bias.grad.item() < 0


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decay_outside_its_range_is_rejected(decay: float) -> None:
    with pytest.raises(EstimatorError, match=r"decay=.* must be in \[0, 1\)"):
        MovingAverage(decay=decay)


@pytest.mark.parametrize("cost", [5.3, 0.1, -13.7, -200.0])
def test_the_scale_of_equal_costs_is_one(cost: float) -> None:
    """Their rounding error is 1e-8 of the cost, by which a learned baseline would divide."""
    running = RunningMoments(0.9)
    for _ in range(60):
        running.update(torch.full((8,), cost), torch.full((8,), 1 / 8))
    assert running.std() == 1
    running.update(cost + torch.arange(8.0), torch.full((8,), 1 / 8))
    assert 0.5 < running.std() < 3
