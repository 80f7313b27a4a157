"""Orders in which the latents are generated and inferred, and the ancestors of each posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vaekit.exceptions import ConfigError, did_you_mean
from vaekit.latents import Latent


def generative_order(latents: Mapping[str, Latent]) -> tuple[str, ...]:
    """Return the names of latents, parents before their children, otherwise as declared.

    Raises
    ------
    ConfigError
        If a parent does not exist or depends on its child.
    """
    return _topological_order({name: latent.parents for name, latent in latents.items()}, "parent")


def inference_order(order: Sequence[str], latents: Mapping[str, Latent]) -> tuple[str, ...]:
    """Return the names of latents, each after those that its posterior depends on, otherwise in the given order.

    Raises
    ------
    ConfigError
        If a posterior depends on a latent that does not exist, or indirectly on its own latent.
    """
    return _topological_order({name: latents[name].posterior_parents for name in order}, "conditional_posterior")


def _topological_order(earlier: Mapping[str, Sequence[str]], argument: str) -> tuple[str, ...]:
    """Return the names, each after its earlier ones; ``argument`` describes these in an error."""
    for name, others in earlier.items():
        for other in others:
            if other not in earlier:
                raise ConfigError(f"latent {name!r}: {argument} {other!r} not found. {did_you_mean(other, earlier)}")
    order: list[str] = []
    while len(order) < len(earlier):
        remaining = [name for name in earlier if name not in order]
        ready = next((name for name in remaining if set(earlier[name]) <= set(order)), None)
        if ready is None:
            what = "their parents" if argument == "parent" else f"the names in their {argument}"
            raise ConfigError(
                f"latents {', '.join(map(repr, remaining))} form a cycle: each depends on another one. Remove one of "
                f"{what}."
            )
        order.append(ready)
    return tuple(order)


def posterior_ancestors(order: Sequence[str], latents: Mapping[str, Latent]) -> dict[str, frozenset[str]]:
    """Return, for each latent, itself and all latents that its posterior depends on, directly or indirectly.

    ``order`` is that of :func:`inference_order`.
    """
    ancestors: dict[str, frozenset[str]] = {}
    for name in order:
        ancestors[name] = frozenset({name}).union(*(ancestors[other] for other in latents[name].posterior_parents))
    return ancestors


def seen_by_decoder(latents: Mapping[str, Latent]) -> tuple[str, ...]:
    """Return the names of the latents that p(x given z) depends on, as declared.

    These are the latents with ``decoded=True``, the library size, and those with ``decoded=None`` that are not a parent
    of a latent whose posterior does not depend on this parent. A library size does not represent its parents.

    Raises
    ------
    ConfigError
        If neither the decoder nor a child depends on a latent.
    """
    children = [latent for latent in latents.values() if not latent.is_nuisance]
    parents = {parent for latent in children for parent in latent.parents}
    prior_parents = {p for latent in children for p in latent.parents if p not in latent.posterior_parents}
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
