"""Known categories of a latent: posteriors of labeled and unlabeled observations in training, and the label loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaekit.distributions import OneHotCategorical
from vaekit.estimators.discrete_support import get_logits
from vaekit.exceptions import ConfigError


class ObservedLabels:
    r"""Known categories of a categorical latent y, and their use in training.

    In training, r(y) replaces the posterior q(y given x) in the ELBO, and the posterior learns from the labels:

    .. math:: -E_{r(y)}[\ldots] - \alpha\, [\text{labeled}] \log q(y_\text{label} | x), \quad
              r(y) = \begin{cases} 1[y = y_\text{label}] & \text{labeled} \\ \mathrm{stopgrad}\ q(y | x) & \text{else}
              \end{cases}

    The ELBO of unlabeled observations does not train q(y given x): otherwise the prior forms clusters of its own, which
    differ from the labels. Categories without a name are the exception, because no label trains them: their
    probabilities, and that of all named categories together, have the gradient of the ELBO.

    Parameters
    ----------
    key : str
        Column of the data with the labels.
    extra : int
        Number of categories without a name, after the named ones.
    weight : float
        :math:`\alpha`, weight of the label loss.

    Attributes
    ----------
    names : tuple[str, ...]
        Names of all categories, "unnamed 1", "unnamed 2", ... for those without one; empty before :meth:`set_names`.
    num_named : int
        Number of categories that labels name.

    Raises
    ------
    ConfigError
        If ``key`` is empty, or a number is negative.

    Examples
    --------
    >>> labels = ObservedLabels("cell_type", extra=1, weight=1.0)
    >>> labels.set_names(["B", "T"])
    >>> labels.names
    ('B', 'T', 'unnamed 1')
    >>> q = Independent(OneHotCategorical(logits=torch.zeros(2, 1, 3)), 1)
    >>> labels.clamp(q, torch.tensor([1, -1])).mean[:, 0]
    tensor([[0.0000, 1.0000, 0.0000],
            [0.3333, 0.3333, 0.3333]])
    >>> labels.loss(q, torch.tensor([1, -1]))
    tensor([1.0986, 0.0000])
    """

    def __init__(self, key: str, extra: int, weight: float) -> None:
        if not key:
            raise ConfigError(f"Categorical: observed_key={key!r} must be the name of a column.")
        if extra < 0:
            raise ConfigError(f"Categorical: extra={extra} must not be negative. It is a number of categories.")
        if not weight >= 0:
            raise ConfigError(f"Categorical: label_weight={weight} must not be negative.")
        self.key, self.extra, self.weight = key, extra, weight
        self.names: tuple[str, ...] = ()
        self.num_named = 0

    def set_names(self, names: Sequence[str], num_categories: int | None = None) -> None:
        """Set the names of the categories, which come from the data.

        Parameters
        ----------
        names : Sequence[str]
            Names in the order of ``Batch.observed_label``.
        num_categories : int or None
            Number of named categories that the user expects. None: any number.

        Raises
        ------
        ConfigError
            If there are fewer than two named categories, or their number differs from ``num_categories``.
        """
        if num_categories not in (None, len(names)):
            raise ConfigError(
                f"Categorical: categories={num_categories}, but observed_key={self.key!r} has {len(names)}: "
                f"{_listed(names)}. Omit categories, and add categories without a label by extra=..."
            )
        if len(names) < 2:
            raise ConfigError(
                f"Categorical: observed_key={self.key!r} has the single category {_listed(names)}. Label some "
                "observations of other categories, too: a single label would describe all observations."
            )
        self.num_named = len(names)
        self.names = (*names, *_free_names(self.extra, names))

    def clamp(self, q: Distribution, label: Tensor) -> Distribution:
        """Return r(y) for q(y given x) of batch shape ``[*sample, batch]`` and labels ``[batch]``, -1 if unknown."""
        logits = get_logits(q)
        stopped = self._stop_gradient(logits) if self.extra else logits.detach()
        impossible = F.one_hot(label.clamp_min(0), logits.shape[-1]) == 0
        known = torch.zeros_like(logits).masked_fill(impossible[:, None], -torch.inf)
        return Independent(OneHotCategorical(logits=torch.where((label >= 0)[:, None, None], known, stopped)), 1)

    def _stop_gradient(self, logits: Tensor) -> Tensor:
        """Return log-probabilities without the gradient of the choice between the named categories."""
        named, unnamed = logits.tensor_split([self.num_named], -1)
        any_named = named.logsumexp(-1, keepdim=True)
        return torch.cat([(named - any_named).detach() + any_named, unnamed], -1)

    def loss(self, q: Distribution, label: Tensor) -> Tensor:
        """Return the weighted -log q(label given x) of each observation, ``[batch]``; 0 if its label is unknown."""
        log_q = get_logits(q)[:, 0].log_softmax(-1)
        return -self.weight * log_q.gather(-1, label.clamp_min(0)[:, None])[:, 0] * (label >= 0)


def _listed(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(map(repr, names[:limit])) + (", ..." if len(names) > limit else "")


def _free_names(count: int, taken: Sequence[str]) -> list[str]:
    """Return ``count`` names for categories without one."""
    candidates = (f"unnamed {number}" for number in range(1, count + len(taken) + 1))
    return [name for name in candidates if name not in taken][:count]
