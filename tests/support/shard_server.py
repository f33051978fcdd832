"""A local HTTP server of shards with the habits of bad ones."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast


class ShardServer(ThreadingHTTPServer):
    """Serves a folder; can be slow to admit ranges, break off, fall silent or forget files.

    Attributes:
        requests: Method, path and Range header of everything asked so far.
        ranges: Whether it knows ranges.
        lengths: Whether it says how long a file is.
        breaks: For how many more answers it closes the connection in the middle.
        status: What it answers to everything, unless None.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder = folder
        self.requests: list[tuple[str, str, str | None]] = []
        self.ranges = self.lengths = True
        self.breaks = 0
        self.status: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self) -> list[str]:
        """Paths of the files that were asked for, one for each time."""
        return [path for method, path, _ in self.requests if method == "GET"]


class _Answer(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        server = cast(ShardServer, self.server)
        asked = self.headers.get("Range")
        server.requests.append((self.command, self.path, asked))
        file = server.folder / self.path.lstrip("/")
        if server.status is not None or not file.is_file():
            self.send_error(server.status or 404)
            return
        body = file.read_bytes()
        tag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        first = 0
        if server.ranges and asked and self.headers.get("If-Range") in (None, tag):
            first = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if first else 200)
        self.send_header("ETag", tag)
        if server.lengths:
            self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        if with_body:
            end = len(body)
            if server.breaks:
                server.breaks -= 1
                end = (first + len(body)) // 2
            self.wfile.write(body[first:end])

    def log_message(self, format: str, *arguments: object) -> None:
        pass
