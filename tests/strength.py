"""The two strengths of a statistical test: a light one in every run, and the full one as a proof (``make proofs``).

A test takes the argument ``fraction``, multiplies its number of samples with it, and divides tolerances that are
standard errors by its square root.
"""

import pytest

strengths = pytest.mark.parametrize(
    "fraction",
    [pytest.param(0.1, id="light"), pytest.param(1.0, id="full", marks=pytest.mark.proof)],
)
