"""Checkpoints named by where they are published, instead of by a path.

`https://host/file#sha256=...`: an address. The file must have the stated SHA-256, which may be omitted after a first
download, whose hash is then required. Downloads are stored by hash in SDEDIT_CACHE (default: the user's cache folder).

`wandb:entity/project/name:alias`: an artifact of Weights & Biases, kept as `entity/project/name:vN` in the folder
WANDB_ARTIFACT_DIR (default `artifacts`). Offline, or with WANDB_MODE=offline, that folder is the only source, and
`name:alias`, the layout of `wandb artifact get`, is accepted too.

`hf:owner/name[/file][@revision]`: a model on the Hugging Face Hub, see `hub.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

from sdedit_pl.checkpoints.hub import HUB, fetched_repository
from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.downloads import LOOPBACK, DownloadFailed, WrongFile, cache_folder, download_once
from sdedit_pl.files import write_whole

logger = logging.getLogger(__name__)

ARTIFACT_FOLDER_VARIABLE = "WANDB_ARTIFACT_DIR"
_SEPARATOR = "-" if os.name == "nt" else ":"
"""Between name and version in a folder's name; Windows allows no colon, and W&B's client replaces it the same way."""


class Address(NamedTuple):
    """A URL, and the SHA-256 of its file if the address names it."""

    url: str
    sha256: str | None

    @property
    def shown(self) -> str:
        """The address for messages, without user and query, which may hold a password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def file_name(self) -> str:
        """A safe file name with the suffix of the URL's path, which determines the format."""
        name = unquote(urlsplit(self.url).path).rpartition("/")[2]
        return re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "checkpoint"


class Artifact(NamedTuple):
    """The name of an artifact; its version is `v` and a number, or an alias that may move."""

    entity: str
    project: str
    name: str
    version: str

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.project}/{self.name}:{self.version}"

    @property
    def fixed(self) -> bool:
        return re.fullmatch(r"v\d+", self.version) is not None

    @property
    def folder_name(self) -> str:
        return f"{self.name}{_SEPARATOR}{self.version}"


def local_checkpoint(source: str | Path) -> Path:
    """The local file or folder of `source`, a path or one of the names above, downloaded if necessary.

    Raises CheckpointError for a malformed name, a failed download, or an unknown or wrong hash.
    """
    if isinstance(source, str) and source.startswith("wandb:"):
        root = Path(os.environ.get(ARTIFACT_FOLDER_VARIABLE) or "artifacts").absolute()
        return _content(_fetched_artifact(_parsed_artifact(source), root))
    if isinstance(source, str) and source.startswith(HUB):
        return fetched_repository(source)
    if isinstance(source, str) and re.match(r"https?://", source):
        return _fetched_address(_parsed_address(source), cache_folder())
    return Path(source).expanduser()


def _parsed_address(source: str) -> Address:
    url, fragment = urldefrag(source)
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


# A command asks for its checkpoint several times; the file is hashed once.
@cache
def _fetched_address(address: Address, folder: Path) -> Path:
    record = folder / "addresses" / hashlib.sha256(address.url.encode()).hexdigest()
    expected = address.sha256 or (json.loads(record.read_text())["sha256"] if record.is_file() else None)
    if expected is None:
        raise CheckpointError(
            f"{address.shown} has not been fetched before, so its hash is required: add #sha256=<64 hexadecimal digits>"
            ", as its publisher states it, or as `sha256sum` prints it for a copy that you trust"
        )
    file = folder / expected / address.file_name
    try:
        download_once(address.url, file, expected)
    except WrongFile as error:
        raise CheckpointError(
            f"{address.shown} is not the requested file: {error}; it was removed. Check the hash, or ask the "
            "publisher whether the file was replaced"
        ) from error
    except DownloadFailed as error:
        raise CheckpointError(
            f"{address.shown} cannot be fetched ({error}); check the address, or copy the file here by other means "
            "and give its path"
        ) from error
    if address.sha256 is not None:
        write_whole(record, json.dumps({"sha256": expected}))
    return file


def _parsed_artifact(source: str) -> Artifact:
    match = re.fullmatch(r"wandb:([^/:]+)/([^/:]+)/([^/:]+):([^/:]+)", source)
    if match is None or any(part.strip(".") == "" for part in match.groups()):
        raise CheckpointError(
            f"an artifact of Weights & Biases is wandb:entity/project/name:alias, got {source!r}; "
            "its page shows the name under `Full name`"
        )
    return Artifact(*match.groups())


# An alias may move; within one command it denotes one version.
@cache
def _fetched_artifact(artifact: Artifact, root: Path) -> Path:
    own = root / artifact.entity / artifact.project
    if artifact.fixed and (own / artifact.folder_name).is_dir():
        return own / artifact.folder_name
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return _kept_artifact(artifact, root, f"WANDB_MODE={os.environ['WANDB_MODE']}")

    import wandb  # slow to import, and most commands do not need it
    from wandb.errors import Error

    try:
        found = wandb.Api(timeout=30).artifact(artifact.path)
        folder = own / artifact._replace(version=found.version).folder_name
        if not folder.is_dir():
            own.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=own, prefix=".fetching.") as unfinished:
                found.download(root=str(Path(unfinished, "files")))
                os.replace(Path(unfinished, "files"), folder)
        return folder
    except (Error, ValueError) as error:
        return _kept_artifact(artifact, root, str(error).partition("\n")[0].rstrip("."))


def _kept_artifact(artifact: Artifact, root: Path, reason: str) -> Path:
    own = root / artifact.entity / artifact.project
    for folder in (own / artifact.folder_name, root / artifact.folder_name):
        if folder.is_dir():
            logger.info("%s: using the copy in %s (%s)", artifact.path, folder, reason)
            return folder
    there = sorted(f"v{folder.name.rpartition('v')[2]}" for folder in own.glob(f"{artifact.name}{_SEPARATOR}v*"))
    versions = f", which holds its versions {', '.join(there)}" if there else ""
    raise CheckpointError(
        f"wandb:{artifact.path} cannot be fetched ({reason}) and is not in {root}{versions}; log in with "
        f"`wandb login`, check the name, or put its files into {own / artifact.folder_name}"
    )


def _content(folder: Path) -> Path:
    """An artifact's only file, such as Lightning's model.ckpt; the folder if it holds several."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    if not files:
        raise CheckpointError(f"the artifact's folder {folder} is empty; remove it to fetch the artifact again")
    return files[0] if len(files) == 1 else folder
