"""Cost of a training step through ``vaekit.expectation``, compared with plain torch and with Pyro.

One step (forward, backward, Adam) of a VAE with 20 categorical variables of 10 categories: encoder 784-256-200,
decoder 200-256-784, Bernoulli pixels, 100 images of random bits. All contestants have the same networks,
reconstruction and fused Adam. They take turns, round by round, in one process; a ratio is computed within each
round, and the table shows its median over rounds with the middle half of them in brackets.

  hand-written   what one would write for this one estimator in plain torch, with no distributions and no checks;
                 estimators without such a step are compared with its leave-one-out step of 2 samples
  vaekit         reconstruction and KL as two functions, given to vaekit.expectation on every step
  Pyro           TraceGraph_ELBO as its tutorials write it, also vectorized over particles, and that without validation
  host sync      whether forward and backward ever wait for a value (item, bool, nonzero), which stalls an accelerator;
                 "torch" where only torch's own check of the distribution's parameters does so
  one graph      whether torch.compile (inductor) takes forward and loss as one graph, and the ratio to the eager
                 step when it does

Needs the extra "benchmark" (pyro-ppl) for Pyro. The last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, OneHotCategorical
from torch.utils._python_dispatch import TorchDispatchMode

import vaekit
from vaekit import estimators as E
from vaekit.graph.dependencies import NodeFunction

VARIABLES, CATEGORIES, PIXELS, HIDDEN, BATCH = 20, 10, 784, 256, 100
TEMPERATURE = 0.5
REFERENCE = "leave-one-out, 2"  # what estimators without a hand-written step are compared with
TARGETS = {"Gumbel-Softmax": 1.15, "Gumbel-Softmax, hard": 1.15, "leave-one-out, 2": 1.15, "leave-one-out, 8": 1.15}
PYRO_TARGET = 3.5
Step = Callable[[], Any]


def leave_one_out(num_samples: int) -> E.ScoreFunction:
    """Create the score function with leave-one-out."""
    return E.ScoreFunction(num_samples, baseline=E.LeaveOneOut())


def network(inputs: int) -> nn.Module:
    """Create a small network with one output, for learned baselines and control variates."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 1))


ESTIMATORS: dict[str, Callable[[], E.Estimator]] = {
    "Gumbel-Softmax": lambda: E.GumbelSoftmax(TEMPERATURE),
    "Gumbel-Softmax, hard": lambda: E.GumbelSoftmax(TEMPERATURE, hard=True),
    "leave-one-out, 2": lambda: leave_one_out(2),
    "leave-one-out, 8": lambda: leave_one_out(8),
    "score function": E.ScoreFunction,
    "moving average": lambda: E.ScoreFunction(baseline=E.MovingAverage()),
    "learned baseline": lambda: E.ScoreFunction(baseline=E.LearnedBaseline(network(PIXELS))),
    "self-critic": lambda: E.ScoreFunction(baseline=E.SelfCritic()),
    "straight-through": E.StraightThrough,
    "ReinMax": E.ReinMax,
    "Gumbel-Rao": E.GumbelRao,
    "DisARM": E.DisARM,
    "MuProp": E.MuProp,
    "REBAR": E.REBAR,
    "RELAX": lambda: E.RELAX(network(VARIABLES * CATEGORIES + PIXELS)),
    "local expectation": E.LocalExpectation,
    "measure-valued": E.MeasureValued,
}


class Networks(nn.Module):
    """The same encoder and decoder, to the last weight, for every contestant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        size = VARIABLES * CATEGORIES
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, size))
        self.decoder = nn.Sequential(nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))

    def logits(self, x: Tensor) -> Tensor:
        """Return ``[batch, variables, categories]``."""
        return self.encoder(x).unflatten(-1, (VARIABLES, CATEGORIES))

    def reconstruction(self, z: Tensor, x: Tensor) -> Tensor:
        """Return minus the log-likelihood of the pixels, ``[*rows, batch]``."""
        logits = self.decoder(z.flatten(-2))
        return F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def divergence(log_prob: Tensor) -> Tensor:
    """Return the divergence from the uniform prior, ``[batch]``."""
    return (log_prob.exp() * log_prob).sum((-1, -2)) + VARIABLES * math.log(CATEGORIES)


def hand_written_gumbel(nets: Networks, x: Tensor, hard: bool) -> Tensor:
    """Return the loss; its gradient is the relaxation's."""
    logits = nets.logits(x)
    log_prob = logits - logits.logsumexp(-1, keepdim=True)
    z = F.gumbel_softmax(logits, tau=TEMPERATURE, hard=hard)
    return (nets.reconstruction(z, x) + divergence(log_prob)).mean()


def hand_written_score(nets: Networks, x: Tensor, num_samples: int) -> Tensor:
    """Return a loss whose gradient is the score function's, with leave-one-out from two samples on."""
    logits = nets.logits(x)
    log_prob = logits - logits.logsumexp(-1, keepdim=True)  # on a CPU several times faster than log_softmax
    index = torch.multinomial(log_prob.detach().exp().reshape(-1, CATEGORIES), num_samples, replacement=True)
    index = index.T.reshape(num_samples, BATCH, VARIABLES, 1)
    z = torch.zeros(num_samples, BATCH, VARIABLES, CATEGORIES).scatter_(-1, index, 1.0)
    cost = nets.reconstruction(z, x)
    advantage = cost.detach()
    if num_samples > 1:
        advantage = (advantage - advantage.mean(0)) * (num_samples / (num_samples - 1))
    score = log_prob.expand(num_samples, -1, -1, -1).gather(-1, index).sum((-1, -2))
    return (cost + advantage * score + divergence(log_prob)).mean()


HAND_WRITTEN: dict[str, Callable[[Networks, Tensor], Tensor]] = {
    "Gumbel-Softmax": lambda nets, x: hand_written_gumbel(nets, x, hard=False),
    "Gumbel-Softmax, hard": lambda nets, x: hand_written_gumbel(nets, x, hard=True),
    "score function": lambda nets, x: hand_written_score(nets, x, 1),
    "leave-one-out, 2": lambda nets, x: hand_written_score(nets, x, 2),
    "leave-one-out, 8": lambda nets, x: hand_written_score(nets, x, 8),
}


def ours(nets: Networks, x: Tensor, estimator: E.Estimator, named: bool = False) -> Tensor:
    """Return the loss as a user of vaekit writes it; ``named`` saves torch.compile the reading of signatures."""
    q = Independent(OneHotCategorical(logits=nets.logits(x), validate_args=False), 1)
    cost: dict[str, Any] = {
        "reconstruction": lambda z: nets.reconstruction(z, x),
        "kl": lambda: divergence(q.base_dist.logits),
    }
    if named:
        cost = {name: NodeFunction(f, ("z",) if name == "reconstruction" else ()) for name, f in cost.items()}
    return vaekit.expectation(cost, {"z": q}, {"z": estimator}, context=x).mean()


def training_step(loss: Callable[[], Tensor], *modules: nn.Module) -> Step:
    """Create a whole step of a loss."""
    optimizer = torch.optim.Adam([p for m in modules for p in m.parameters()], lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def hand_written_step(x: Tensor, name: str) -> Step:
    """Create a step of plain torch."""
    nets = Networks()
    return training_step(lambda: HAND_WRITTEN[name](nets, x), nets)


def our_step(x: Tensor, estimator: E.Estimator, named: bool = False, compiled: bool = False) -> Step:
    """Create a step of vaekit's."""
    nets = Networks()
    loss: Callable[[], Tensor] = lambda: ours(nets, x, estimator, named)  # noqa: E731
    return training_step(torch.compile(loss, fullgraph=True) if compiled else loss, nets, estimator)


def pyro_step(x: Tensor, particles: int, vectorized: bool, validated: bool) -> Step:
    """Create a step of Pyro's TraceGraph_ELBO, which needs no baseline to run."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import TraceGraph_ELBO

    nets = Networks()

    def model(x: Tensor) -> None:
        pyro.module("decoder", nets.decoder)
        with pyro.plate("images", len(x), dim=-1):
            prior = dist.OneHotCategorical(logits=x.new_zeros(VARIABLES, CATEGORIES)).expand([len(x), VARIABLES])
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=nets.decoder(z.flatten(-2))).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", nets.encoder)
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", dist.OneHotCategorical(logits=nets.logits(x)).to_event(1))

    elbo = TraceGraph_ELBO(num_particles=particles, vectorize_particles=vectorized, max_plate_nesting=1)
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with pyro.validation_enabled(validated):
            elbo.loss_and_grads(model, guide, x)
        optimizer.step()

    return step


class HostSync(TorchDispatchMode):
    """Collects the operations that make the host wait for a value."""

    WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note it."""
        name = func.overloadpacket.__name__
        if name in self.WAITING:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def host_sync(x: Tensor, estimator: E.Estimator) -> str:
    """Return whether forward and backward wait for a value: no, only in torch's checks of parameters, or where."""
    nets = Networks()
    ours(nets, x, estimator).backward()  # what happens only once does not count
    found = {}
    for checks in (True, False):
        torch.distributions.Distribution.set_default_validate_args(checks)
        with HostSync() as mode:
            ours(nets, x, copy.deepcopy(estimator)).backward()
        found[checks] = mode.found
    torch.distributions.Distribution.set_default_validate_args(True)
    return ", ".join(sorted(set(found[False]))) or ("torch" if found[True] else "no")


def one_graph(x: Tensor, make: Callable[[], E.Estimator], eager: float) -> str:
    """Compile a step; return its time over the eager one, or why it does not compile."""
    torch._dynamo.reset()
    try:
        step = our_step(x, make(), named=True, compiled=True)
        for _ in range(3):
            step()
        return f"{statistics.median(seconds(step, 1) for _ in range(20)) / eager:.2f}"
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"no: {(lines or [type(error).__name__])[0][:60]}"


def seconds(step: Step, repeats: int) -> float:
    """Return the mean time of a step."""
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - started) / repeats


def measure(steps: dict[str, Step], rounds: int, share: float) -> dict[str, list[float]]:
    """Return the seconds a step takes, in every round; a contestant has ``share`` seconds of each."""
    for step in steps.values():
        seconds(step, 2)
    repeats = {name: max(1, round(share / seconds(step, 1))) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            times[name].append(seconds(steps[name], repeats[name]))
    return times


def ratio(first: list[float], second: list[float]) -> dict[str, float]:
    """Return the quartiles over rounds of one time over the other."""
    low, median, high = statistics.quantiles([a / b for a, b in zip(first, second, strict=True)], n=4)
    return {"ratio": median, "low": low, "high": high}


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke test: 4 short rounds, nothing compiled; its figures mean little")
    add("--rounds", type=int, default=40, metavar="N", help="rounds in which all take turns (40)")
    add("--share", type=float, default=0.1, metavar="S", help="seconds of a round for each contestant (0.1)")
    add(
        "--only", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS), metavar="NAME", help="these estimators alone"
    )
    add("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.share, options.no_compile = 4, 0.02, True
    torch.set_num_threads(1)  # two make small steps slower on shared cores
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((BATCH, PIXELS), 0.5))
    figures = {"estimators": compare_by_hand(x, options), "pyro": compare_pyro(x, options)}
    print(json.dumps(figures))
    return 0


def compare_by_hand(x: Tensor, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every estimator next to its hand-written step, and print the table."""
    steps: dict[str, Step] = {}
    for name in dict.fromkeys([*options.only, REFERENCE]):
        steps[name] = our_step(x, ESTIMATORS[name]())
        if name in HAND_WRITTEN:
            steps[f"{name} by hand"] = hand_written_step(x, name)
    times = measure(steps, options.rounds, options.share)
    rows: list[dict[str, Any]] = []
    for name in options.only:
        reference = name if name in HAND_WRITTEN else REFERENCE
        eager, by_hand = (statistics.median(times[key]) for key in (name, f"{reference} by hand"))
        row = {"estimator": name, "reference": reference, "milliseconds": 1e3 * eager, "by_hand": 1e3 * by_hand}
        row |= ratio(times[name], times[f"{reference} by hand"]) | {"target": TARGETS.get(name)}
        rows.append(row | {"one_graph": "-" if options.no_compile else one_graph(x, ESTIMATORS[name], eager)})
    print(
        f"{'estimator':<22}{'ms':>8}{'by hand':>9}{'ratio':>7}  {'middle half':<16}{'target':>6}  host sync  one graph"
    )
    for row in rows:  # only now: after a dispatch mode was on, torch.compile rejects what it took before
        row["host_sync"] = host_sync(x, ESTIMATORS[row["estimator"]]())
        print(
            f"{row['estimator']:<22}{row['milliseconds']:>8.2f}{row['by_hand']:>9.2f}{row['ratio']:>7.2f}  "
            f"{spread(row):<16}{row['target'] or '':>6}  {row['host_sync']:<9}  {row['one_graph']}"
        )
    return rows


def compare_pyro(x: Tensor, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the score function next to Pyro's, with 1 and 2 samples, and print the table."""
    rows: list[dict[str, Any]] = []
    kinds = {"TraceGraph_ELBO": (False, True), "vectorized": (True, True), "vectorized, unchecked": (True, False)}
    for samples, name in ((1, "score function"), (2, REFERENCE)):
        steps = {kind: pyro_step(x, samples, *flags) for kind, flags in kinds.items() if samples > 1 or not flags[0]}
        ours = {"by hand": hand_written_step(x, name), "vaekit": our_step(x, ESTIMATORS[name]())}
        times = measure(steps | ours, options.rounds, options.share)
        for kind in steps:
            found = ratio(times[kind], times["vaekit"]) | {"by_hand": ratio(times[kind], times["by hand"])["ratio"]}
            target = PYRO_TARGET if samples == 2 and kind == "TraceGraph_ELBO" else None
            rows.append({"pyro": kind, "samples": samples, **found, "target": target})
    print(f"\n{'Pyro':<24}{'samples':>8}{'over vaekit':>13}  {'middle half':<16}{'target':>6}{'over by hand':>14}")
    for row in rows:
        print(
            f"{row['pyro']:<24}{row['samples']:>8}{row['ratio']:>13.2f}  {spread(row):<16}"
            f"{row['target'] or '':>6}{row['by_hand']:>14.2f}"
        )
    return rows


def spread(row: dict[str, Any]) -> str:
    """Return the middle half, for a table."""
    return f"[{row['low']:.2f}, {row['high']:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
