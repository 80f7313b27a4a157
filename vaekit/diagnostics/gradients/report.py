"""Report of the bias, variance and cost of gradient estimators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vaekit.diagnostics.gradients.estimator_catalog import label
from vaekit.diagnostics.gradients.measurement import measure, seeded_rng
from vaekit.diagnostics.gradients.replicas import flatten
from vaekit.diagnostics.gradients.target import ExpectationTarget
from vaekit.estimators import Enumerate
from vaekit.exceptions import EstimatorError

if TYPE_CHECKING:
    import pandas as pd


def gradient_report(
    cost: Any,
    q: Any,
    estimators: Mapping[str, Any] | Sequence[Any],
    params: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
    num_estimates: int = 1000,
    reference: Any = "auto",
    *,
    num_samples: int | None = None,
    context: Tensor | None = None,
    reference_draws: int | None = None,
    timings: int = 15,
    max_seconds: float | None = None,
    max_states: int = 4096,
    vectorize: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Measure bias, variance and time of the gradient of ``expectation(cost, q, estimator).mean()``.

    The RNG states of torch and NumPy are restored afterwards.

    Parameters
    ----------
    cost, num_samples, context
        As in :func:`vaekit.expectation`.
    q
        As in :func:`vaekit.expectation`, or a function without arguments that builds the distributions from ``params``.
    estimators : Mapping or Sequence
        Estimators by label. Each is an estimator, or a dictionary of estimators by node. The label of an item of a
        sequence contains its arguments that are not default. All estimators are copied. Baselines with a moving average
        learn from the costs; networks and other parameters are constant.
    params : Tensor, or Sequence or Mapping of Tensor
        Tensors that require a gradient. The gradients with respect to all of them form one vector ``g``.
    num_estimates : int
        Number of estimates per estimator, at least 8.
    reference : str, Tensor, Sequence or Mapping of Tensor, Estimator, Mapping of Estimator, or None
        Gradient that ``g`` is compared with. ``"auto"`` is the exact gradient by enumeration if all nodes have at most
        ``max_states`` states together, else None. An exact gradient has the shapes of ``params``. For an unbiased
        estimator, or a dictionary of them by node, the reference is its mean over ``reference_draws`` estimates.
    reference_draws : int, optional
        Number of estimates of a reference estimator. By default ten times ``num_estimates``.
    timings : int
        Number of timed gradients per estimator. The estimators alternate.
    max_seconds : float, optional
        Time for each estimator in seconds, with warm-up and timing. It limits the number of estimates; an estimator
        with fewer than 8 fails. The reference may take four times as long. A single estimate, and the trial of
        ``vectorize`` with about six evaluations of the cost, are never interrupted. By default the time is unlimited.
    max_states : int
        Maximum number of states that the reference enumerates.
    vectorize : bool
        Whether to compute many estimates at once along an extra leading batch dimension. A trial detects costs that do
        not support this.
    seed : int
        Seed of the random numbers, the same for each estimator.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        One row per estimator, with the columns

        ``estimator``, ``unbiased``
            Label, and whether the estimator is unbiased in theory.
        ``relative_bias``, ``bias_noise``
            :math:`\|\bar g - g^*\| / \|g^*\|`, and its root mean square if there is no bias.
        ``z``, ``p_value``
            Statistic and p-value of a one-sided test of unbiasedness. The first half of the estimates selects a
            direction: the difference between their mean and the reference. ``z`` is the mean of the second half along
            it, minus the reference, over its standard error. A bias makes it large and positive. For an unbiased
            estimator, it follows Student's t for any number of components, with num_estimates / 2 - 1 degrees of
            freedom (Welch's if the reference has an error), if a mean of that many estimates is normal. With 1,000
            estimates, it exceeds 4 by chance in 3 of 100,000 reports.
        ``variance``, ``relative_std``
            Variance of one estimate, summed over components, and its root over the norm of the reference (of the mean
            if there is no reference).
        ``cosine``
            Mean cosine of one estimate with the reference.
        ``evaluations``
            Number of evaluations of the whole graph per estimate and entry of the batch.
        ``milliseconds``
            Median time of one estimate, forward and backward.
        ``variance_x_time``, ``mse_x_time``
            ``variance`` times ``milliseconds``, and the same with the squared bias (minus its noise) added to the
            variance. Without a reference, ``mse_x_time`` is NaN for biased estimators.
        ``num_estimates``
            Number of estimates.
        ``error``
            Error of an estimator that does not support the graph, fails, takes too long, or returns gradients that are
            not finite; else the empty string. The rest of its row is empty, and it does not count as unbiased.

        Without a reference, the columns that compare with it are NaN. ``attrs`` contains the labels ``best_unbiased``
        (by ``variance_x_time``) and ``best`` (by ``mse_x_time``), each None if unknown, and the description
        ``reference`` and ``norm`` of the reference.

    Raises
    ------
    EstimatorError
        If ``estimators`` is empty, ``num_estimates`` is below 8, or ``params`` or ``reference`` is invalid.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> from vaekit.estimators import LeaveOneOut, ScoreFunction, StraightThrough
    >>> phi = torch.zeros((), dtype=torch.float64, requires_grad=True)
    >>> estimators = [ScoreFunction(), ScoreFunction(baseline=LeaveOneOut()), StraightThrough()]
    >>> cost, q = lambda b: (b - 0.499) ** 2, Bernoulli(logits=phi)
    >>> report = gradient_report(cost, q, estimators, phi, progress=False)
    >>> report.attrs["reference"]
    'exact, by enumeration'
    """
    leaves = _as_tensors(params)
    if leaves is None or not all(leaf.requires_grad for leaf in leaves):
        raise EstimatorError(
            "gradient_report: params must be a tensor that requires a gradient, or a sequence or dictionary of them."
        )
    target = ExpectationTarget(cost, q, leaves, num_samples, context, vectorize)
    description, gradients = None, _as_tensors(reference)
    if gradients is not None:
        reference = _flatten_reference(gradients, leaves)
    elif isinstance(reference, str):
        if reference != "auto":
            raise EstimatorError(
                f"gradient_report: reference={reference!r} must be 'auto', None, a gradient or an estimator."
            )
        reference, description = Enumerate(max_states), "exact, by enumeration"
        with seeded_rng(seed):
            try:
                target.num_evaluations(reference)
            except Exception:  # too many states, or a cost that does not accept all of them at once
                reference, description = None, None
    return measure(
        target, label_estimators(estimators), num_estimates, reference, description=description,
        reference_draws=10 * num_estimates if reference_draws is None else reference_draws,
        timings=timings, max_seconds=max_seconds, seed=seed, progress=progress,
    )  # fmt: skip


def label_estimators(estimators: Any) -> dict[str, Any]:
    """Return estimators by label; a repeated label has a number."""
    if isinstance(estimators, Mapping):
        return dict(estimators)
    by_label: dict[str, Any] = {}
    for estimator in estimators if isinstance(estimators, Sequence) else [estimators]:
        name = text = label(estimator)
        number = 2
        while name in by_label:
            name, number = f"{text} #{number}", number + 1
        by_label[name] = estimator
    return by_label


def _flatten_reference(gradients: Sequence[Tensor], params: Sequence[Tensor]) -> Tensor:
    """Return a reference gradient as one vector in float64."""
    sizes, expected = ([tensor.numel() for tensor in tensors] for tensors in (gradients, params))
    if sizes != expected:
        raise EstimatorError(
            f"gradient_report: reference has tensors of sizes {sizes}, but params of {expected}. Pass one gradient per "
            "parameter."
        )
    reference = flatten(gradients, params)[0].double()
    if not reference.isfinite().all():
        raise EstimatorError("gradient_report: reference must be finite, but contains NaN or infinity.")
    return reference


def _as_tensors(value: Any) -> list[Tensor] | None:
    """Return the tensors of a tensor, sequence or dictionary; None for any other value."""
    items = [value] if isinstance(value, Tensor) else list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(items, str) or not isinstance(items, Sequence) or not items:
        return None
    return list(items) if all(isinstance(item, Tensor) for item in items) else None
