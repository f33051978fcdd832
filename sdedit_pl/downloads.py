"""The one download function for every file that comes over a network.

Schemes are those of fsspec (`https:`, `s3:`, `gs:` ...), and `pipe:COMMAND` for the standard output of a shell command.
A command that fails counts as an absent file. A file appears under its name only when it is complete and, if its
SHA-256 is known, has that hash. Broken transfers are retried with growing pauses.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from sdedit_pl.files import NO_ROOM, sha256_of

ATTEMPTS = 6

# Seconds before the second attempt; each further pause is twice as long.
PAUSE = 1.0

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that are reached without a proxy."""

_CONNECT_TIMEOUT = 30.0
_READ_TIMEOUT = 60.0
_LONGEST_TRANSFER = 24 * 3600.0
_SLOWEST_TRANSFER = 1000.0
"""Bytes per second, on average over each `_READ_TIMEOUT`."""
_ABSENT_STATUS = (400, 401, 403, 405, 410, 451)


class DownloadFailed(ValueError):
    """A file that was not downloaded. Messages omit the URL, whose query may hold a password."""


class FileAbsent(DownloadFailed):
    """There is no such file, or it may not be read; a retry would not help."""


class DownloadInterrupted(DownloadFailed):
    """The server does not answer, the connection broke on every attempt, or no library handles the URL's scheme."""


class WrongFile(DownloadFailed):
    """The file does not have the expected hash."""


def is_remote(place: str) -> bool:
    return "://" in place or place.startswith("pipe:")


def download(url: str, target: Path, sha256: str = "", attempts: int = ATTEMPTS, progress: bool = False) -> str:
    """Downloads a file and returns its SHA-256 in hexadecimal; replaces `target` when the file is complete.

    Args:
        target: Path in an existing folder. No other process may write to it at the same time.
        sha256: Expected SHA-256 in hexadecimal, or its first digits; empty to accept any.
        progress: Whether to show a progress bar on a terminal.

    Raises:
        DownloadFailed: One of its three subclasses; no partial file remains.
        OSError: The target cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        _transfer_repeatedly(url, part, attempts, target.name if progress else "")
        found = sha256_of(part)
        if not found.startswith(sha256):
            raise WrongFile(f"its sha256 is {found}, expected {sha256}")
        part.replace(target)
        return found
    finally:
        part.unlink(missing_ok=True)


def download_once(url: str, target: Path, sha256: str) -> None:
    """As `download`, unless the file is there with its hash; concurrent processes wait for the first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_file() or not sha256_of(target).startswith(sha256):
            download(url, target, sha256, attempts=3, progress=True)


def version_of(url: str) -> str:
    """The entity tag or modification time of the server's file; empty if unknown."""
    if url.startswith("pipe:"):
        return ""
    with suppress(*_transfer_errors(), ImportError, ValueError):
        filesystem, path = _filesystem(url)
        facts: Mapping[str, Any] = filesystem.info(path)
        return str(next((facts[key] for key in ("ETag", "etag", "mtime", "LastModified") if facts.get(key)), ""))
    return ""


def _transfer_repeatedly(url: str, part: Path, attempts: int, shown: str) -> None:
    problem = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        problem = _transfer(url, part, shown)
        if not problem:
            return
    if url.startswith("pipe:"):
        raise FileAbsent(f"{problem}, {attempts} times")
    raise DownloadInterrupted(f"{problem}, {attempts} times")


def _transfer(url: str, part: Path, shown: str) -> str:
    """Copies the file once; returns why the transfer broke, or an empty string."""
    from aiohttp import InvalidURL  # importing it takes longer than most commands should

    if url.startswith("pipe:"):
        return _copy_output(url.removeprefix("pipe:"), part)
    try:
        filesystem, path = _filesystem(url)
    except (ImportError, ValueError) as error:
        raise DownloadInterrupted(str(error)) from None
    try:
        filesystem.get_file(path, str(part), callback=_progress(shown))
    except (FileNotFoundError, IsADirectoryError):
        raise FileAbsent("there is no such file") from None
    except PermissionError as error:
        raise FileAbsent(f"access to it is refused ({error})") from None
    except InvalidURL:
        raise FileAbsent("its URL is not valid") from None
    except _transfer_errors() as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            error.filename = str(part)
            raise
        reason = str(getattr(error, "message", error))  # all of a ClientResponseError would show the URL
        return " ".join(reason.split()) or type(error).__name__
    return ""


def _progress(shown: str) -> Any:
    """A progress bar titled `shown`, hidden if that is empty; raises OSError when the transfer is too slow."""
    from fsspec.callbacks import TqdmCallback

    class Progress(TqdmCallback):
        begin, received = time.monotonic(), 0

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            self.received += inc
            seconds = time.monotonic() - self.begin
            if seconds >= _READ_TIMEOUT:
                if self.received < _SLOWEST_TRANSFER * seconds:
                    raise OSError(f"it sent {self.received} bytes in {seconds:.0f} s")
                self.begin, self.received = time.monotonic(), 0

    bar = {"unit": "B", "unit_scale": True, "desc": shown, "disable": None if shown else True}
    return Progress(tqdm_kwargs=bar)


async def _require_whole_file(response: Any) -> None:
    """Raises FileAbsent or OSError unless aiohttp's answer is a whole file."""
    answer = f"the server answers {response.status} {response.reason}"
    if response.status in _ABSENT_STATUS:
        raise FileAbsent(answer)
    if response.status not in (200, 404):  # fsspec handles 404
        raise OSError(answer)


def _copy_output(command: str, part: Path) -> str:
    with open(part, "wb") as file:
        done = subprocess.run(command, shell=True, stdout=file, stderr=subprocess.PIPE, check=False)
    if not done.returncode:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"the command ended with code {done.returncode}" + (f" ({said[-1]})" if said else "")


def _filesystem(url: str) -> tuple[Any, str]:
    import aiohttp
    import fsspec

    if not url.startswith(("http://", "https://")):
        return fsspec.core.url_to_fs(url)
    timeout = aiohttp.ClientTimeout(total=_LONGEST_TRANSFER, sock_connect=_CONNECT_TIMEOUT, sock_read=_READ_TIMEOUT)
    proxies = urlsplit(url).hostname not in LOOPBACK
    filesystem = fsspec.filesystem(
        urlsplit(url).scheme,
        client_kwargs={"timeout": timeout, "trust_env": proxies, "raise_for_status": _require_whole_file},
        headers={"User-Agent": "sdedit_pl", "Accept-Encoding": "identity"},
        encoded=True,  # signed URLs are sent as given
    )
    return filesystem, url


def _transfer_errors() -> tuple[type[Exception], ...]:
    import aiohttp

    return (OSError, aiohttp.ClientError, asyncio.TimeoutError)


def cache_folder() -> Path:
    """The folder of downloads: $SDEDIT_CACHE, or sdedit_pl in the user's cache folder."""
    if given := os.environ.get("SDEDIT_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdedit_pl"
