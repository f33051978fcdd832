"""Checkpoints that are named by where they are published: Weights & Biases artifacts and addresses.

`wandb:entity/project/name:alias` and `https://host/file#sha256=...` stand wherever the path of a checkpoint does.

An artifact is kept where W&B's own client keeps them, in the folder WANDB_ARTIFACT_DIR (`artifacts` without it), under
`entity/project/name:vN`. Without a network or with WANDB_MODE=offline that folder is all there is; `name:alias`, as
`wandb artifact get` leaves it, is taken then too.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sdedit_pl.checkpoints.downloads import downloaded
from sdedit_pl.checkpoints.safe_reading import CheckpointError

logger = logging.getLogger(__name__)

ARTIFACT_FOLDER_VARIABLE = "WANDB_ARTIFACT_DIR"
_SEPARATOR = "-" if os.name == "nt" else ":"
"""Between name and version in a folder's name; Windows allows no colon, and W&B's client evades it the same way."""


class Artifact(NamedTuple):
    """The name of an artifact; its version is `v` and a number, or an alias that may move."""

    entity: str
    project: str
    name: str
    version: str

    @property
    def path(self) -> str:
        """The name as W&B writes it."""
        return f"{self.entity}/{self.project}/{self.name}:{self.version}"

    @property
    def fixed(self) -> bool:
        """Whether the version never changes."""
        return re.fullmatch(r"v\d+", self.version) is not None

    @property
    def folder_name(self) -> str:
        """The name of its folder, as W&B's client has it."""
        return f"{self.name}{_SEPARATOR}{self.version}"


def local_checkpoint(source: str | Path) -> Path:
    """The file or folder on this machine that `source` stands for: fetched if it is published, else as it is.

    Raises:
        CheckpointError: if it cannot be fetched; see `downloaded` for addresses.
    """
    if isinstance(source, str) and source.startswith("wandb:"):
        root = Path(os.environ.get(ARTIFACT_FOLDER_VARIABLE) or "artifacts").absolute()
        return _content(_fetched(_parsed(source), root))
    if isinstance(source, str) and re.match(r"https?://", source):
        return downloaded(source)
    return Path(source)


def _parsed(source: str) -> Artifact:
    match = re.fullmatch(r"wandb:([^/:]+)/([^/:]+)/([^/:]+):([^/:]+)", source)
    if match is None or any(part.strip(".") == "" for part in match.groups()):
        raise CheckpointError(
            f"an artifact of Weights & Biases is wandb:entity/project/name:alias, got {source!r}; "
            "its page shows the name under `Full name`"
        )
    return Artifact(*match.groups())


# An alias may move on; within one command it stands for one version.
@cache
def _fetched(artifact: Artifact, root: Path) -> Path:
    own = root / artifact.entity / artifact.project
    if artifact.fixed and (own / artifact.folder_name).is_dir():
        return own / artifact.folder_name
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return _without_network(artifact, root, f"WANDB_MODE={os.environ['WANDB_MODE']}")

    import wandb  # takes its time, and most commands do without
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
        return _without_network(artifact, root, str(error).partition("\n")[0].rstrip("."))


def _without_network(artifact: Artifact, root: Path, reason: str) -> Path:
    """The artifact's folder from an earlier time."""
    own = root / artifact.entity / artifact.project
    for folder in (own / artifact.folder_name, root / artifact.folder_name):
        if folder.is_dir():
            logger.info("%s is taken from %s, where it was put before (%s)", artifact.path, folder, reason)
            return folder
    there = sorted(f"v{folder.name.rpartition('v')[2]}" for folder in own.glob(f"{artifact.name}{_SEPARATOR}v*"))
    versions = f"; its versions {', '.join(there)} are" if there else ""
    raise CheckpointError(
        f"wandb:{artifact.path} cannot be fetched ({reason}) and is not in {root}{versions}; log in with "
        f"`wandb login`, check the name, or put its files into {own / artifact.folder_name}"
    )


def _content(folder: Path) -> Path:
    """An artifact's only file, such as the model.ckpt that Lightning uploads, or the folder where there are several."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    if not files:
        raise CheckpointError(f"the artifact's folder {folder} is empty; remove it to fetch the artifact again")
    return files[0] if len(files) == 1 else folder
