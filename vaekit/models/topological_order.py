"""Order of the latents by their parents, and the ancestors of each posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vaekit.exceptions import ConfigError, did_you_mean
from vaekit.latents import Latent


def topological_order(latents: Mapping[str, Latent]) -> tuple[str, ...]:
    """Return the names of latents, parents before their children, otherwise as declared.

    Raises
    ------
    ConfigError
        If a parent does not exist, is not discrete, or depends on its child.
    """
    for name, latent in latents.items():
        for parent in latent.parents:
            if parent not in latents:
                raise ConfigError(f"latent {name!r}: parent {parent!r} not found. {did_you_mean(parent, latents)}")
            if not latents[parent].discrete:
                raise ConfigError(
                    f"latent {name!r}: parent {parent!r} is a {type(latents[parent]).__name__}. A parent must be "
                    "discrete: Categorical or Bernoulli."
                )
    order: list[str] = []
    while len(order) < len(latents):
        remaining = [name for name in latents if name not in order]
        ready = next((name for name in remaining if set(latents[name].parents) <= set(order)), None)
        if ready is None:
            raise ConfigError(f"latents {', '.join(map(repr, remaining))} form a cycle: each depends on another one")
        order.append(ready)
    return tuple(order)


def posterior_ancestors(order: Sequence[str], latents: Mapping[str, Latent]) -> dict[str, frozenset[str]]:
    """Return, for each latent, itself and all latents that its posterior depends on, directly or indirectly."""
    ancestors: dict[str, frozenset[str]] = {}
    for name in order:
        ancestors[name] = frozenset({name}).union(*(ancestors[parent] for parent in latents[name].posterior_parents))
    return ancestors
