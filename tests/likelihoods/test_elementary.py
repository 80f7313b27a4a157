"""Our float32 exponential and logarithm against NumPy's in float64."""

import numpy as np

from vaekit.likelihoods.counts.elementary import exponential, log_one_plus, logarithm


def test_exponential():
    x = np.linspace(-87, 88, 100_001).astype(np.float32)
    found = np.array([exponential(v) for v in x])
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=2e-7)
    assert exponential(np.float32(-1e30)) == exponential(np.float32(-87))
    assert exponential(np.float32(1e30)) == exponential(np.float32(88))
    assert exponential(np.float32(0)) == 1
    assert np.isnan(exponential(np.float32("nan")))


def test_logarithm():
    x = np.geomspace(1.2e-38, 3e38, 100_001).astype(np.float32)
    x = np.concatenate([x, np.linspace(0.5, 2, 20_001).astype(np.float32)])
    np.testing.assert_allclose([logarithm(v) for v in x], np.log(x.astype(np.float64)), rtol=2e-7, atol=1e-9)


def test_log_one_plus():
    x = np.concatenate([[0], np.geomspace(1.2e-38, 1e30, 100_001)]).astype(np.float32)
    np.testing.assert_allclose([log_one_plus(v) for v in x], np.log1p(x.astype(np.float64)), rtol=3e-7, atol=0)
    assert np.isnan(log_one_plus(np.float32("nan")))
