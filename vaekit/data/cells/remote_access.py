"""Requests to servers of cells: file systems of fsspec, repeated requests, and errors with their remedy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any, TypeVar

from vaekit._core.urls import RemoteURL, hide_credentials
from vaekit.exceptions import DataError, MissingPackageError, VaekitError

T = TypeVar("T")

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}  # by scheme
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0  # without an answer
ATTEMPTS, FIRST_PAUSE = 4, 0.5  # of a request, and seconds before the second one; later pauses double
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # status codes of HTTP
_CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in the environment; for a server other "
    "than that of AWS also AWS_ENDPOINT_URL.",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS in the environment, or run: gcloud auth application-default login",
    "http": "Add the server to the file ~/.netrc. A URL with its own token must be passed as a whole: checkpoints and "
    "configurations store it without user name and query.",
}
_CREDENTIALS["https"] = _CREDENTIALS["http"]


def open_filesystem(url: RemoteURL, asynchronous: bool = False) -> Any:
    """Return the file system of fsspec for a URL, with credentials from the environment only.

    Parameters
    ----------
    url : RemoteURL
        URL of a file or a store.
    asynchronous : bool
        Whether it is used in the event loop of zarr.

    Raises
    ------
    DataError
        If the scheme is unknown, or the credentials in the environment cannot be read.
    MissingPackageError
        If the package for this scheme is not installed.
    """
    package = PACKAGES.get(url.scheme)
    if package is None:
        schemes = ", ".join(f"{scheme}://" for scheme in PACKAGES)
        raise DataError(
            f"{str(url)!r} has an unknown scheme. URLs of cells begin with {schemes}. Else pass a file path."
        )
    if find_spec(package) is None:
        raise MissingPackageError(f'{url} requires the package {package}. Install it: pip install "vaekit[cloud]"')
    import fsspec

    try:
        options = _options(url)
    except Exception as error:  # botocore raises many types, for example for a profile that does not exist
        raise DataError(f"{url} cannot be read: {_text(error)}. {_CREDENTIALS[url.scheme]}") from None
    common = {"asynchronous": asynchronous, "skip_instance_cache": True, "use_listings_cache": False}
    return fsspec.filesystem(url.scheme, **common, **options)


def _options(url: RemoteURL) -> dict[str, Any]:
    """Return timeouts and the way to sign requests, as arguments of the file system."""
    if url.scheme == "s3":
        from botocore.session import Session

        timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        # s3fs repeats requests itself. Public buckets are read without credentials.
        return {
            "anon": Session().get_credentials() is None,
            "config_kwargs": {**timeouts, "retries": {"total_max_attempts": 1}},
        }
    if url.scheme == "gs":
        return {"requests_timeout": READ_SECONDS}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    # An encoded URL is sent unchanged, as its signature requires. trust_env reads ~/.netrc and proxies.
    return {"encoded": "%" in url.address, "client_kwargs": {"timeout": timeout, "trust_env": True}}


class MissingFileError(DataError):
    """URL of a file that does not exist."""


async def request(url: RemoteURL, operation: Callable[[], Awaitable[T]]) -> T:
    """Return the result of an operation on a server, repeated after passing failures.

    Parameters
    ----------
    url : RemoteURL
        URL for messages. Its scheme determines the attempts: s3fs and gcsfs repeat requests themselves.
    operation : callable
        Function without arguments that returns an awaitable.

    Raises
    ------
    DataError
        If the file does not exist, access is denied, or the server fails or does not answer.
    """
    attempts = ATTEMPTS if PACKAGES[url.scheme] == "aiohttp" else 1
    for attempt in range(1, attempts + 1):
        try:
            return await operation()
        except VaekitError:
            raise
        except Exception as error:  # aiohttp, botocore and gcsfs raise many types
            if attempt == attempts or not _is_transient(error):
                raise _translate(url, error, attempt) from None  # the error may contain the token of the URL
        await asyncio.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
    raise AssertionError


def _status(error: BaseException) -> int | None:
    """Return the status code of HTTP of an error, if there is one."""
    for name in ("status", "code"):  # of aiohttp and gcsfs
        if str(value := getattr(error, name, "")).isdigit():
            return int(value)
    response = getattr(error.__cause__, "response", None)  # of botocore
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return metadata.get("HTTPStatusCode")


def _is_transient(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status in TRANSIENT
    import aiohttp

    return isinstance(
        error, TimeoutError | ConnectionError | aiohttp.ClientConnectionError | aiohttp.ClientPayloadError
    )


def _translate(url: RemoteURL, error: Exception, attempts: int) -> DataError:
    """Return the error for people: the reason, and what to do."""
    status, kind = _status(error), type(error).__name__
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return MissingFileError(f"{url} does not exist. Check the URL.")
    if isinstance(error, PermissionError) or status in (401, 403) or "Credential" in kind or "Token" in kind:
        return DataError(f"{url} cannot be read: access denied. {_CREDENTIALS[url.scheme]}")
    tried = f" after {attempts} attempts" if attempts > 1 else ""
    if isinstance(error, TimeoutError) or "Timeout" in kind:
        return DataError(f"{url} cannot be read: the server did not answer{tried}. Try again later.")
    if status is not None:
        return DataError(f"{url} cannot be read: the server answered with status {status}{tried}. Try again later.")
    return DataError(
        f"{url} cannot be read{tried}: {_text(error)}. Check the URL, the network connection and proxy settings."
    )


def _text(error: BaseException) -> str:
    return hide_credentials(" ".join(f"{type(error).__name__}: {error}".split())).rstrip(". ")
