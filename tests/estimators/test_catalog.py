"""Every class of the public catalog has a row in the table of conformance tests of its kind."""

from __future__ import annotations

from types import ModuleType

import pytest
from distributions.test_conformance import TABLE as DISTRIBUTIONS
from latents.test_latents import LATENTS
from latents.test_priors import LATENTS as WITH_PRIORS
from likelihoods.test_pixels import KINDS as PIXELS
from models.tiny import LIKELIHOODS
from torch import nn

from estimators.conformance import PARTS
from estimators.conformance import TABLE as ESTIMATORS
from vaekit import distributions, estimators, latents, likelihoods
from vaekit._core.components import Component

ABSTRACT = {estimators.Baseline, estimators.Estimator, latents.Latent, latents.Prior, likelihoods.Likelihood}
NOT_TESTED_BY_A_TABLE = {estimators.NodeSample}  # the result of every estimator


def estimators_of_the_table() -> set[type]:
    """Return the estimators of the table, and their baselines, critics and schedules."""
    result = [row.make() for row in ESTIMATORS + PARTS]
    parts = [part for estimator in result for part in (*estimator.children(), *vars(estimator).values())]
    return {type(thing) for thing in result + parts if isinstance(thing, nn.Module | Component)}


def latents_of_the_tables() -> set[type]:
    """Return the latents of both tables and their priors; a MixtureComponent is tested together with its child."""
    parts = (module for make in WITH_PRIORS.values() for module in make(2).modules())
    return {latents.MixtureComponent, *(type(make()) for make in LATENTS.values()), *map(type, parts)}


TABLES = {
    "estimators": (estimators, estimators_of_the_table),
    "latents": (latents, lambda: latents_of_the_tables()),
    "likelihoods": (likelihoods, lambda: {*LIKELIHOODS, *(type(make(pixelwise=False)) for make in PIXELS.values())}),
    "distributions": (distributions, lambda: set(DISTRIBUTIONS)),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_public_class_has_a_row(name: str) -> None:
    package, tested = TABLES[name]
    assert isinstance(package, ModuleType)
    public = {getattr(package, exported) for exported in package.__all__}
    classes = {item for item in public if isinstance(item, type)} - ABSTRACT - NOT_TESTED_BY_A_TABLE
    assert classes
    missing = classes - tested()
    assert not missing, f"without a row in the conformance table of {name}: {sorted(c.__name__ for c in missing)}"
