"""Seeds on the command line."""

from __future__ import annotations

import argparse

MAX_SEED = 2**32 - 1  # NumPy's and Lightning's limit


def seed(text: str) -> int:
    """Return a seed.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is not a number from 0 to 2^32 - 1.

    Examples
    --------
    >>> seed("7")
    7
    """
    if not text.strip().isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {MAX_SEED}")
    return int(text)
