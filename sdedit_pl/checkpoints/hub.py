"""Checkpoints on the Hugging Face Hub: `hf:owner/name[/file][@revision]`.

Without a file, it is the repository's `model.safetensors` (see `sdedit publish`) or its diffusers pipeline. A path
names a file of any known format or the folder of a network. `huggingface_hub` handles the cache, offline mode and the
token: HF_HOME, HF_HUB_OFFLINE, HF_TOKEN or `hf auth login`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath

from sdedit_pl.checkpoints.safe_reading import CheckpointError

HUB = "hf:"
_OWN = ["model.safetensors", "model-early.safetensors", "model.safetensors.t0.yaml"]
_DESCRIPTIONS = ["*config.json", "*model_index.json"]
_STEM = "diffusion_pytorch_model"
_FOREIGN = (
    [f"{_STEM}.safetensors", f"{_STEM}-*.safetensors"],
    [f"{_STEM}.bin", f"{_STEM}-*.bin"],
    [f"{_STEM}.*.safetensors", f"{_STEM}.*.bin"],
)
"""Weights of diffusers in the importer's order of preference; only one kind is downloaded."""


def parsed_repository(source: str) -> tuple[str, str, str | None]:
    """Repository, path in it (may be empty) and revision of `hf:owner/name[/path][@revision]`."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)((?:/[^/@]+)*)(?:@(.+))?", source)
    if match is None or ".." in match[2].split("/"):
        raise CheckpointError(
            f"a model on the Hugging Face Hub is hf:owner/name, hf:owner/name/file or hf:owner/name@revision, "
            f"got {source!r}"
        )
    return match[1], match[2].strip("/"), match[3]


# A branch may move; within one command it denotes one commit.
@cache
def fetched_repository(source: str) -> Path:
    """The local file or folder of a checkpoint on the Hub, downloaded unless cached.

    Raises CheckpointError for a malformed name, missing files, or a model that does not work on pixels.
    """
    from huggingface_hub import hf_hub_download, snapshot_download  # most commands do not need it
    from huggingface_hub.utils import disable_progress_bars

    from sdedit_pl.checkpoints.importers.from_diffusers import AVERAGED, check_pipeline

    repository, path, revision = parsed_repository(source)
    if not sys.stderr.isatty():
        disable_progress_bars()
    with hub_errors(repository, source):
        if PurePosixPath(path).suffix:
            return Path(hf_hub_download(repository, path, revision=revision))
        within = f"{path}/" if path else ""
        wanted = [within + name for name in _OWN] + _DESCRIPTIONS
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted), path)
        if (folder / _OWN[0]).is_file():
            return folder
        check_pipeline(folder)
        for names in _FOREIGN:
            wanted = [within + place + name for place in ("", "unet/", f"{AVERAGED}/") for name in names]
            snapshot_download(repository, revision=revision, allow_patterns=wanted)
            if any(found for name in names for found in folder.rglob(name)):
                return folder
    raise CheckpointError(
        f"{source} holds neither {_OWN[0]} nor a network of diffusers; if it has a file of another program, name it, "
        f"as hf:{repository}/FILE"
    )


@contextmanager
def hub_errors(repository: str, source: str) -> Iterator[None]:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repository}"
    login = "log in with `hf auth login` or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{source} is gated: ask for access at {page}, then {login}") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{source}: there is no repository {repository}, or it is private; check the name, or {login}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{source}: {repository} has no such revision; see {page}/tree/main") from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{source} is not in the cache, and the Hub cannot be reached; unset HF_HUB_OFFLINE, check the network, or "
            "copy the file here and give its path"
        ) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(f"{source}: there is no such file; {page}/tree/main lists the files") from error
    except (errors.HTTPError, errors.HFValidationError) as error:  # pyright: ignore[reportPrivateImportUsage]
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"the Hub denies access; {login}" if status in (401, 403) else " ".join(str(error).split())
        raise CheckpointError(f"{source} cannot be used: {reason}") from error
