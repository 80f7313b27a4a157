"""Tables of similar cases, of which ``make test`` runs a share and ``make exhaustive`` all others.

Each case of these modules combines things that other cases combine, too: a function and a form of the cells, a model
and an interruption. The share is chosen by the names of the cases, so that it is the same everywhere and spreads over
both dimensions. Single tests of this kind have the mark ``exhaustive``.
"""

from __future__ import annotations

import zlib

import pytest

ONE_OF = {  # number of cases by module, of which the main run takes one
    "analysis/test_graph_shapes": 3,
    "analysis/test_invariance": 8,
    "cli/test_analysis_commands": 2,
    "cli/test_cells": 2,
    "cli/test_class_flags": 2,
    "cli/test_faults": 2,
    "cli/test_hostile": 2,
    "cli/test_input_formats": 2,
    "cli/test_values": 2,
    "cli/test_writing": 2,
    "data/test_containment": 2,
    "data/test_matrices": 2,
    "data/test_old_files": 2,
    "data/test_storage": 2,
    "data/test_urls": 2,
    "diagnostics/test_gradients": 2,
    "diagnostics/test_importance": 3,
    "distributions/test_families": 3,
    "estimators/test_continuous": 3,
    "estimators/test_contract": 3,
    "estimators/test_unbiased": 3,
    "estimators/test_zero_probabilities": 3,
    "graph/test_importance_weighted": 3,
    "latents/test_prior_gradients": 3,
    "latents/test_priors": 3,
    "models/test_checkpoint": 3,
    "models/test_gradients": 3,
    "models/test_graph_gradients": 3,
    "models/test_resume": 4,
    "models/test_resume_together": 4,
    "models/test_sequential_gradients": 3,
    "models/test_shapes": 6,
    "test_configs": 2,
    "test_portability": 3,
}


TRAINS = {"models/test_shapes"}  # modules whose proofs are long trainings, not statistical tests


def mark_exhaustive(items: list[pytest.Item]) -> None:
    """Mark the cases that the main run omits; of the proofs, those of long trainings only."""
    for item in items:
        module = item.nodeid.partition(".py::")[0].removeprefix("tests/")
        if item.get_closest_marker("proof") and module not in TRAINS:
            continue
        if hasattr(item, "callspec") and zlib.crc32(item.nodeid.encode()) % ONE_OF.get(module, 1):
            item.add_marker(pytest.mark.exhaustive)
