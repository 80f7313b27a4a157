"""Product of named categorical variables in one latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.discrete import OneHotLatent


class Product(OneHotLatent):
    """Categorical variables with their own names and numbers of categories, as one node of the graph.

    The variables are independent given the data and the parents. One estimator serves all of them: an exact sum lists
    their joint states. Several :class:`~vaekit.latents.Categorical` latents would be several nodes instead, each with
    its own sample dimension. The decoder sees one value per category. An embedding also has a column per variable,
    ``obs["vaekit_<latent>_<variable>"]``.

    A value is an array of one-hot vectors, ``[..., variables, max_categories]``, in which the categories that a
    variable does not have are impossible.

    Parameters
    ----------
    variables : dict[str, int]
        Number of categories of each variable by name.
    learned_prior : bool
        Whether the prior probabilities are learned or uniform. With parents they are always learned.
    estimator : Estimator or "auto"
        Gradient estimator; ``"auto"`` is an exact sum up to 64 states (including the impossible ones), otherwise the
        score function with leave-one-out baseline.
    parents, conditional_posterior, decoded
        As in :class:`Latent`. The posterior depends on the parents by default.

    Raises
    ------
    ConfigError
        If there is no variable, a variable has fewer than 2 categories, or an argument is not valid for
        :class:`Latent`.

    Examples
    --------
    >>> import torch
    >>> latent = Product({"lineage": 4, "phase": 3})
    >>> _ = latent.build(8, None)
    >>> q = latent.posterior(torch.zeros(5, 8))
    >>> latent.size, latent.summary(q).shape, latent.unit_name(5)
    (7, torch.Size([5, 7]), 'phase:1')
    """

    conditional_posterior: bool | tuple[str, ...] = True
    possible: Tensor

    def __init__(
        self,
        variables: dict[str, int],
        learned_prior: bool = False,
        estimator: Estimator | Literal["auto"] = "auto",
        parents: Sequence[str] = (),
        conditional_posterior: bool | Sequence[str] | None = None,
        decoded: bool | None = None,
    ) -> None:
        _check_variables(variables)
        super().__init__(sum(variables.values()), estimator, parents, conditional_posterior, decoded)
        self.variable_names, self.learned_prior = tuple(variables), learned_prior
        self.state_shape = (len(variables), max(variables.values()))
        is_possible = torch.arange(self.state_shape[1]) < torch.tensor(list(variables.values()))[:, None]
        self.register_buffer("possible", is_possible.flatten().nonzero()[:, 0], persistent=False)

    @property
    @override
    def logits_shape(self) -> tuple[int, ...]:
        return (self.size,)

    @override
    def spread_states(self, values: Tensor, missing: float) -> Tensor:
        full = values.new_full((*values.shape[:-1], self.event_size), missing)
        return full.index_copy(-1, self.possible.to(values.device), values).unflatten(-1, self.state_shape)

    @property
    @override
    def event_size(self) -> int:
        return self.state_shape[0] * self.state_shape[1]

    @override
    def flatten(self, value: Tensor) -> Tensor:
        return value.flatten(-2)[..., self.possible]

    @override
    def unit_activity(self, moments: Tensor) -> Tensor:
        return self.activity(moments).flatten()[self.possible.to(moments.device)]

    @override
    def unit_name(self, index: int) -> str:
        return self.state_name(*divmod(int(self.possible[index]), self.state_shape[1]))

    @override
    def state_name(self, variable: int, state: int) -> str:
        return f"{self.variable_names[variable]}:{state}"


def _check_variables(variables: Mapping[str, int]) -> None:
    if not variables:
        raise ConfigError("Product: variables={} is empty. Name them, such as {'lineage': 4, 'phase': 3}.")
    for name, count in variables.items():
        if count < 2:
            raise ConfigError(f"Product: variables={dict(variables)}: {name!r} must have at least 2 categories.")
