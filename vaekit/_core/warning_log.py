"""Log of the warnings of a run, which are shown as before."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def record_warnings() -> Iterator[list[str]]:
    """Yield a list that receives the text of each warning that is shown within the block, once each.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True), record_warnings() as messages:
    ...     warnings.simplefilter("always")
    ...     warnings.warn("3 cells are empty")
    >>> messages
    ['3 cells are empty']
    """
    messages: list[str] = []
    show = warnings.showwarning

    def show_and_record(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if str(message) not in messages:
            messages.append(str(message))
        show(message, *args, **kwargs)

    warnings.showwarning = show_and_record
    try:
        yield messages
    finally:
        warnings.showwarning = show
