"""Results that a trained run does not need: an error in one of them is a warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from vaekit.exceptions import VaekitError, reason


@contextmanager
def warn_of_errors(result: str, remedy: str) -> Iterator[None]:
    """Turn an error of the block into a warning, because the run has been trained and saved without its result.

    Parameters
    ----------
    result : str
        Beginning of the warning, which names the missing result.
    remedy : str
        Its last sentence.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as shown, warn_of_errors("No figure was written", "Try again."):
    ...     raise KeyError("umap")
    >>> str(shown[0].message)
    "No figure was written: KeyError: 'umap'. Try again."
    """
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, VaekitError | OSError) else f"{type(error).__name__}: "
        text = " ".join(reason(error).split())  # matplotlib and Weights & Biases write several lines
        # stacklevel 3: after the frame of contextlib. A frame of Lightning would hide the warning on the command line.
        warnings.warn(f"{result}: {kind}{text}. {remedy}", UserWarning, stacklevel=3)
