"""A local server of the Hugging Face Hub's protocol: metadata, trees, files, gates and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast


class HubServer(ThreadingHTTPServer):
    """Repositories of files, all on the branch main.

    Attributes:
        repositories: owner/name -> path -> content.
        gated: repositories whose files need `token`.
        token: the token that may read gated repositories and write to any.
        fetched: the files that were sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.token = "hf_secret"
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def _commit(files: Mapping[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Answer(BaseHTTPRequestHandler):
    @property
    def hub(self) -> HubServer:
        return cast(HubServer, self.server)

    @property
    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        about = re.fullmatch(r"/api/models/(\w+/[\w.-]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/(\w+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        name, revision = (about[1], about[3]) if about else (file[1], file[2]) if file else ("", "")
        files = self.hub.repositories.get(name)
        if files is None:
            return self.refuse(401 if about else 404, "RepoNotFound")
        if revision not in (None, "main", _commit(files)):
            return self.refuse(404, "RevisionNotFound")
        if about and about[2] == "tree":
            return self.answer([{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()])
        if about:
            return self.answer({"id": name, "sha": _commit(files), "siblings": []})
        assert file is not None
        if name in self.hub.gated and not self.known:
            return self.refuse(401, "GatedRepo")
        if file[3] not in files:
            return self.refuse(404, "EntryNotFound")
        if self.command == "GET":
            self.hub.fetched.append(file[3])
        self.send(files[file[3]], {"X-Repo-Commit": _commit(files), "ETag": f'"{_oid(files[file[3]])}"'})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self.read_chunks()
        if not self.known:
            return self.refuse(401, "")
        target = re.fullmatch(r"/api/models/(\w+/[\w.-]+)/(preupload|commit)/main", self.path.partition("?")[0])
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.hub.repositories.setdefault(name, {})
            self.answer({"url": f"{self.hub.url}/{name}", "id": name})
        elif target and target[2] == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif target:
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
            repository = self.hub.repositories[target[1]]
            repository.update({path: base64.b64decode(content) for path, content in files.items()})
            commit = _commit(repository)
            self.answer({"commitUrl": f"{self.hub.url}/{target[1]}/commit/{commit}", "commitOid": commit})
        else:
            self.answer({"errors": [], "warnings": []})

    def read_chunks(self) -> bytes:
        body = b""
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def refuse(self, status: int, code: str) -> None:
        self.send(b"", {"X-Error-Code": code}, status)

    def answer(self, content: Any) -> None:
        self.send(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, body: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
