"""Which latents come before which, and which posteriors depend on which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vaekit.exceptions import ConfigError, did_you_mean
from vaekit.latents import Latent


def topological_order(latents: Mapping[str, Latent]) -> tuple[str, ...]:
    """Return the names of latents, parents before their children, else as declared.

    Raises
    ------
    ConfigError
        If a parent is unknown, not discrete, or depends on its own child.
    """
    for name, latent in latents.items():
        for parent in latent.parents:
            if parent not in latents:
                raise ConfigError(
                    f"latent {name!r} has the parent {parent!r}, which is no latent. {did_you_mean(parent, latents)}"
                )
            if not latents[parent].discrete:
                raise ConfigError(
                    f"latent {name!r}: its parent {parent!r} is a {type(latents[parent]).__name__}; a parent must be "
                    "discrete (Categorical, Bernoulli)"
                )
    order: list[str] = []
    while len(order) < len(latents):
        left = [name for name in latents if name not in order]
        ready = next((name for name in left if set(latents[name].parents) <= set(order)), None)
        if ready is None:
            raise ConfigError(f"the latents {', '.join(map(repr, left))} depend on one another in a circle")
        order.append(ready)
    return tuple(order)


def posterior_ancestors(order: Sequence[str], latents: Mapping[str, Latent]) -> dict[str, frozenset[str]]:
    """Return the latents that each posterior depends on, directly or by way of others, with the latent itself."""
    found: dict[str, frozenset[str]] = {}
    for name in order:
        found[name] = frozenset({name}).union(*(found[parent] for parent in latents[name].posterior_parents))
    return found
