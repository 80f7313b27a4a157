"""Gradient report of one latent of a model, on a batch of its data."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.batch import Batch
from vaekit.diagnostics.gradients.estimator_catalog import compatible_estimators, is_unbiased
from vaekit.diagnostics.gradients.measurement import measure, seeded_rng
from vaekit.diagnostics.gradients.replicas import flatten, replicate, separate_gradients
from vaekit.diagnostics.gradients.target import Target, limit_replicates
from vaekit.estimators import Enumerate, Estimator, LocalExpectation, Pathwise
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import Node
from vaekit.graph.fold import Estimate
from vaekit.models.loss import compute_loss

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.models import VAE

MAX_EVALUATIONS = 1024  # per estimate; estimators that need more are omitted


class ModelTarget(Target):
    """The training loss of a model on a batch, differentiated through the posterior of one latent.

    The gradient is with respect to the parameters of the latent's head and the encoder, through this posterior only:
    the part that the latent's estimator estimates. The model is copied, and dropout is off. If a posterior depends on
    other latents, each estimate needs a separate backward pass, because each has a different posterior.
    """

    def __init__(self, model: VAE, batch: Batch, name: str, kl_weight: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.batch = batch.to(model.device)
        self.name, self.kl_weight = name, kl_weight
        networks = self.model.networks
        candidates = [*networks.latents[name].parameters(), *networks.encoder.parameters()]
        candidates = [p for p in candidates if p.requires_grad]
        self.model_params = [p for p in self.model.parameters() if p.requires_grad]
        self.h = networks.encode(self.batch)
        self.q = networks.posteriors(self.h)
        parameter_sum = torch.stack([source.sum() for source in replicate(self.q[name], 1).sources]).sum()
        partials = torch.autograd.grad(parameter_sum, candidates, allow_unused=True, retain_graph=True)
        self.params = [p for p, g in zip(candidates, partials, strict=True) if g is not None]  # without the prior's

    @override
    def gradient(self, estimators: Any) -> Tensor:
        """Return one estimate ``[1, components]``; the encoder features have a gradient path in one posterior only."""
        networks, h = self.model.networks, self.h.detach()
        nodes = [networks.node(name, self.h if name == self.name else h) for name in networks.inference_order]
        total = self._loss(nodes, h, estimators).total.mean()
        return flatten(torch.autograd.grad(total, self.params, allow_unused=True, retain_graph=True), self.params)

    @override
    def gradients(self, estimators: Any, count: int) -> Tensor:
        if any(latent.posterior_parents for latent in self.model.latents.values()):
            return super().gradients(estimators, count)
        replicas = replicate(self.q[self.name], count)
        others = {name: _detach(q).expand(torch.Size([count, *q.batch_shape])) for name, q in self.q.items()}
        nodes = [Node(name, q, (), frozenset({name})) for name, q in {**others, self.name: replicas.q}.items()]
        total = self._loss(nodes, self.h.detach().expand(count, *self.h.shape), estimators).total.mean(-1)
        return separate_gradients(total, [replicas], self.params)

    @override
    def training_gradient(self, estimators: Any) -> None:
        """Compute the gradient of a training step with respect to all parameters of the model."""
        for name, estimator in estimators.items():
            self.model.latents[name].estimator = estimator
        self.model._paths_checked = True
        total = self.model.loss(self.batch, self.kl_weight, training=True).total.mean()
        torch.autograd.grad(total, self.model_params, allow_unused=True)

    @override
    def num_evaluations(self, estimators: Any) -> int:
        """Return the number of joint samples, or of evaluations for the measured latent without joint samples."""
        return self.model.objective.num_samples or estimators[self.name].num_evaluations(self.q[self.name])

    @override
    def chunk_size(self, estimators: Any) -> int:
        objective = self.model.objective
        if getattr(objective, "free_bits", 0):
            return 1  # the lower limit applies to the mean over the batch, which replicates would share
        evaluations = objective.num_samples or 1
        if objective.num_samples is None:
            for name in self.model.networks.seen_by_decoder:
                evaluations *= estimators[name].num_evaluations(self.q[name])
            evaluations = max(evaluations, self.num_evaluations(estimators) // 8)
        return limit_replicates(2 * evaluations * self.batch.x.numel(), sum(p.numel() for p in self.params))

    def is_unbiased(self, estimator: Estimator) -> bool:
        """Return whether an estimator of the latent is unbiased for this objective."""
        return is_unbiased(estimator) or (estimator.stick_the_landing and self.model.objective.num_samples is None)

    def _loss(self, nodes: list[Node], h: Tensor, estimators: Mapping[str, Estimator]) -> Estimate:
        """Return the training loss for posteriors, as :meth:`vaekit.VAE.loss` computes it."""
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
    """Measure the gradient of a model's training loss through the posterior of one latent.

    The other latents keep their estimators. If one of these is biased, the reference has the same bias. Times are of
    the gradient of a whole training step. The reference sums over the states of discrete latents if there are few.
    Otherwise it is a mean of many estimates: pathwise for Gaussian latents, by local expectations for discrete ones
    with many states.

    Parameters
    ----------
    model : VAE
        The model, which is not changed.
    batch : Batch
        Mini-batch of its data.
    latent : str
        Name of the latent.
    num_estimates, timings, max_seconds, seed, progress
        As in :func:`vaekit.gradient_report`.
    estimators : Mapping[str, Estimator], optional
        Estimators by label; by default all of ``vaekit.estimators`` that support the posterior.
    reference_draws : int, optional
        Number of estimates of the reference; by default four times ``num_estimates``.
    kl_weight : float, optional
        Weight of the KL divergences; by default the weight after the warm-up.

    Returns
    -------
    report : DataFrame
        Table of :func:`vaekit.gradient_report`.
    omitted : dict[str, str]
        Reasons for the omission of estimators, by label.

    Raises
    ------
    EstimatorError
        If there is no estimator to measure.

    Examples
    --------
    >>> import vaekit
    >>> from vaekit.estimators import DisARM, Enumerate
    >>> estimators = {"Enumerate": Enumerate(), "DisARM": DisARM()}
    >>> report, _ = vaekit.diagnostics.model_gradient_report(
    ...     model, batch, "y", num_estimates=8, estimators=estimators, timings=1, progress=False
    ... )
    >>> report.set_index("estimator")["variance"].gt(0).to_dict()
    {'Enumerate': False, 'DisARM': True}
    """
    target = ModelTarget(model, batch, latent, model.objective.beta if kl_weight is None else kl_weight)
    q, omitted = target.q[latent], dict[str, str]()
    if estimators is None:
        estimators, omitted = compatible_estimators(q)
    current = {name: copy.deepcopy(estimator) for name, estimator in target.model.estimators.items()}
    measured = {}
    for label, estimator in estimators.items():
        with contextlib.suppress(Exception):  # a custom estimator may fail: its row contains the error
            if (evaluations := estimator.num_evaluations(q)) > MAX_EVALUATIONS:
                omitted[label] = f"{evaluations} evaluations per estimate exceed {MAX_EVALUATIONS}"
                continue
        measured[label] = {**current, latent: estimator}
    if not measured:
        reasons = "; ".join(omitted.values())
        raise EstimatorError(f"model_gradient_report: no estimator supports latent={latent!r}: {reasons}")
    report = measure(
        target, measured, num_estimates, _reference_estimators(target, current),
        reference_draws=4 * num_estimates if reference_draws is None else reference_draws,
        timings=timings, max_seconds=max_seconds, seed=seed, progress=progress,
        unbiased={label: target.is_unbiased(item[latent]) for label, item in measured.items()},
        title=f"gradients of {latent}",
    )  # fmt: skip
    return report, omitted


def _reference_estimators(target: ModelTarget, current: Mapping[str, Estimator]) -> dict[str, Estimator] | None:
    """Return unbiased estimators with low variance, or None. Biased estimators of other latents are kept."""
    best = dict(current)
    for name, q in target.q.items():
        if name != target.name and not is_unbiased(current[name]):
            continue
        for estimator in (Enumerate(), LocalExpectation(), Pathwise()):
            with contextlib.suppress(EstimatorError):
                if estimator.supports(q) and estimator.num_evaluations(q) <= MAX_EVALUATIONS:
                    best[name] = estimator
                    break
    for candidate in (best, {**current, target.name: best[target.name]}, dict(current)):
        with seeded_rng(0):
            try:
                target.gradients(copy.deepcopy(candidate), 1)
            except Exception:  # a custom estimator of another latent may fail: each row contains the error
                continue
        if is_unbiased(candidate[target.name]):
            return candidate
    return None


def _detach(q: Distribution) -> Distribution:
    """Return a copy of a distribution with detached parameters."""
    q = copy.copy(q)
    for name, item in list(vars(q).items()):
        if isinstance(item, Tensor):
            setattr(q, name, item.detach())
        elif isinstance(item, Distribution):
            setattr(q, name, _detach(item))
    return q
