"""Copying what is behind a URL or a command into a file, over connections that break.

`http:` and `https:` go on where a transfer broke off if the server can (a range request, bound to the version of the
file by its entity tag or date), and from the start if it cannot; other schemes (`s3:`, `gs:`...) go through fsspec, and
`pipe:COMMAND` takes what a shell command writes to its standard output.

Two kinds of failure are told apart. What is not there, or may not be read, is so for every device, and a run skips it.
A server that does not answer says nothing about the file: another device may have got it, and skipping it on one of
them alone would tear their orders apart. So after some attempts the run ends, to be started again from its checkpoint.
A command that fails does not say which of the two it met; it is taken for the first. Where a run has several nodes and
the command's server is not to be relied on, a manifest keeps their orders together all the same.
"""

from __future__ import annotations

import errno
import http.client
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import fsspec

ATTEMPTS = 6

# Seconds before the second attempt; each further pause is twice as long.
PAUSE = 1.0

_TIMEOUT = 60.0
_QUESTION_TIMEOUT = 10.0
_CHUNK = 2**20
_ABSENT_STATUS = (400, 401, 403, 404, 405, 410, 451)


class Absent(Exception):
    """There is no such file, or it may not be read; to ask again would change nothing."""


class StreamInterrupted(ValueError):
    """A stream of shards that cannot go on: a server that does not answer, or no room for what it gives."""


class _Broken(Exception):
    """A transfer that ended early."""


def is_remote(place: str) -> bool:
    """Whether a place is a URL or a command, and not a local path."""
    return "://" in place or place.startswith("pipe:")


def fetch(url: str, target: Path) -> str:
    """Copies a file.

    Args:
        url: A URL, or `pipe:` and a shell command.
        target: Where to; replaced if it is there.

    Returns:
        What names the version of the file (an entity tag or a date), or nothing where that is not known.

    Raises:
        Absent: There is no such file, or it may not be read, or the command failed time and again.
        StreamInterrupted: The server did not answer, or broke off, time and again.
        OSError: The target cannot be written.
    """
    target.unlink(missing_ok=True)
    copy, problem = _transfer_of(url), ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return copy(target)
        except _Broken as error:
            problem = str(error)
    if url.startswith("pipe:"):
        raise Absent(f"{problem}, {ATTEMPTS} times")
    raise StreamInterrupted(
        f"cannot fetch {url}: {problem}, {ATTEMPTS} times; when it can be reached again, start the same command again"
    )


def version_of(url: str) -> str:
    """The version that `fetch` would return now, without fetching; nothing where that cannot be told."""
    if url.startswith("pipe:"):
        return ""
    try:
        if url.startswith(("http://", "https://")):
            question = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(question, timeout=_QUESTION_TIMEOUT) as answer:
                return _version(answer)
        filesystem, path = fsspec.core.url_to_fs(url)
        return _version_in(filesystem.info(path))
    except (OSError, http.client.HTTPException):
        return ""


def _transfer_of(url: str) -> Callable[[Path], str]:
    """What copies the file behind a URL once and returns its version."""
    if url.startswith("pipe:"):
        return partial(_copy_output, url.removeprefix("pipe:"))
    if url.startswith(("http://", "https://")):
        return _HttpTransfer(url)
    return partial(_copy_from_filesystem, url)


class _HttpTransfer:
    """A transfer over HTTP whose second call goes on where the first one broke off.

    Args:
        url: Of the file.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.version = ""

    def __call__(self, target: Path) -> str:
        have = target.stat().st_size if target.exists() else 0
        # A range of a weakly tagged version ("W/...") need not fit to the part that is there.
        go_on = have > 0 and self.version and not self.version.startswith("W/")
        headers = {"Range": f"bytes={have}-", "If-Range": self.version} if go_on else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=_TIMEOUT) as answer:
                self.version = _version(answer)
                self._save(answer, target, have if answer.status == 206 else 0)
        except urllib.error.HTTPError as error:
            if error.code in _ABSENT_STATUS:
                raise Absent(f"the server answers {error.code} {error.reason}") from None
            self.version = ""  # 416: the part that is there is of another file
            raise _Broken(f"the server answers {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            raise _Broken(str(error.reason)) from None
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise _Broken(_broke(error)) from None
        return self.version

    def _save(self, answer: http.client.HTTPResponse, target: Path, first: int) -> None:
        """Writes the body from the byte `first` of the target on."""
        with open(target, "r+b" if first else "wb") as file:
            file.seek(first)
            shutil.copyfileobj(_Body(answer), file, _CHUNK)
            end = file.tell()
        announced = answer.headers.get("Content-Length")
        if announced is not None and end - first < int(announced):
            raise _Broken(f"the connection broke after {end - first} of {announced} bytes")


class _Body:
    """The body of an answer, to be copied. What goes wrong in reading it, of whatever kind, is a broken transfer.

    Args:
        answer: The answer.
    """

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.answer = answer

    def read(self, size: int = -1, /) -> bytes:
        """The next `size` bytes, or fewer at the end."""
        try:
            return self.answer.read(size)
        except (http.client.HTTPException, OSError) as error:
            raise _Broken(_broke(error)) from None


def _broke(error: Exception) -> str:
    return f"the connection broke: {error}"


def _version(answer: http.client.HTTPResponse) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _copy_output(command: str, target: Path) -> str:
    with open(target, "wb") as file:
        done = subprocess.run(command, shell=True, stdout=file, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _Broken(f"the command ended with code {done.returncode}" + (f" ({said[-1]})" if said else ""))
    return ""


def _copy_from_filesystem(url: str, target: Path) -> str:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StreamInterrupted(f"cannot read {url}: {error}") from None
    try:
        version = _version_in(filesystem.info(path))
        with filesystem.open(path, "rb") as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise Absent(str(error) or type(error).__name__) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _Broken(str(error)) from None
    return version


def _version_in(facts: Mapping[str, Any]) -> str:
    return str(next((facts[key] for key in ("ETag", "etag", "mtime", "LastModified") if facts.get(key)), ""))
