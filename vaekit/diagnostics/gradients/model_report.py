"""The gradient estimators of a model's latents, measured on a batch of its own."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.batch import Batch
from vaekit.diagnostics.gradients.estimator_catalog import compatible_estimators, is_unbiased
from vaekit.diagnostics.gradients.measurement import isolated_rng, measure
from vaekit.diagnostics.gradients.replicas import flatten, pull_back, replicate
from vaekit.diagnostics.gradients.target import Target, bounded
from vaekit.estimators import Enumerate, Estimator, LocalExpectation, Pathwise
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import Node
from vaekit.graph.fold import Estimate
from vaekit.models.loss import compute_loss

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.models import VAE

MAX_ROWS = 1024  # an estimator that needs more evaluations is left out


class ModelTarget(Target):
    """The training loss of a model on a batch, by the way of one latent's posterior.

    Gradients are those through that posterior, with respect to its head and the encoder: the part for which the
    latent's estimator is responsible. The model is copied, and its dropout is off. Where posteriors depend on other
    latents, each estimate is a backward pass of its own, as a latent's distribution is another one in each.

    Parameters
    ----------
    model
        The model.
    batch
        What the loss is worked out on.
    name
        Of the latent.
    kl_weight
        Weight of the KL divergences.
    """

    def __init__(self, model: VAE, batch: Batch, name: str, kl_weight: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.batch = batch.to(model.device)
        self.name, self.kl_weight = name, kl_weight
        networks = self.model.networks
        latent = networks.latents[name]
        self.params = [p for p in (*latent.parameters(), *networks.encoder.parameters()) if p.requires_grad]
        self.everything = [p for p in self.model.parameters() if p.requires_grad]
        self.h = networks.encode(self.batch)
        self.q = networks.posteriors(self.h)
        used = torch.autograd.grad(_parameter_sum(self.q[name]), self.params, allow_unused=True, retain_graph=True)
        self.params = [p for p, g in zip(self.params, used, strict=True) if g is not None]  # no prior's

    def gradients(self, estimators: Any, count: int) -> Tensor:
        """Return independent gradient estimates (see the base class)."""
        latents = self.model.latents.values()
        if any(latent.posterior_parents for latent in latents):
            return torch.cat([self._one(estimators) for _ in range(count)])
        replicas = replicate(self.q[self.name], count)
        others = {n: _detached(q).expand(torch.Size([count, *q.batch_shape])) for n, q in self.q.items()}
        q = {**others, self.name: replicas.q}
        nodes = [Node(name, item, (), frozenset({name})) for name, item in q.items()]
        h = self.h.detach().expand(count, *self.h.shape)
        total = self._bound(nodes, h, estimators).total.mean(-1)
        found = torch.autograd.grad(total.sum(), replicas.leaves, allow_unused=True)
        return pull_back(replicas.sources, [None if g is None else g.unsqueeze(1) for g in found], self.params, count)

    def _one(self, estimators: Any) -> Tensor:
        """Return one estimate, ``[1, components]``: the encoder's features have a gradient in one posterior alone."""
        networks, h = self.model.networks, self.h.detach()
        nodes = [networks.node(name, self.h if name == self.name else h) for name in networks.order]
        total = self._bound(nodes, h, estimators).total.mean()
        return flatten(torch.autograd.grad(total, self.params, allow_unused=True, retain_graph=True), self.params)

    def single_gradient(self, estimators: Any) -> None:
        """Work out the gradient of a training step, with respect to all parameters (see the base class)."""
        for name, estimator in estimators.items():
            self.model.latents[name].estimator = estimator
        self.model._paths_checked = True
        total = self.model.loss(self.batch, self.kl_weight, training=True).total.mean()
        torch.autograd.grad(total, self.everything, allow_unused=True)

    def rows(self, estimators: Any) -> int:
        """Return the rows of the latent that is measured, the joint trajectories if there are (see the base class)."""
        joint = self.model.objective.num_samples
        return joint if joint is not None else estimators[self.name].rows(self.q[self.name])

    def chunk(self, estimators: Any) -> int:
        """Return how many estimates fit into a chunk (see the base class)."""
        if getattr(self.model.objective, "free_bits", 0):
            return 1  # a floor under the mean over the batch: replicates must not share it
        joint = self.model.objective.num_samples
        rows = joint or 1
        if joint is None:
            for name in self.model.networks.seen_by_decoder:
                rows *= estimators[name].rows(self.q[name])
            rows = max(rows, self.rows(estimators) // 8)
        return bounded(2 * rows * self.batch.x.numel(), sum(p.numel() for p in self.params))

    def unbiased(self, estimator: Estimator) -> bool:
        """Tell whether an estimator of the latent is known to be unbiased for this objective."""
        return is_unbiased(estimator) or (estimator.stick_the_landing and self.model.objective.num_samples is None)

    def _bound(self, nodes: list[Node], h: Tensor, estimators: Mapping[str, Estimator]) -> Estimate:
        """Return the objective at given posteriors, as ``VAE.bound`` does."""
        networks, objective = self.model.networks, self.model.objective
        objective.check_estimators(estimators)
        return compute_loss(networks, self.batch, nodes, h, estimators, objective, self.kl_weight, True)


def model_gradient_report(
    model: VAE,
    batch: Batch,
    latent: str,
    num_estimates: int = 400,
    *,
    estimators: Mapping[str, Estimator] | None = None,
    reference_draws: int | None = None,
    kl_weight: float | None = None,
    timings: int = 9,
    max_seconds: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Measure the gradient of a model's training loss through one latent's posterior, by each estimator that fits.

    The other latents keep their estimators; where one of these is biased, the reference shares its bias. Times are
    those of the gradient of a whole training step. The reference sums discrete latents where that can be afforded, and
    is a mean of many num_estimates where something is left to chance: pathwise for Gaussian latents, local expectations for
    discrete ones with too many states.

    Parameters
    ----------
    model
        The model; it is left as it is.
    batch
        A batch of its data.
    latent
        Name of the latent.
    num_estimates, timings, max_seconds, seed, progress
        As in :func:`vaekit.gradient_report`.
    estimators
        By label; None: all of ``vaekit.estimators`` that fit.
    reference_draws
        By default four times ``draws``.
    kl_weight
        Weight of the KL divergences; None: that after the warm-up.

    Returns
    -------
    report, left_out
        The table of :func:`vaekit.gradient_report`, with a row for each estimator that was tried; and by label why
        another one is not in it.

    Raises
    ------
    EstimatorError
        If there is no estimator to measure.
    """
    target = ModelTarget(model, batch, latent, model.objective.beta if kl_weight is None else kl_weight)
    q = target.q[latent]
    left_out: dict[str, str] = {}
    if estimators is None:
        estimators, left_out = compatible_estimators(q)
    own = {name: copy.deepcopy(estimator) for name, estimator in target.model.estimators.items()}
    served = {}
    for label, estimator in estimators.items():
        with contextlib.suppress(Exception):  # of a foreign estimator: its row will say why
            if (rows := estimator.num_evaluations(q)) > MAX_ROWS:
                left_out[label] = f"{rows} evaluations an estimate, over {MAX_ROWS}"
                continue
        served[label] = {**own, latent: estimator}
    if not served:
        raise EstimatorError(f"latent {latent!r}: no estimator can be measured; {'; '.join(left_out.values())}")
    report = measure(
        target, served, num_estimates, _reference_of(target, own), words=None,
        reference_draws=4 * num_estimates if reference_draws is None else reference_draws,
        timings=timings, max_seconds=max_seconds, seed=seed, progress=progress,
        unbiased={label: target.unbiased(item[latent]) for label, item in served.items()},
        title=f"gradients of {latent}",
    )  # fmt: skip
    return report, left_out


def _reference_of(target: ModelTarget, own: Mapping[str, Estimator]) -> dict[str, Estimator] | None:
    """Return unbiased estimators with as little variance as can be had, or None; biased ones of other latents stay."""
    chosen: dict[str, Estimator] = dict(own)
    for name, q in target.q.items():
        if name != target.name and not is_unbiased(own[name]):
            continue
        ladder: list[Estimator] = [Enumerate(), LocalExpectation(), Pathwise()]
        for estimator in ladder:
            try:
                if estimator.supports(q) and estimator.num_evaluations(q) <= MAX_ROWS:
                    chosen[name] = estimator
                    break
            except EstimatorError:
                continue
    for candidate in (chosen, {**own, target.name: chosen[target.name]}, dict(own)):
        try:
            with isolated_rng(0, target.params):
                target.gradients(copy.deepcopy(candidate), 1)
        except Exception:  # of another latent's foreign estimator: each row will say why
            continue
        if is_unbiased(candidate[target.name]):
            return candidate
    return None


def _detached(q: Distribution) -> Distribution:
    """Return a distribution cut off from what its parameters were made from."""
    q = copy.copy(q)
    for name, item in list(vars(q).items()):
        if isinstance(item, Tensor):
            setattr(q, name, item.detach())
        elif isinstance(item, Distribution):
            setattr(q, name, _detached(item))
    return q


def _parameter_sum(q: Distribution) -> Tensor:
    """Return a sum of a distribution's parameters, which leads back to what they are made from."""
    return torch.stack([source.sum() for source in replicate(q, 1).sources]).sum()
