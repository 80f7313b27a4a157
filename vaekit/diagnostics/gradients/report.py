"""Bias, variance and cost of gradient estimators, measured side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vaekit.diagnostics.gradients.estimator_catalog import label
from vaekit.diagnostics.gradients.measurement import isolated_rng, measure
from vaekit.diagnostics.gradients.replicas import flatten
from vaekit.diagnostics.gradients.target import ExpectationTarget
from vaekit.estimators import Enumerate, Estimator
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
    r"""Measure the gradient of ``expectation(cost, q, estimator).mean()`` by each of several estimators.

    The global random state is left as it was found.

    Parameters
    ----------
    cost, num_samples, context
        As in :func:`vaekit.expectation`.
    q
        Likewise, or a function without arguments that makes the distributions from ``params`` anew.
    estimators
        Estimators by label, each an estimator or a dictionary of them by node; or a sequence, labelled by what it
        holds. They are copied: baselines learn from the costs here, networks and other parameters stay as they are.
    params
        Tensors that require a gradient; the gradients with respect to all of them are one vector ``g``.
    num_estimates
        Estimates made with each estimator.
    reference
        The gradient that ``g`` is compared with. ``"auto"``: the exact one where all nodes can be enumerated within
        ``max_states``, else none. None; the exact gradient, as a tensor or tensors like ``params``; or an unbiased
        estimator (or dictionary of them by node), of which ``reference_draws`` are averaged.
    reference_draws
        By default ten times ``draws``.
    timings
        Times one estimate is timed, in turns with the other estimators.
    max_seconds
        Time for each estimator, with trials and timing, in which as many of the ``draws`` are made as fit; one of which
        not even 8 fit is refused. The reference may take four times as long. What is not interrupted is a single
        estimate, and the check at the start whether estimates can be made together, about six evaluations of the cost.
    max_states
        Budget of the enumeration.
    vectorize
        Whether to make many estimates at once on an axis in front of the batch, which is tried first.
    seed
        Of the random numbers, the same for each estimator.
    progress
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        One row an estimator:

        ``estimator``, ``unbiased``
            Its label, and whether theory says that it is unbiased.
        ``relative_bias``, ``bias_noise``
            :math:`\|\bar g - g^*\| / \|g^*\|`, and what it would be on average if there were no bias.
        ``z``, ``p_value``
            Test of unbiasedness. The first half of the num_estimates chooses a direction, that of their mean's difference from
            the reference; z is the mean of the second half along it, less the reference's, over its standard error.
            Whatever the number of components, z of an unbiased estimator is Student's t (num_estimates / 2 - 1 degrees of
            freedom, Welch's if the reference has an error) as far as a mean of num_estimates is normal: by chance above 4 in 3
            of 100,000 reports of 1,000 draws. One-sided: a bias makes it large and positive.
        ``variance``, ``relative_std``
            Variance of one estimate, summed over components; its root over the norm of the exact gradient (of the mean
            where there is no reference).
        ``cosine``
            Mean cosine of one estimate with the reference.
        ``evaluations``
            Rows of the whole graph, an entry of the batch. Terms that do not depend on a node have none for it.
        ``milliseconds``
            Median time of one estimate, forward and backward.
        ``variance_x_time``, ``mse_x_time``
            ``variance`` times ``milliseconds``; the same with the squared bias, less its noise, added. Without a
            reference the second is only known of unbiased estimators.
        ``draws``, ``refused``
            Estimates made; the error of an estimator that cannot serve the graph, fails, takes too long or returns
            gradients that are not finite. Its row is otherwise empty, and it does not count as unbiased.

        If all are refused there is no best one. ``attrs`` hold ``best_unbiased`` (by ``variance_x_time``), ``best`` (by
        ``mse_x_time``), ``reference`` (in words) and ``norm`` (of the reference).

    Raises
    ------
    EstimatorError
        If there are no estimators or fewer than 8 num_estimates, or ``params`` or ``reference`` cannot be used.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Bernoulli
    >>> from vaekit.estimators import LeaveOneOut, ScoreFunction, StraightThrough
    >>> phi = torch.zeros((), dtype=torch.float64, requires_grad=True)
    >>> several = [ScoreFunction(), ScoreFunction(baseline=LeaveOneOut()), StraightThrough()]
    >>> cost, q = lambda b: (b - 0.499) ** 2, Bernoulli(logits=phi)
    >>> report = gradient_report(cost, q, several, phi, progress=False)
    >>> report.attrs["reference"]
    'exact, by enumeration'
    """
    leaves = _tensors(params)
    if leaves is None or not all(leaf.requires_grad for leaf in leaves):
        raise EstimatorError("params must be a tensor, or a sequence or dictionary of tensors, that require a gradient")
    target = ExpectationTarget(cost, q, leaves, num_samples, context, vectorize)
    words, exact = None, _tensors(reference)
    if exact is not None:
        sizes = [[tensor.numel() for tensor in tensors] for tensors in (exact, leaves)]
        if sizes[0] != sizes[1]:
            raise EstimatorError(f"reference holds tensors of {sizes[0]} numbers, and params of {sizes[1]}")
        reference, words = flatten(exact, leaves)[0].double(), "given"
        if not reference.isfinite().all():
            raise EstimatorError("reference is not finite (NaN or infinite)")
    elif isinstance(reference, str):
        if reference != "auto":
            raise EstimatorError(f"reference is {reference!r}: 'auto', None, a gradient or an estimator")
        reference, words = Enumerate(max_states), "exact, by enumeration"
        try:
            with isolated_rng(seed, leaves):
                target.rows(reference)
        except Exception:  # too many states, or a cost that not all of them can be passed to at once
            reference, words = None, None
    return measure(
        target, named(estimators), num_estimates, reference, words=words,
        reference_draws=10 * num_estimates if reference_draws is None else reference_draws,
        timings=timings, max_seconds=max_seconds, seed=seed, progress=progress,
    )  # fmt: skip


def named(estimators: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """Give each estimator a label of its own."""
    if isinstance(estimators, Mapping):
        return dict(estimators)
    found: dict[str, Any] = {}
    for estimator in [estimators] if isinstance(estimators, Estimator) else estimators:
        name = text = label(estimator)
        number = 2
        while name in found:
            name, number = f"{text} #{number}", number + 1
        found[name] = estimator
    return found


def _tensors(given: Any) -> list[Tensor] | None:
    """Return the tensors in a tensor, sequence or dictionary; None if it is something else."""
    items = [given] if isinstance(given, Tensor) else list(given.values()) if isinstance(given, Mapping) else given
    if isinstance(items, str) or not isinstance(items, Sequence) or not items:
        return None
    return list(items) if all(isinstance(item, Tensor) for item in items) else None
