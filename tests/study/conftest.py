"""A small study: folders of images, the file made of them, and a server of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from sdedit_pl.study.server import StudyServer

ITEMS = ("alder", "birch", "cedar", "dogwood")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: outputs of three methods for four guides, and real images; of noise, 16 px."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0)
    for folder, ending in (("ours", "_seed0.png"), ("theirs", ".webp"), ("others", ".png"), ("guides", ".png")):
        Path(folder).mkdir()
        for item in ITEMS:
            draw(pixels, 16).save(f"{folder}/{item}{ending}")
    Path("real").mkdir()
    for number in range(2):
        draw(pixels, 20).save(f"real/{number}.png")
    return tmp_path


def draw(pixels: np.random.Generator, size: int) -> Image.Image:
    """An image of noise."""
    return Image.fromarray(pixels.integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def build(folders: Path) -> Callable[..., Path]:
    """Makes the file of a study of the three methods, with changes to its plan."""
    # Imported here, because the hook that checks annotations is not installed yet when this file is read.
    from sdedit_pl.study.build import build_study
    from sdedit_pl.study.plan import Plan

    def make(out: str = "study.sqlite", **changes: Any) -> Path:
        methods = {name: name for name in ("ours", "theirs", "others")}
        build_study(Plan(**{"methods": methods, "guides": "guides", "comparisons": 12, **changes}), Path(out))
        return folders / out

    return make


@dataclass
class Reply:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks a server."""

    port: int

    def get(self, path: str) -> Reply:
        return self.send("GET", path)

    def post(self, path: str, body: Any) -> Reply:
        return self.send("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def join(self, rater: str) -> list[dict[str, Any]]:
        """The trials of a rater."""
        return self.post("/api/join", {"rater": rater}).json["trials"]

    def answer(self, rater: str, trial: str, choice: str, milliseconds: int | None = 900) -> Reply:
        return self.post(
            "/api/answers", {"rater": rater, "trial": trial, "choice": choice, "milliseconds": milliseconds}
        )


@pytest.fixture
def served(build: Callable[..., Path]) -> Iterator[StudyServer]:
    """A server of a study, at work."""
    from sdedit_pl.study.server import StudyServer
    from sdedit_pl.study.store import Study

    with Study(build()) as study, StudyServer(study, "127.0.0.1", 0) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def client(served: StudyServer) -> Client:
    """Asks the server."""
    return Client(served.port)
