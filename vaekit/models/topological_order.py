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
        If a parent does not exist or depends on its child, or nothing depends on a latent that is not decoded.
    """
    for name, latent in latents.items():
        for parent in latent.parents:
            if parent not in latents:
                raise ConfigError(f"latent {name!r}: parent {parent!r} not found. {did_you_mean(parent, latents)}")
    order: list[str] = []
    while len(order) < len(latents):
        remaining = [name for name in latents if name not in order]
        ready = next((name for name in remaining if set(latents[name].parents) <= set(order)), None)
        if ready is None:
            raise ConfigError(
                f"latents {', '.join(map(repr, remaining))} form a cycle: each depends on another one. Remove one of "
                "their parents."
            )
        order.append(ready)
    return tuple(order)


def posterior_ancestors(order: Sequence[str], latents: Mapping[str, Latent]) -> dict[str, frozenset[str]]:
    """Return, for each latent, itself and all latents that its posterior depends on, directly or indirectly."""
    ancestors: dict[str, frozenset[str]] = {}
    for name in order:
        ancestors[name] = frozenset({name}).union(*(ancestors[parent] for parent in latents[name].posterior_parents))
    return ancestors


def seen_by_decoder(latents: Mapping[str, Latent]) -> tuple[str, ...]:
    """Return the names of the latents that p(x given z) depends on, as declared.

    These are the latents with ``decoded=True``, the library size, and those with ``decoded=None`` that are not a parent
    of a latent whose posterior does not depend on its parents. A library size does not represent its parents.

    Raises
    ------
    ConfigError
        If neither the decoder nor a child depends on a latent.
    """
    children = [latent for latent in latents.values() if not latent.is_nuisance]
    parents = {parent for latent in children for parent in latent.parents}
    prior_parents = {parent for latent in children if not latent.conditional_posterior for parent in latent.parents}
    for name, latent in latents.items():
        if latent.decoded is False and name not in parents:
            raise ConfigError(
                f"latent {name!r}: decoded=False, but no other latent depends on it, so that it would not describe the "
                f"data. Set parents=[{name!r}] of another latent, or decoded=True."
            )
    return tuple(
        name
        for name, latent in latents.items()
        if latent.is_nuisance or (name not in prior_parents if latent.decoded is None else latent.decoded)
    )
