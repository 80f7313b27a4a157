"""URLs of cells, whose credentials are shown and stored nowhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#'\"@]*@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^?#\n'\"]*)[?#][^\s'\"]+")


class RemoteURL(str):
    """URL that reads as text without user name, password, query and fragment, which often contain a token.

    Messages, checkpoints and results receive the text. Only requests use ``address``. Copies, pickled objects and
    ``str(url)`` do not contain the credentials.

    Parameters
    ----------
    url : str
        Whole URL.

    Attributes
    ----------
    address : str
        Whole URL.

    Examples
    --------
    >>> url = RemoteURL("https://ada:secret@example.org/cells.h5ad?token=secret")
    >>> print(url)
    https://example.org/cells.h5ad
    """

    address: str

    def __new__(cls, url: str) -> RemoteURL:
        """Create the text without credentials, and keep the whole URL next to it."""
        result = super().__new__(cls, hide_credentials(url))
        result.address = getattr(url, "address", str(url))
        return result

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)

    @property
    def scheme(self) -> str:
        """Part before ``://``, in lower case."""
        return self.partition("://")[0].lower()

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.rstrip("/").rpartition("/")[2]


def is_url(path: Any) -> bool:
    """Return whether a path is the text of a URL.

    Examples
    --------
    >>> is_url("s3://bucket/cells.h5ad"), is_url("data/cells.h5ad")
    (True, False)
    """
    return isinstance(path, str) and "://" in path


def as_path(path: Any) -> Any:
    """Return a :class:`RemoteURL` for the text of a URL, and any other path unchanged."""
    return RemoteURL(path) if is_url(path) and not isinstance(path, RemoteURL) else path


def path_text(path: Any) -> str:
    """Return a path as text; that of a URL keeps its address."""
    path = as_path(path)
    return path if isinstance(path, str) else str(path)


def hide_credentials(value: Any) -> Any:
    """Return plain data whose URLs have neither user name, password, query nor fragment.

    Parameters
    ----------
    value : object
        Text, or mappings and lists of it; other values stay.

    Examples
    --------
    >>> hide_credentials({"path": ["https://ada:secret@example.org/cells.h5ad?token=secret", "cells.h5ad"]})
    {'path': ['https://example.org/cells.h5ad', 'cells.h5ad']}
    >>> hide_credentials("--data.path=https://example.org/my cells.h5ad?token=secret --data.layer=counts")
    '--data.path=https://example.org/my cells.h5ad --data.layer=counts'
    """
    if isinstance(value, Mapping):
        return {name: hide_credentials(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(hide_credentials(item) for item in value)
    if not isinstance(value, str) or "://" not in value:
        return value
    return _QUERY.sub(r"\1", _USER.sub(r"\1", value))
