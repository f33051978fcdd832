"""Checkpoints behind addresses, from a server on this machine that can break off, lie and forget."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from sdedit_pl.checkpoints import CheckpointError, describe, downloads, load_denoiser
from sdedit_pl.checkpoints.downloads import downloaded
from sdedit_pl.cli import main

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    breaks_off_after: int | None = None
    knows_ranges: bool = True
    asked: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    behaviour: ClassVar[Behaviour]

    def do_GET(self) -> None:
        behaviour = self.behaviour
        wanted = self.headers.get("Range")
        behaviour.asked.append(wanted)
        if not self.path.startswith("/models/"):
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and behaviour.knows_ranges else 0
        if start >= len(behaviour.content):
            self.send_error(416)
            return
        rest = behaviour.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(behaviour.content) - 1}/{len(behaviour.content)}")
        self.end_headers()
        self.wfile.write(rest[: behaviour.breaks_off_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def behaviour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Behaviour:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "cache"))
    downloads._verified.cache_clear()
    return Behaviour()


@pytest.fixture
def server(behaviour: Behaviour) -> Iterator[str]:
    """The address of a server that behaves."""
    handler = type("Handler", (Handler,), {"behaviour": behaviour})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def forget() -> None:
    """Makes the next call behave as a new process's first."""
    downloads._verified.cache_clear()


def kept(folder: Path) -> list[str]:
    """The names of the files in the cache that are or become checkpoints."""
    return sorted(file.name for file in folder.rglob("model.*"))


def test_a_file_is_fetched_once_and_its_hash_remembered(server: str, behaviour: Behaviour) -> None:
    file = downloaded(f"{server}/models/model.pth?key=secret#sha256={SHA256.upper()}")
    assert file.read_bytes() == CONTENT and file.name == "model.pth"
    forget()
    assert downloaded(f"{server}/models/model.pth?key=secret") == file
    assert behaviour.asked == [None], "the second time nothing was asked"


def test_an_address_never_seen_needs_a_hash(server: str, behaviour: Behaviour) -> None:
    with pytest.raises(CheckpointError, match=r"models/model.pth was never fetched before.*add #sha256=") as raised:
        downloaded(f"{server}/models/model.pth?key=secret")
    assert behaviour.asked == [] and "secret" not in str(raised.value)


def test_another_file_than_asked_for_is_removed(server: str, behaviour: Behaviour, tmp_path: Path) -> None:
    wrong = "0" * 64
    with pytest.raises(CheckpointError, match=rf"its sha256 is {SHA256}, expected {wrong}; it was removed"):
        downloaded(f"{server}/models/model.pth#sha256={wrong}")
    assert kept(tmp_path) == []
    with pytest.raises(CheckpointError, match="was never fetched before"):
        downloaded(f"{server}/models/model.pth")


def test_a_download_goes_on_where_it_broke_off(server: str, behaviour: Behaviour, tmp_path: Path) -> None:
    address = f"{server}/models/model.pth#sha256={SHA256}"
    behaviour.breaks_off_after = 300_000
    with pytest.raises(CheckpointError, match=r"broke off after 300000 of 1048576 bytes.*goes on from there"):
        downloaded(address)
    assert kept(tmp_path) == ["model.pth.part"]
    behaviour.breaks_off_after = None
    assert downloaded(address).read_bytes() == CONTENT
    assert behaviour.asked == [None, "bytes=300000-"]
    assert kept(tmp_path) == ["model.pth"]


@pytest.mark.parametrize("knows_ranges", [True, False])
@pytest.mark.parametrize("part", [CONTENT, CONTENT[:1000]], ids=["whole", "begun"])
def test_what_is_left_of_an_earlier_attempt(
    server: str, behaviour: Behaviour, tmp_path: Path, part: bytes, knows_ranges: bool
) -> None:
    """A part that is whole already, and a server that sends the file from its start whatever was asked."""
    behaviour.knows_ranges = knows_ranges
    folder = tmp_path / "cache" / SHA256
    folder.mkdir(parents=True)
    (folder / "model.pth.part").write_bytes(part)
    assert downloaded(f"{server}/models/model.pth#sha256={SHA256}").read_bytes() == CONTENT


def test_a_part_of_another_file_is_refused_and_the_next_attempt_starts_anew(
    server: str, behaviour: Behaviour, tmp_path: Path
) -> None:
    address = f"{server}/models/model.pth#sha256={SHA256}"
    folder = tmp_path / "cache" / SHA256
    folder.mkdir(parents=True)
    (folder / "model.pth.part").write_bytes(b"another" * 10)
    with pytest.raises(CheckpointError, match="is another file than asked for"):
        downloaded(address)
    assert downloaded(address).read_bytes() == CONTENT


def test_a_file_damaged_in_the_cache_is_fetched_again(server: str, behaviour: Behaviour) -> None:
    address = f"{server}/models/model.pth#sha256={SHA256}"
    file = downloaded(address)
    file.write_bytes(CONTENT[:-1])
    forget()
    assert downloaded(address).read_bytes() == CONTENT and len(behaviour.asked) == 2


def test_several_at_once_fetch_once(server: str, behaviour: Behaviour) -> None:
    address = f"{server}/models/model.pth#sha256={SHA256}"
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(downloaded, [address] * 4))) == 1
    assert behaviour.asked == [None]


def test_what_the_server_has_not(server: str, behaviour: Behaviour) -> None:
    with pytest.raises(CheckpointError, match=r"/absent.pth answered 404 Not Found; check the address"):
        downloaded(f"{server}/absent.pth#sha256={SHA256}")


def test_without_a_network(behaviour: Behaviour, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(CheckpointError, match=r"cannot be reached \(.*without a network, bring the file here by other"):
        downloaded(f"http://127.0.0.1:{port}/models/model.pth#sha256={SHA256}")
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://example.org/model.pth", "fetched over https, got http://example.org/model.pth"),
        ("https:///model.pth", "fetched over https"),
        ("https://example.org/model.pth#sha256=12", "must be #sha256=<64 hexadecimal digits>, got #sha256=12"),
        ("https://example.org/model.pth#md5=12", "got #md5=12"),
    ],
)
def test_addresses_that_are_none(address: str, message: str, behaviour: Behaviour) -> None:
    with pytest.raises(CheckpointError, match=message):
        downloaded(address)


def test_names_cannot_leave_the_cache(server: str, behaviour: Behaviour, tmp_path: Path) -> None:
    file = downloaded(f"{server}/models/%2e%2e%2f%2e%2e%2fmodel.pth#sha256={SHA256}")
    assert file.parent.parent == tmp_path / "cache"


def test_every_verb_takes_an_address(
    server: str, behaviour: Behaviour, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    behaviour.content = tiny_checkpoint.read_bytes()
    address = f"{server}/models/model.safetensors#sha256={hashlib.sha256(behaviour.content).hexdigest()}"
    assert describe(address).parameters == describe(tiny_checkpoint).parameters
    assert load_denoiser(address).sde == load_denoiser(tiny_checkpoint).sde
    assert main(["info", f"ckpt={address}"]) == 0 and "ncsnpp" in capsys.readouterr().out
    assert main(["info", f"ckpt={server}/models/other.safetensors"]) == 2
    assert "was never fetched before" in capsys.readouterr().err
    assert behaviour.asked == [None]
