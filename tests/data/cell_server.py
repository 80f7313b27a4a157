"""Web server of the tests with range requests, whose next answers can fail."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


class CellServer:
    """Server of a directory.

    Attributes
    ----------
    requests : list of (path, range)
        Requests for content so far.
    num_bytes : int
        Number of bytes that were sent.
    ranges : bool
        Whether range requests are supported.
    failures : list
        Failures of the next requests: a status code, "cut" for an incomplete answer, "closed" for none, or seconds.
    token : str or None
        Value of the parameter ``token`` of the query that every request needs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reset()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.num_bytes, self.ranges, self.token = 0, True, None
        self.failures: list[Any] = []

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                owner.answer(self)

        return Handler

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        parts, limits = urlsplit(request.path), request.headers.get("Range")
        self.requests.append((parts.path, limits))
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, float):
            time.sleep(failure)
        if failure == "closed":
            request.close_connection = True
            return
        file = self.directory / parts.path.lstrip("/")
        status = HTTPStatus.OK if file.is_file() else HTTPStatus.NOT_FOUND
        if self.token is not None and parse_qs(parts.query).get("token") != [self.token]:
            status = HTTPStatus.FORBIDDEN
        if isinstance(failure, int):
            status = HTTPStatus(failure)
        content = file.read_bytes() if status == HTTPStatus.OK else b""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", limits or "") if self.ranges else None
        if status == HTTPStatus.OK and match:
            first, size = int(match[1]), len(content)
            content = content[first : int(match[2]) + 1 if match[2] else None]
            request.send_response(HTTPStatus.PARTIAL_CONTENT)
            request.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{size}")
        else:
            request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        sent = content[: len(content) // 2] if failure == "cut" else content
        self.num_bytes += len(sent)
        with contextlib.suppress(ConnectionError):  # the client may have read enough
            request.wfile.write(sent)
        if failure == "cut":
            request.close_connection = True


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[CellServer]:
    """Serve a directory until the block ends."""
    server = CellServer(directory)
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
