"""A local HTTP server of files that can misbehave."""

from __future__ import annotations

import hashlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast


class ShardServer(ThreadingHTTPServer):
    """Serves a folder; can break off, hide lengths or answer every request with an error.

    Attributes:
        requests: Method and path of all requests so far.
        lengths: Whether answers carry a Content-Length.
        breaks: Number of further GET requests whose connection closes in the middle of the file.
        status: Status code of all answers, unless None.
        raw: The bytes of all answers, unless empty.
        pause: Seconds between one byte of a body and the next.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.lengths = True
        self.breaks = 0
        self.status: int | None = None
        self.raw = b""
        self.pause = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self) -> list[str]:
        """Paths of all GET requests."""
        return [path for method, path in self.requests if method == "GET"]


class _Answer(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        server = cast(ShardServer, self.server)
        path = self.path.partition("?")[0]
        server.requests.append((self.command, path))
        file = server.folder / path.lstrip("/")
        if server.raw:
            self.wfile.write(server.raw)
            self.close_connection = True
            return
        if server.status is not None or not file.is_file():
            self.send_error(server.status or 404)
            return
        body = file.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()[:8]}"')
        if server.lengths:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            breaks, server.breaks = server.breaks > 0, max(server.breaks - 1, 0)
            parts = [body[: len(body) // 2] if breaks else body]
            for part in [bytes([byte]) for byte in body] if server.pause else parts:
                self.wfile.write(part)
                time.sleep(server.pause)

    def log_message(self, format: str, *arguments: object) -> None:
        pass
