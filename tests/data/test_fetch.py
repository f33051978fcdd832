"""Transfers that break, and what is not there."""

from __future__ import annotations

import errno
import hashlib
import http.client
import ssl
from pathlib import Path

import fsspec
import pytest
from support.shard_server import ShardServer

from sdedit_pl.data.fetch import ATTEMPTS, Absent, StreamInterrupted, fetch, is_remote, version_of
from sdedit_pl.files import sha256_of

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "copy"


@pytest.fixture
def server(shard_server: ShardServer, without_pauses: None) -> ShardServer:
    (shard_server.folder / "a.tar").write_bytes(CONTENT)
    return shard_server


def test_places() -> None:
    assert all(map(is_remote, ["https://h/a.tar", "s3://b/a.tar", "pipe:cat a.tar", "file:///a.tar"]))
    assert not any(map(is_remote, ["a.tar", "/a/b.tar", "C:/a.tar"]))


def test_a_file_is_copied_with_its_version(server: ShardServer, target: Path) -> None:
    target.write_text("an earlier, longer file" * 1000)
    version = fetch(f"{server.url}/a.tar", target)
    assert target.read_bytes() == CONTENT
    assert version == version_of(f"{server.url}/a.tar") != ""


@pytest.mark.parametrize(("ranges", "asked"), [(True, ["bytes=5120-", "bytes=7680-"]), (False, ["bytes=5120-"] * 2)])
def test_a_broken_transfer_goes_on_or_begins_again(
    server: ShardServer, target: Path, ranges: bool, asked: list[str]
) -> None:
    server.breaks, server.ranges = 2, ranges
    fetch(f"{server.url}/a.tar", target)
    assert target.read_bytes() == CONTENT
    assert [header for _, _, header in server.requests] == [None, *asked]


@pytest.mark.parametrize("error", [ssl.SSLError("bad record"), OSError(errno.ENETUNREACH, "Network is unreachable")])
def test_an_error_of_the_network_is_a_broken_transfer_of_whatever_kind(
    error: OSError, server: ShardServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, errors = http.client.HTTPResponse.read, [error]

    def breaking(answer: http.client.HTTPResponse, *arguments: int) -> bytes:
        if errors:
            raise errors.pop()
        return read(answer, *arguments)

    monkeypatch.setattr("http.client.HTTPResponse.read", breaking)
    fetch(f"{server.url}/a.tar", target)
    assert target.read_bytes() == CONTENT and len(server.requests) == 2


def test_a_file_that_changes_during_a_broken_transfer_is_copied_anew(
    server: ShardServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.breaks = 1
    monkeypatch.setattr(
        "sdedit_pl.data.fetch.time.sleep", lambda seconds: (server.folder / "a.tar").write_bytes(CONTENT[::-1])
    )
    fetch(f"{server.url}/a.tar", target)
    assert target.read_bytes() == CONTENT[::-1]


def test_pauses_double(server: ShardServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("sdedit_pl.data.fetch.PAUSE", 1.0)
    monkeypatch.setattr("sdedit_pl.data.fetch.time.sleep", pauses.append)
    server.status = 503
    with pytest.raises(StreamInterrupted, match=f"the server answers 503 .*, {ATTEMPTS} times; when it can be reached"):
        fetch(f"{server.url}/a.tar", target)
    assert pauses == [1, 2, 4, 8, 16]


def test_what_is_not_there_is_not_asked_for_again(server: ShardServer, target: Path) -> None:
    with pytest.raises(Absent, match="the server answers 404 Not Found"):
        fetch(f"{server.url}/b.tar", target)
    assert len(server.requests) == 1
    assert version_of(f"{server.url}/b.tar") == ""


def test_a_server_that_is_down_interrupts(server: ShardServer, target: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(StreamInterrupted, match=r"cannot fetch http://127.*/a\.tar: .*refused.*start the same command"):
        fetch(f"{server.url}/a.tar", target)


def test_commands(tmp_path: Path, target: Path, without_pauses: None) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    assert fetch(f"pipe:cat {tmp_path}/a.tar", target) == "" and target.read_bytes() == CONTENT
    with pytest.raises(Absent, match=rf"the command ended with code 3 \(alas\), {ATTEMPTS} times"):
        fetch("pipe:echo alas >&2; exit 3", target)
    count = tmp_path / "count"
    fetch(f"pipe:echo >> {count}; test $(wc -l < {count}) = 3 && cat {tmp_path}/a.tar", target)
    assert target.read_bytes() == CONTENT


def test_other_schemes_go_through_fsspec(target: Path) -> None:
    with fsspec.open("memory://bucket/a.tar", "wb") as file:
        file.write(CONTENT)
    fetch("memory://bucket/a.tar", target)
    assert target.read_bytes() == CONTENT and sha256_of(target) == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(Absent):
        fetch("memory://bucket/b.tar", target)
    with pytest.raises(StreamInterrupted, match=r"cannot read nosuch://bucket/a\.tar: Protocol not known: nosuch"):
        fetch("nosuch://bucket/a.tar", target)


def test_a_full_disk_is_not_a_broken_transfer(
    server: ShardServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sdedit_pl.data.fetch.shutil.copyfileobj", write)
    with fsspec.open("memory://bucket/full.tar", "wb") as file:
        file.write(CONTENT)
    for url in (f"{server.url}/a.tar", "memory://bucket/full.tar"):
        with pytest.raises(OSError, match="No space left"):
            fetch(url, target)
    assert len(server.requests) == 1
