"""Critics and lambda-returns, on a chain of four binary decisions that is enumerated (see ``decisions``).

False alarms: each z-test compares 8 components at |z| < 4.5, so a correct estimator fails with probability 5e-5.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal, OneHotCategorical

from vaekit import expectation, importance_weighted_bound
from vaekit.estimators import (
    REBAR,
    Baseline,
    Critic,
    Enumerate,
    Estimator,
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    ScoreFunction,
    SelfCritic,
    sample_from_values,
)
from vaekit.exceptions import EstimatorError
from vaekit.graph.expectation import evaluate
from vaekit.networks import MLP

from .decisions import (
    LINK,
    NAMES,
    OFFSET,
    STATES,
    STEPS,
    Table,
    estimators,
    exact_gradient,
    expected_gradient,
    graph,
    trajectories,
    true_values,
    wrong,
)

THRESHOLD = 4.5


def gradients(chosen: dict[str, Estimator], count: int, num_samples: int | None = None) -> tuple[Tensor, Tensor]:
    """Return values ``[count]`` and gradients ``[count, 2 STEPS]`` of independent replicates."""
    leaves = [p.expand(count, STEPS).clone().requires_grad_() for p in (OFFSET, LINK)]
    total = expectation(*graph(*leaves), chosen, num_samples=num_samples)
    return total.detach(), torch.cat(torch.autograd.grad(total.sum(), leaves), 1)


def z_score(actual: Tensor, expected: Tensor) -> Tensor:
    """Return the largest |mean - expected| in standard errors; components that are always 0 must agree."""
    error = actual.std(0) / len(actual) ** 0.5
    return ((actual.mean(0) - expected).abs() / error.clamp_min(1e-12)).max()


def test_oracle_is_the_exact_gradient_without_bias() -> None:
    values = true_values()
    for lam in (0.0, 0.5, 1.0):
        torch.testing.assert_close(expected_gradient(values, lam), exact_gradient())
    torch.testing.assert_close(expected_gradient(wrong(values), 1.0), exact_gradient())
    assert (expected_gradient(wrong(values), 0.5) - exact_gradient()).norm() > 0.1


@pytest.mark.parametrize("num_samples", [None, 1, 3])
@pytest.mark.parametrize("baseline", [lambda: None, LeaveOneOut, SelfCritic], ids=["none", "leave_one_out", "self"])
def test_imperfect_critic_is_unbiased_at_lam_one(
    num_samples: int | None, baseline: Callable[[], Baseline | None]
) -> None:
    made = baseline()
    if made is not None and (num_samples == 1 or (num_samples and made.num_auxiliary_samples)):
        baseline = lambda: None  # noqa: E731 - joint trajectories have no place for another row
    chosen = estimators(wrong(true_values()), 1.0, baseline)
    _, actual = gradients(chosen, 60_000, num_samples)
    assert z_score(actual, exact_gradient()) < THRESHOLD


@pytest.mark.parametrize("num_samples", [None, 3])
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.9])
def test_bias_is_that_of_the_lambda_return(lam: float, num_samples: int | None) -> None:
    """An imperfect critic biases the gradient as the recursion predicts; the exact critic does not."""
    imperfect = wrong(true_values())
    _, actual = gradients(estimators(imperfect, lam), 600_000 // (num_samples or 1), num_samples)
    assert z_score(actual, expected_gradient(imperfect, lam)) < THRESHOLD
    assert z_score(actual, exact_gradient()) > 2 * THRESHOLD
    _, actual = gradients(estimators(true_values(), lam), 60_000, num_samples)
    assert z_score(actual, exact_gradient()) < THRESHOLD


def test_exact_critic_lowers_the_variance_the_more_the_less_lam() -> None:
    plain = gradients({name: ScoreFunction() for name in NAMES}, 20_000)[1].var(0).sum()
    total = [gradients(estimators(true_values(), lam), 20_000)[1].var(0).sum() for lam in (1.0, 0.5, 0.0)]
    assert plain > 1.5 * total[0] > 1.5 * 1.1 * total[1] > 1.5 * 1.2 * total[2]


@pytest.mark.parametrize("num_samples", [None, 4])
def test_value_and_terms_stay_those_of_the_samples(num_samples: int | None) -> None:
    leaves = [p.expand(50, STEPS).clone().requires_grad_() for p in (OFFSET, LINK)]
    results = []
    for chosen in ({name: ScoreFunction() for name in NAMES}, estimators(wrong(true_values()), 0.3)):
        torch.manual_seed(4)
        results.append(evaluate(*graph(*leaves), chosen, num_samples=num_samples))
    torch.testing.assert_close(results[0].total, results[1].total)
    torch.testing.assert_close(results[0].terms, results[1].terms)


def test_node_without_a_critic_is_credited_with_the_cost_itself() -> None:
    chosen = estimators(wrong(true_values()), 0.0) | {NAMES[1]: ScoreFunction()}
    _, actual = gradients(chosen, 200_000)
    expected = exact_gradient()
    second = [1, STEPS + 1]
    assert z_score(actual[:, second], expected[second]) < THRESHOLD
    assert z_score(actual, expected) > THRESHOLD


def test_critics_learn_the_values_together_with_the_nodes() -> None:
    """``backward`` on the expectation trains the critics, without an effect on the gradient of the decisions."""
    blank = torch.zeros(2**STEPS, dtype=torch.float64)
    chosen = {name: ScoreFunction(critic=Critic(Table(blank)), lam=0.9) for name in NAMES}
    optimizer = torch.optim.Adam([p for e in chosen.values() for p in e.parameters()], 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        leaves = [p.expand(300, STEPS).clone().requires_grad_() for p in (OFFSET, LINK)]
        optimizer.zero_grad()
        expectation(*graph(*leaves), chosen, num_samples=1).mean().backward()
        optimizer.step()
        schedule.step()
    weight = trajectories(OFFSET, LINK)[0].sum(1).exp()
    for k, exact in enumerate(true_values()):
        actual = chosen[NAMES[k]].critic(STATES[:, :k])
        spread = (weight * (exact - (weight * exact).sum()).square()).sum().sqrt()
        assert (weight * (actual - exact).square()).sum().sqrt() < (0.1 * spread if k else 0.3), NAMES[k]


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, 1)).double() if width else nn.Identity()


def test_gradient_of_the_nodes_is_that_of_the_formula() -> None:
    """Two nodes with a context: score times (costs of the node + prediction of the child - own prediction)."""
    x = torch.randn(6, 2, dtype=torch.float64)
    logits = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    nets = [nn.Linear(2, 1).double(), nn.Linear(3, 1).double()]
    chosen = {n: ScoreFunction(critic=Critic(net), lam=0.3) for n, net in zip("ab", nets, strict=True)}
    q = {"a": Bernoulli(logits=logits[0]), "b": lambda a: Bernoulli(logits=logits[1] + a)}
    result = evaluate({"a": lambda a: 3 * a, "b": lambda b: 5 * b - 1}, q, chosen, num_samples=4, context=x)
    parameters = [p for net in nets for p in net.parameters()]
    actual = torch.autograd.grad(result.total.sum(), [logits, *parameters])
    a, b = result.samples["a"].value, result.samples["b"].value
    first = nets[0](x)[:, 0]
    second = nets[1](torch.cat([x.expand(4, 6, 2), a[..., None]], -1))[..., 0]
    credit_b = 5 * b - 1
    credit_a = 3 * a + 0.7 * second + 0.3 * credit_b
    score_a, score_b = a - torch.sigmoid(logits[0]), b - torch.sigmoid(logits[1] + a)
    expected = torch.stack([(score_a * (credit_a - first)).mean(0), (score_b * (credit_b - second)).mean(0)])
    torch.testing.assert_close(actual[0], expected.detach())
    loss = (3 * a + 5 * b - 1 - first).square().mean() + (credit_b - second).square().mean()  # also for an exact sum
    torch.testing.assert_close(actual[1:], torch.autograd.grad(loss, parameters))


def test_each_branch_has_its_critic_and_shared_terms_count_once() -> None:
    """Both children of y have critics with input y. Only the first one predicts the term of their common child."""
    chosen: dict[str, Estimator] = {"y": ScoreFunction(critic=Critic(nn.Identity()))}
    for name, value in {"a": 10.0, "b": 100.0}.items():
        chosen[name] = ScoreFunction(critic=Critic(nn.Linear(1, 1)), lam=0.0)
        nn.init.zeros_(chosen[name].critic.network.weight)
        nn.init.constant_(chosen[name].critic.network.bias, value)
    for estimator in chosen.values():
        estimator.eval()
    logits = torch.zeros(40, requires_grad=True)
    q = {"y": Bernoulli(logits=logits), "a": lambda y: Bernoulli(logits=y), "b": lambda y: Bernoulli(logits=-y)}
    terms: dict = {"y": lambda y: y, "a": lambda a: a, "b": lambda b: 2 * b}

    def credit(**more: Callable[..., Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        result = evaluate(terms | more, q, chosen, num_samples=1)
        (gradient,) = torch.autograd.grad(result.total.sum(), logits)
        values = {name: sample.value[0] for name, sample in result.samples.items()}
        return gradient / (values["y"] - 0.5), values

    actual, values = credit()
    torch.testing.assert_close(actual, values["y"] + 10 + 100)
    actual, values = credit(
        both=lambda a, b: 7 * a * b
    )  # a's critic covers it, so b's term enters with its observed cost
    b_first = values["y"] + 10 + 2 * values["b"]
    torch.testing.assert_close(actual, b_first)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_sample_of_weight_zero_may_have_an_infinite_cost(lam: float) -> None:
    critic = Critic(nn.Linear(3, 1))
    leaf = torch.tensor([[0.0, 0.5, -200.0]], requires_grad=True)
    q = {"y": OneHotCategorical(logits=leaf), "z": lambda y: Bernoulli(logits=y[..., 0])}
    chosen = {"y": Enumerate(), "z": ScoreFunction(critic=critic, lam=lam)}
    total = expectation(lambda y, z: torch.where(y[..., 2] > 0, torch.inf, z + y[..., 0]), q, chosen)
    total.sum().backward()
    assert total.isfinite().all()
    assert leaf.grad.isfinite().all()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in critic.parameters())
    assert critic.running.mean().isfinite()


def test_next_to_other_kinds_of_nodes() -> None:
    """Vectors, integers and scalars as ancestors; relaxed values of another estimator; nested sample dimensions."""
    q = {
        "k": Categorical(logits=torch.zeros(5, 3)),
        "y": OneHotCategorical(logits=torch.zeros(5, 4, requires_grad=True)),
        "x": lambda k, y: Normal(k + y[..., 0], 1.0),
        "b": lambda k, y, x: Bernoulli(logits=x + k - y[..., 1]),
    }
    seen = []

    class Watch(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs)
            return super().forward(inputs)

    chosen = {
        "k": ScoreFunction(num_samples=2, baseline=LeaveOneOut()),
        "y": REBAR(),
        "x": ScoreFunction(critic=Critic(nn.Linear(2 + 1 + 4, 1))),
        "b": ScoreFunction(critic=Critic(Watch(2 + 1 + 4 + 1, 1)), lam=0.5),
    }
    context = torch.randn(5, 2)
    result = evaluate(lambda b, x, y: b + x + y.square().sum(-1), q, chosen, context=context)
    result.total.sum().backward()
    assert seen[0].shape == (1, 1, 3, 2, 5, 8)
    samples = {name: sample.value for name, sample in result.samples.items()}
    torch.testing.assert_close(seen[0][0, 0, 2, 1, 3, :2], context[3])
    assert seen[0][0, 0, 2, 1, 3, 2] == samples["k"][1, 3]
    torch.testing.assert_close(seen[0][0, 0, 2, 1, 3, 3:7], samples["y"][2, 0, 3])
    assert seen[0][0, 0, 2, 1, 3, 7] == samples["x"][0, 2, 1, 3]
    assert not seen[0].requires_grad


def test_eval_mode_and_the_running_mean() -> None:
    critic = Critic(nn.Linear(1, 1))
    estimator = ScoreFunction(critic=critic)
    q = Bernoulli(logits=torch.zeros(30))
    expectation(lambda z: 0 * z + 5, q, estimator, context=torch.zeros(30, 1))
    estimator.eval()
    expectation(lambda z: 0 * z + 100, q, estimator, context=torch.zeros(30, 1))
    assert critic.running.mean() == pytest.approx(5.0)


@pytest.mark.usefixtures("no_checks_of_parameters")
def test_traces_in_one_graph() -> None:
    chosen = {name: ScoreFunction(critic=Critic(network(k)), lam=0.9) for k, name in enumerate(NAMES)}

    def step(offset: Tensor, link: Tensor) -> Tensor:
        return expectation(*graph(offset, link), chosen, num_samples=2).sum()

    leaves = [p.expand(7, STEPS).clone() for p in (OFFSET, LINK)]
    torch._dynamo.reset()  # recompilations in other tests of this process count towards the limit
    torch.compile(step, fullgraph=True, backend="eager")(*leaves)


def test_a_network_of_vaekit_gets_its_sizes() -> None:
    critic = Critic(MLP([8]))
    critic.build(3)
    assert critic(torch.randn(2, 5, 3)).shape == (2, 5)
    assert ScoreFunction(critic=critic, lam=0.5).config["init_args"]["critic"]["class_path"].endswith("Critic")


def test_learned_baseline_is_a_critic_of_the_context() -> None:
    torch.manual_seed(0)
    x, net = torch.randn(9, 2), nn.Linear(2, 1)
    actual = []
    for estimator in (ScoreFunction(baseline=LearnedBaseline(net)), ScoreFunction(critic=Critic(net))):
        logits = torch.zeros(9, requires_grad=True)
        torch.manual_seed(1)
        total = expectation(lambda z: 3 * z + x[:, 0], Bernoulli(logits=logits), estimator, context=x)
        actual.append(torch.autograd.grad(total.sum(), [logits, net.weight]))
    torch.testing.assert_close(actual[0], actual[1])


@pytest.mark.parametrize("lam", [-0.1, 1.1])
def test_lam_outside_its_range_is_rejected(lam: float) -> None:
    with pytest.raises(EstimatorError, match=r"lam=.* must be in \[0, 1\]"):
        ScoreFunction(critic=Critic(nn.Linear(1, 1)), lam=lam)


def test_lam_needs_a_critic() -> None:
    with pytest.raises(EstimatorError, match=r"lam=0.9 must be 1 without a critic.*critic="):
        ScoreFunction(baseline=MovingAverage(), lam=0.9)


def test_unbiased_only_at_lam_one() -> None:
    assert ScoreFunction(critic=Critic(nn.Linear(1, 1))).unbiased
    assert not ScoreFunction(critic=Critic(nn.Linear(1, 1)), lam=0.99).unbiased


def test_importance_weighted_bound_rejects_a_critic() -> None:
    q = Bernoulli(logits=torch.zeros(3))
    with pytest.raises(EstimatorError, match=r"ScoreFunction\(critic=Critic\(\)\) does not support"):
        importance_weighted_bound(q.log_prob, q, ScoreFunction(critic=Critic(nn.Linear(1, 1))), num_samples=3)


def test_recorded_actions_have_the_gradient_of_a_policy() -> None:
    """Time is a batch dimension. Two recorded actions per step are two samples."""
    logits = torch.randn(4, 6, 3, requires_grad=True)  # [environments, time, actions]
    actions, cost = torch.randint(3, (2, 4, 6)), torch.randn(2, 4, 6)
    sample = sample_from_values(Categorical(logits=logits), actions)
    term = (sample.weight * ScoreFunction().correction(sample, cost)).sum(0)
    assert term.abs().max() == 0
    (actual,) = torch.autograd.grad(term.sum(), logits)
    score = nn.functional.one_hot(actions, 3) - logits.softmax(-1)
    torch.testing.assert_close(actual, (score * cost[..., None]).mean(0).detach())
