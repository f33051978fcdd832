"""Transfers that break, files that are absent or wrong, and several processes that want the same file."""

from __future__ import annotations

import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from support.shard_server import ShardServer

from sdedit_pl.downloads import (
    ATTEMPTS,
    DownloadInterrupted,
    FileAbsent,
    WrongFile,
    download,
    download_once,
    is_remote,
    version_of,
)

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()

pytestmark = pytest.mark.usefixtures("without_pauses")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "copy"


@pytest.fixture
def server(shard_server: ShardServer) -> ShardServer:
    (shard_server.folder / "a.tar").write_bytes(CONTENT)
    return shard_server


def test_places() -> None:
    assert all(map(is_remote, ["https://h/a.tar", "s3://b/a.tar", "pipe:cat a.tar", "file:///a.tar"]))
    assert not any(map(is_remote, ["a.tar", "/a/b.tar", "C:/a.tar"]))


def test_a_file_replaces_an_earlier_one(server: ShardServer, target: Path) -> None:
    target.write_text("an earlier, longer file" * 1000)
    assert download(f"{server.url}/a.tar", target, SHA256[:9]) == SHA256
    assert target.read_bytes() == CONTENT and list(target.parent.glob("copy*")) == [target]


def test_a_version_changes_with_the_file(server: ShardServer) -> None:
    before = version_of(f"{server.url}/a.tar")
    (server.folder / "a.tar").write_bytes(CONTENT[::-1])
    assert version_of(f"{server.url}/a.tar") != before != ""
    assert version_of(f"{server.url}/b.tar") == version_of("pipe:true") == version_of("nosuch://a") == ""


def test_a_broken_transfer_is_repeated_or_has_the_wrong_hash(server: ShardServer, target: Path) -> None:
    server.breaks = 2
    download(f"{server.url}/a.tar", target)
    assert target.read_bytes() == CONTENT
    server.breaks, server.lengths = 1, False  # without its length, a cut file looks complete
    with pytest.raises(WrongFile):
        download(f"{server.url}/a.tar", target, SHA256)


def test_pauses_double(server: ShardServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("sdedit_pl.downloads.PAUSE", 1.0)
    monkeypatch.setattr("sdedit_pl.downloads.time.sleep", pauses.append)
    server.status = 503
    with pytest.raises(DownloadInterrupted, match=f"the server answers 503 .*, {ATTEMPTS} times"):
        download(f"{server.url}/a.tar", target)
    assert pauses == [1, 2, 4, 8, 16] and not target.exists()


def test_an_absent_file_is_asked_for_once(server: ShardServer, target: Path) -> None:
    with pytest.raises(FileAbsent, match="there is no such file"):
        download(f"{server.url}/b.tar", target)
    server.status = 403
    with pytest.raises(FileAbsent, match="the server answers 403 Forbidden"):
        download(f"{server.url}/a.tar", target)
    assert len(server.fetched()) == 2


@pytest.mark.parametrize(
    "head",
    [
        b"206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5",
        b"204 No Content",
        b"200 OK\r\nContent-Length: five",
        b"200 OK\r\nContent-Length: -5",
        b"200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
    ],
)
def test_an_answer_that_is_no_whole_file_interrupts(server: ShardServer, target: Path, head: bytes) -> None:
    server.raw = b"HTTP/1.1 " + head + b"\r\n\r\n12345"
    with pytest.raises(DownloadInterrupted, match=r"\A[^\n]*, 2 times") as caught:
        download(f"{server.url}/a.tar?password=x", target, attempts=2)
    assert "password" not in str(caught.value) and not target.exists()


def test_a_slow_transfer_breaks(server: ShardServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdedit_pl.downloads._READ_TIMEOUT", 0.2)
    server.pause = 0.01
    with pytest.raises(DownloadInterrupted, match=r"it sent \d+ bytes in 0 s, 1 times"):
        download(f"{server.url}/a.tar", target, attempts=1)


def test_a_wrong_file_is_removed(server: ShardServer, target: Path) -> None:
    target.write_text("before")
    with pytest.raises(WrongFile, match=f"its sha256 is {SHA256}, expected {'0' * 64}"):
        download(f"{server.url}/a.tar", target, "0" * 64)
    assert target.read_text() == "before" and list(target.parent.glob("copy*")) == [target]


def test_a_server_that_is_down_interrupts(server: ShardServer, target: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadInterrupted, match=f"Cannot connect .*, {ATTEMPTS} times"):
        download(f"{server.url}/a.tar", target)


def test_commands(tmp_path: Path, target: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    download(f"pipe:cat {tmp_path}/a.tar", target)
    assert target.read_bytes() == CONTENT
    with pytest.raises(FileAbsent, match=rf"the command ended with code 3 \(alas\), {ATTEMPTS} times"):
        download("pipe:echo alas >&2; exit 3", target)
    count = tmp_path / "count"
    download(f"pipe:echo >> {count}; test $(wc -l < {count}) = 3 && cat {tmp_path}/a.tar", target)
    assert target.read_bytes() == CONTENT


def test_other_schemes(target: Path) -> None:
    with fsspec.open("memory://bucket/a.tar", "wb") as file:
        file.write(CONTENT)
    assert download("memory://bucket/a.tar", target) == SHA256 and target.read_bytes() == CONTENT
    with pytest.raises(FileAbsent):
        download("memory://bucket/b.tar", target)
    with pytest.raises(DownloadInterrupted, match="Protocol not known: nosuch"):
        download("nosuch://bucket/a.tar", target)


def test_a_full_disk_is_not_a_broken_transfer(
    server: ShardServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fsspec.implementations.http.open", no_room, raising=False)
    with pytest.raises(OSError, match="No space left"):
        download(f"{server.url}/a.tar", target)


def test_several_at_once_download_once(server: ShardServer, target: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: download_once(f"{server.url}/a.tar", target, SHA256), range(4)))
    assert target.read_bytes() == CONTENT and len(server.fetched()) == 1
    target.write_bytes(CONTENT[:-1])
    download_once(f"{server.url}/a.tar", target, SHA256)
    assert target.read_bytes() == CONTENT and len(server.fetched()) == 2
