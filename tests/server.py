"""A local server of files that misbehaves as it is told."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

BODY = bytes(range(256)) * 4000  # 1 MB


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` under every path, as badly as `cut`, `length`, `ranges` and `status` say."""

    body = BODY
    cut: list[int] = []  # noqa: RUF012 - bytes after which the next connections end
    length: int | None = None  # what Content-Length claims; -1: there is none
    ranges = True
    status: list[int] = []  # noqa: RUF012 - answers before the file is given


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        if server.status:
            self.send_error(server.status.pop(0))
            return
        start = 0
        if server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        part = server.body[start:]
        if start and not part:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if server.length != -1:
            self.send_header("Content-Length", str(server.length or len(part)))
        self.end_headers()
        self.wfile.write(part[: server.cut.pop(0)] if server.cut else part)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def running() -> Iterator[Server]:
    """A server until the end of the block."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.requests, server.cut, server.status = [], [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
