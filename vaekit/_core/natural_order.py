"""Order of names that contain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable

from natsort import natsorted, ns

ALGORITHM = ns.FLOAT | ns.NOEXP  # doses such as "0.25 nM" before "0.5 nM"


def natural_order(names: Iterable[str]) -> list[str]:
    """Return names sorted by the numbers in them; the result does not depend on their order.

    Examples
    --------
    >>> natural_order(["10", "9", "0"]), natural_order(["0.5", "0.25"]), natural_order(["donor10", "donor9"])
    (['0', '9', '10'], ['0.25', '0.5'], ['donor9', 'donor10'])
    """
    names = sorted(names)
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return natsorted(names, alg=ALGORITHM)
    if not all(map(math.isfinite, numbers)):
        return natsorted(names, alg=ALGORITHM)
    return [name for _, name in sorted(zip(numbers, names, strict=True))]
