"""Figures of the page "The idea". ``python docs/idea_figures.py`` writes them to ``docs/images`` and prints numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical

import vaekit
from vaekit.estimators import (
    ARM,
    REBAR,
    DisARM,
    Enumerate,
    Estimator,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    Pathwise,
    ReinMax,
    ScoreFunction,
    StraightThrough,
)

IMAGES = Path(__file__).parent / "images"
BLUE, ORANGE, GRAY, DARK = "#006BA4", "#FF800E", "#ABABAB", "#595959"  # safe for color-blind readers
NUM_BITS = 8
NUM_GRADIENTS = 2000  # per choice of estimators


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure to ``docs/images/idea_NAME.png``."""
    figure.savefig(IMAGES / f"idea_{name}.png", dpi=130)
    plt.close(figure)


def plot_smoothing() -> None:
    """Plot a step function, and its expectation under normals with different means, with the measured gradients."""
    means = torch.linspace(-3, 3, 121)
    expected = Normal(0.0, 1.0).cdf(means)  # of the step z > 0
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.9), layout="constrained")
    left.plot([-3, 0, 0, 3], [0, 0, 1, 1], color=DARK)
    left.set(title="the cost f(z): a step", xlabel="z", ylabel="f(z)")
    right.plot(means, expected, color=BLUE)
    torch.manual_seed(0)
    for value in (-1.5, 0.0, 1.5):
        mean = torch.tensor(value, requires_grad=True)
        q = Normal(mean.expand(10_000), 1.0)
        cost = vaekit.expectation(lambda z: (z > 0).float(), q, ScoreFunction(2, LeaveOneOut())).mean()
        cost.backward()
        slope, height = mean.grad.item(), cost.item()
        span = torch.tensor([-0.7, 0.7])
        label = "estimated gradient" if value == 0 else None
        right.plot(value + span, height + slope * span, color=ORANGE, linewidth=2.5, label=label)
        exact = Normal(0.0, 1.0).log_prob(torch.tensor(value)).exp().item()
        print(f"step at mean {value:+.1f}: estimated gradient {slope:.3f}, exact {exact:.3f}")
    right.set(title=r"its expectation under $N(\theta, 1)$: smooth", xlabel=r"mean $\theta$", ylabel="expected cost")
    right.legend(frameon=False)
    save(figure, "smoothing")


def plot_fold() -> None:
    """Draw the fold of a graph with three states of y and two samples of z for each."""
    figure, axis = plt.subplots(figsize=(8.4, 3.2), layout="constrained")
    states = {"y = 1": (4.0, "0.5"), "y = 2": (2.0, "0.3"), "y = 3": (0.0, "0.2")}
    axis.text(0, 2.0, "expected\ncost", ha="center", va="center", weight="bold", color=DARK)
    for name, (height, weight) in states.items():
        axis.plot([0.45, 1.55], [2.0, height], color=BLUE, zorder=0)
        axis.text(1.98, height, name, ha="center", va="bottom", color=BLUE, weight="bold")
        axis.text(1.98, height - 0.1, f"weight {weight}", ha="center", va="top", color=BLUE, fontsize=9)
        for sample, offset in (("a", 0.5), ("b", -0.5)):
            axis.plot([2.35, 3.35], [height, height + offset], color=ORANGE, zorder=0)
            axis.text(3.6, height + offset, f"z = {sample}", ha="center", va="center", color=ORANGE)
            axis.annotate(
                f"cost f({name[-1]}, {sample})",
                (3.9, height + offset),
                (5.0, height + offset),
                va="center",
                fontsize=9,
                color=DARK,
                arrowprops={"arrowstyle": "<-", "color": GRAY},
            )
    axis.text(2.85, 5.0, "samples:\nweight 1/2 each", ha="center", color=ORANGE, fontsize=9)
    axis.text(1.0, 5.0, "every state:\nweight q(y)", ha="center", color=BLUE, fontsize=9)
    axis.annotate("", (0.4, -0.95), (6.0, -0.95), arrowprops={"arrowstyle": "->", "color": DARK})
    axis.text(3.2, -1.25, "the fold: correct, weight and sum, deepest node first", ha="center", va="top", color=DARK)
    axis.set(xlim=(-0.6, 6.6), ylim=(-1.9, 5.9))
    axis.axis("off")
    save(figure, "fold")


def bits_cost() -> Callable[[Tensor], Tensor]:
    """Return the output of a small random network of the bits."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(NUM_BITS, 16, generator=generator, dtype=torch.float64)
    second = torch.randn(16, generator=generator, dtype=torch.float64) / 4
    return lambda bits: torch.tanh(bits.double() @ first - 1) @ second


def plot_bias_and_variance() -> None:
    """Measure bias and standard deviation of estimators on eight bits, and plot one against the other."""
    torch.manual_seed(0)
    logits = torch.linspace(-1, 1, NUM_BITS, dtype=torch.float64).requires_grad_()
    cost = bits_cost()

    def q() -> Independent:
        return Independent(Bernoulli(logits=logits), 1)

    estimators: dict[str, Estimator] = {
        "ScoreFunction": ScoreFunction(),
        "leave-one-out": ScoreFunction(2, LeaveOneOut()),
        "ARM": ARM(),
        "DisARM": DisARM(),
        "REBAR": REBAR(),
        "LocalExpectation": LocalExpectation(),
        "Enumerate": Enumerate(),
        "GumbelSoftmax": GumbelSoftmax(0.5),
        "StraightThrough": StraightThrough(),
        "ReinMax": ReinMax(),
    }
    learn(estimators["REBAR"], cost, q)
    report = vaekit.gradient_report(cost, q, estimators, logits, num_estimates=4000, timings=1, progress=False)
    norm = report.attrs["norm"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.7), layout="constrained", sharey=True)
    names = [f"{row.estimator} ({row.evaluations:.0f})" for row in report.itertuples()]
    for place, row in enumerate(report.itertuples()):
        noise, color = math.sqrt(row.variance) / norm, ORANGE if row.z > 4 else BLUE
        left.barh(place, row.relative_bias, color=color, height=0.6)
        left.plot([row.bias_noise] * 2, [place - 0.4, place + 0.4], color=DARK, label=None if place else "by chance")
        right.barh(place, noise, color=color, height=0.6)
        print(f"{names[place]:24s} bias {row.relative_bias:.3f}, by chance {row.bias_noise:.3f}; deviation {noise:.2f}")
    left.set(title="bias", xlabel="fraction of the exact gradient", yticks=range(len(names)), yticklabels=names)
    left.invert_yaxis()
    left.legend(frameon=False)
    right.set(title="standard deviation of one gradient", xlabel="in units of the exact gradient")
    save(figure, "estimators")


def learn(estimator: Estimator, cost: Callable[[Tensor], Tensor], q: Callable[[], Independent]) -> None:
    """Train the control variate of an estimator, which minimizes the variance, at fixed parameters of ``q``."""
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        batch = Independent(Bernoulli(logits=q().base_dist.logits.detach().expand(50, -1).requires_grad_()), 1)
        vaekit.expectation(cost, batch, estimator).mean().backward()
        optimizer.step()


def plot_composition() -> None:
    """Plot gradients of one graph, a category and a normal below it, under three choices of the estimators."""
    target, rent = torch.tensor([1.0, -1.0, 3.0]), torch.tensor([0.0, 0.5, -1.0])
    start = {"logits": torch.tensor([0.5, 0.0, -0.5]), "means": torch.tensor([0.0, 0.5, 1.0])}
    choices = {
        "y: score function, z: score function": (ScoreFunction(), ScoreFunction()),
        "y: score function, z: pathwise": (ScoreFunction(), Pathwise()),
        "y: every state, z: pathwise": (Enumerate(), Pathwise()),
    }
    exact = {name: value.clone().requires_grad_() for name, value in start.items()}
    cost_of_state = (exact["means"] - target).square() + 1 + rent
    (exact["logits"].softmax(-1) * cost_of_state).sum().backward()

    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.4), layout="constrained", sharey=True)
    torch.manual_seed(0)
    for place, (for_y, for_z) in enumerate(choices.values()):
        values = {name: value.expand(NUM_GRADIENTS, 3).clone().requires_grad_() for name, value in start.items()}
        logits, means = values["logits"], values["means"]
        q = {
            "y": OneHotCategorical(logits=logits),
            "z": lambda y, means=means: Normal((y * means).sum(-1), 1.0),
        }
        loss = vaekit.expectation(
            lambda y, z: (z - (y * target).sum(-1)).square() + (y * rent).sum(-1), q, {"y": for_y, "z": for_z}
        )
        loss.sum().backward()
        for axis, key in zip(axes, values, strict=True):
            gradient = values[key].grad[:, 0]
            mean, deviation = gradient.mean().item(), gradient.std().item()
            axis.plot([mean - deviation, mean + deviation], [place, place], color=BLUE, linewidth=2)
            axis.plot(mean, place, "o", color=BLUE, markersize=7)
            print(f"{key}, choice {place}: mean {mean:+.3f} ± {deviation / math.sqrt(NUM_GRADIENTS):.3f}, "
                  f"deviation {deviation:.2f}, exact {exact[key].grad[0]:+.3f}")  # fmt: skip
    for axis, key, title in zip(axes, values, ("a logit of y", "a mean of z"), strict=True):
        axis.axvline(exact[key].grad[0].item(), color=ORANGE, linestyle="--", label="exact")
        axis.set(title=f"gradient of {title}", xlabel="mean ± standard deviation", ylim=(2.5, -0.5))
    axes[0].set_yticks(range(3), list(choices))
    axes[1].legend(frameon=False, loc="upper right")
    save(figure, "composition")


if __name__ == "__main__":
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    torch.set_num_threads(1)
    plot_smoothing()
    plot_fold()
    plot_bias_and_variance()
    plot_composition()
