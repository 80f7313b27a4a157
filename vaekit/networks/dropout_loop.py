"""Random numbers that are worked out side by side, compiled."""

from __future__ import annotations

import numpy as np

from vaekit._core.numba_cache import cached_njit

u64, f32 = np.uint64, np.float32
# SplitMix64: its k-th number is a function of seed and k alone (Steele, Lea and Flood 2014, Fast Splittable
# Pseudorandom Number Generators).
STEP, FIRST, SECOND = u64(0x9E3779B97F4A7C15), u64(0xBF58476D1CE4E5B9), u64(0x94D049BB133111EB)


@cached_njit()
def fill(seed, threshold, scale, out):
    """Write 0 with probability ``threshold / 2^32``, else ``scale``; float32 ``[count]``, the numbers are uint64."""
    for k in range(len(out)):
        z = seed + u64(k + 1) * STEP
        z = (z ^ (z >> u64(30))) * FIRST
        z = (z ^ (z >> u64(27))) * SECOND
        z ^= z >> u64(31)
        out[k] = f32(0) if (z >> u64(32)) < threshold else scale
