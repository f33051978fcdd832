"""Checkpoints behind an address: fetched once, known by their hash, resumed where a download broke off.

A file from the network is used only if its SHA-256 is the one asked for: given in the address, `#sha256=<64 digits>`,
or remembered from when the same address was fetched before. Files lie in the cache under their hash, so that whatever
is there is whole and right, and several processes that want one file fetch it once.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from filelock import FileLock
from tqdm import tqdm

from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.files import sha256_of, write_whole

CACHE_VARIABLE = "SDEDIT_CACHE"
"""Environment variable that names the cache folder."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Where http is as good as https."""
TIMEOUT = 30.0
"""Seconds without an answer, or without further bytes, before a download is given up."""
_CHUNK = 1 << 20


class Address(NamedTuple):
    """An address split into where the file is and what it should be.

    Args:
        url: where it is.
        sha256: its hash in hexadecimal, None where the address does not say.
    """

    url: str
    sha256: str | None

    @property
    def shown(self) -> str:
        """The address without its query, which may hold a password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def file_name(self) -> str:
        """The name that the address gives the file, made safe; its suffix tells formats apart."""
        name = unquote(urlsplit(self.url).path).rpartition("/")[2]
        return re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "checkpoint"


def downloaded(address: str) -> Path:
    """The file behind an `https://` address, from the cache if it is there.

    Args:
        address: `https://host/file.pth#sha256=<64 hexadecimal digits>`; the hash may be left out once the file has been
            fetched. `http://` is taken for this machine alone.

    Raises:
        CheckpointError: no hash is known, the address is none, it cannot be reached, the download broke off (what came
            is kept, the next attempt goes on from there), or the file is another one than its hash says.
    """
    return _verified(_parsed(address), cache_folder())


def cache_folder() -> Path:
    """The folder that downloads are kept in: SDEDIT_CACHE, or sdedit_pl in the user's cache folder."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdedit_pl"


def _parsed(address: str) -> Address:
    url, fragment = urldefrag(address)
    parts = urlsplit(url)
    if not parts.hostname or (parts.scheme != "https" and parts.hostname not in LOOPBACK):
        raise CheckpointError(
            f"a checkpoint is fetched over https, got {Address(url, None).shown}; "
            "give https://host/file, or fetch the file yourself and give its path"
        )
    if not fragment:
        return Address(url, None)
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if match is None:
        raise CheckpointError(f"the address's end must be #sha256=<64 hexadecimal digits>, got #{fragment}")
    return Address(url, match[1].lower())


# The verbs ask for a checkpoint several times; its bytes are hashed once.
@cache
def _verified(address: Address, folder: Path) -> Path:
    record = folder / "addresses" / hashlib.sha256(address.url.encode()).hexdigest()
    expected = address.sha256 or _remembered(record)
    if expected is None:
        raise CheckpointError(
            f"{address.shown} was never fetched before, so that its hash must be given: add #sha256=<64 hexadecimal "
            "digits>, as its publisher states it or `sha256sum` of a copy that you trust"
        )
    file = folder / expected / address.file_name
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.parent / ".lock"):
        if not file.is_file() or sha256_of(file) != expected:
            part = file.with_name(f"{file.name}.part")
            _fetch(address, part)
            _check(address, part, expected)
            os.replace(part, file)
        if address.sha256 is not None:
            _remember(record, expected)
    return file


def _remembered(record: Path) -> str | None:
    try:
        return json.loads(record.read_text())["sha256"]
    except FileNotFoundError:
        return None


def _remember(record: Path, digest: str) -> None:
    """Keeps the hash of an address; whoever calls it holds the lock of the file, so that no other one of it writes."""
    write_whole(record, json.dumps({"sha256": digest}))


def _fetch(address: Address, part: Path) -> None:
    """Fetches what is missing of a file into `part`."""
    there = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "sdedit_pl", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    proxies = ProxyHandler({}) if urlsplit(address.url).hostname in LOOPBACK else ProxyHandler()
    try:
        response = build_opener(proxies).open(Request(address.url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if there and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing, or the part is of another file, as its hash will show
        raise CheckpointError(
            f"{address.shown} answered {error.code} {error.reason}; check the address, or fetch the file yourself and "
            "give its path"
        ) from error
    except (URLError, OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise CheckpointError(
            f"{address.shown} cannot be reached ({reason}); without a network, bring the file here by other means and "
            "give its path"
        ) from error
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {there}-"):
            raise CheckpointError(f"{address.shown} sent another part than asked for; remove {part} and try again")
        _receive(address, response, part, there if resumed else 0)


def _receive(address: Address, response: http.client.HTTPResponse, part: Path, there: int) -> None:
    """Writes an answer to `part`, behind the bytes that are there.

    Raises:
        CheckpointError: if fewer or more bytes come than announced.
    """
    length = response.headers.get("Content-Length", "")
    total = there + int(length) if length.isdecimal() else None
    reason = ""
    with (
        part.open("ab" if there else "wb") as opened,
        tqdm(total=total, initial=there, unit="B", unit_scale=True, desc=address.file_name, disable=None) as progress,
    ):
        try:
            while chunk := response.read(_CHUNK):
                opened.write(chunk)
                progress.update(len(chunk))
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reason = f" ({error})"
    came = part.stat().st_size
    if reason or (total is not None and came != total):
        of_total = "" if total is None else f" of {total}"
        raise CheckpointError(
            f"the download of {address.shown} broke off after {came}{of_total} bytes{reason}; the same command goes "
            "on from there"
        )


def _check(address: Address, part: Path, expected: str) -> None:
    found = sha256_of(part)
    if found != expected:
        part.unlink()
        raise CheckpointError(
            f"{address.shown} is another file than asked for: its sha256 is {found}, expected {expected}; it was "
            "removed. Check the hash, or ask the publisher whether the file was replaced"
        )
