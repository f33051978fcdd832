"""Checkpoints of other programs: what a format has to offer, and the safe ways to look into a file.

A format turns a file or folder that another program wrote into this package's terms: a description of the model and
the network's weights under our names. Reading never runs anything that a
file brings: tensors come from safetensors or through torch's weights-only unpickler, and what a file is made of is told
from the names in it, which are found without unpickling.

Adding one: a class in a file of its own, and its line in `FORMATS` in `table.py`.
"""

from __future__ import annotations

import abc
import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.files import sha256_of

PICKLES_OF_LEGACY_FILE = 5
"""Pickles at the start of a file of torch before 1.6: magic number, protocol, system, the object, its storages."""
DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch and the standard library raise on a damaged file, or one of another kind, depending on where it is."""
CONVERT = (
    "open it in an environment that you trust, with the program that wrote it, and save the state dict of its network "
    "alone: torch.save(network.state_dict(), 'weights.pth')"
)


class CheckpointError(ValueError):
    """A file that is not a checkpoint this package can use; its message says why and what to do."""


@dataclass(frozen=True)
class Mapped:
    """What became of the tensors in a file.

    Args:
        used: our name -> the names in the file that it is made of.
        ignored: name in the file -> why it is not needed.
    """

    used: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """A foreign checkpoint in this package's terms.

    Args:
        model: description of the denoiser.
        weights: the network's state dict under our names, on the CPU, of the types in the file.
        origin: where it came from, as plain data that JSON can hold: format, preset, file, sha256, weights (ema or
            raw), step, sampling, ...
        mapped: what became of the tensors in the file.
    """

    model: ModelConfig
    weights: dict[str, Tensor]
    origin: dict[str, Any]
    mapped: Mapped


class CheckpointFormat(abc.ABC):
    """A layout of checkpoints that another program writes."""

    @abc.abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether the file or folder at `path` looks like this format; a cheap look that runs nothing."""

    @abc.abstractmethod
    def read(
        self,
        path: Path,
        *,
        weights: str = "ema",
        preset: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Imported:
        """Reads a file or folder strictly: every tensor is used exactly once, or named with the reason why not.

        Args:
            path: the file or folder.
            weights: "ema", the averaged weights, or "raw"; a file that holds one set only gives that.
            preset: published name of the model, a key of `sdedit_pl.checkpoints.presets.PRESETS`.
            config: the configuration that its program published with it. Without one, and without a preset, the model
                is told from the file.

        Raises:
            CheckpointError: if it is damaged, holds code, or does not fit the preset or configuration.
        """


def names_in(path: Path) -> set[str]:
    """The names in a file: of its tensors (safetensors), or every string of a pickle; nothing is unpickled.

    Empty for a folder, a damaged file, and a file of any other kind.
    """
    if not path.is_file():
        return set()
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as opened:
                return set(opened.keys())
        except (SafetensorError, OSError):
            return set()
    names = set()
    try:
        with _pickles(path) as (stream, count):
            for _ in range(count):
                # A module's or class's name is an argument too: "torch._utils _rebuild_tensor_v2".
                names.update(argument for _, argument, _ in pickletools.genops(stream) if isinstance(argument, str))
    except DAMAGE:
        return names
    return names


def read_plain(path: Path) -> Any:
    """What a file of tensors and plain data holds: the tensors of a `.safetensors`, or the object in a torch file.

    Tensors are on the CPU, and where the file allows it still on disk until they are used.

    Raises:
        CheckpointError: if it is damaged, or a pickle of more than tensors and plain data.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on foreign pickles, which end in an error of ours
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except DAMAGE as error:
        if isinstance(error, pickle.UnpicklingError) and _is_pickle(path):
            raise CheckpointError(_refusal(path, error)) from error
        raise CheckpointError(
            f"{path} is not a whole checkpoint; it is truncated (copy or download it again) or something else: editing "
            f"takes .safetensors, .ckpt, .pth and .pt files and folders of runs"
        ) from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a `.safetensors` file, which stay on disk until they are used, and its metadata.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole .safetensors file ({error}); it is truncated (copy or download it again) or "
            "something else: editing takes .safetensors, .ckpt, .pth and .pt files and folders of runs"
        ) from error


@contextmanager
def published_configuration() -> Iterator[None]:
    """Turns what a missing key or a value of a wrong type in a published configuration raises into an error of ours."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"the published configuration lacks {error}") from error
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"the published configuration has a value of a wrong type: {error}") from error


def origin_of(path: Path, format: str, **facts: Any) -> dict[str, Any]:
    """Where a checkpoint came from: its file's name and hash, and the facts that are known (those that are not None).

    `training`, a mapping, is what is known of its training.
    """
    known = {key: value for key, value in facts.items() if value is not None}
    return {"format": format, "file": path.name, "sha256": sha256_of(path), **known}


@contextmanager
def _pickles(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """A stream at the pickles of a torch file, and how many there are at most."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            yield stream, PICKLES_OF_LEGACY_FILE
        return
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"), None)
        yield io.BytesIO(b"" if name is None else archive.read(name)), 1


def _is_pickle(path: Path) -> bool:
    """Whether a file begins with a whole pickle, which is found without unpickling."""
    try:
        with _pickles(path) as (stream, _):
            return any(opcode.name == "STOP" for opcode, *_ in pickletools.genops(stream))
    except DAMAGE:
        return False


def _refusal(path: Path, error: Exception) -> str:
    """Why a pickle was not loaded, and what to do."""
    if "_reconstruct_persistent_obj" in " ".join(names_in(path)):
        return (
            f"{path} is a pickle of the kind that EDM and StyleGAN publish: it brings its own source code, which would "
            "run when loaded; it was not loaded. Convert it in its own checkout, where that code is at home, to a "
            "state dict: torch.save(pickle.load(file)['ema'].state_dict(), 'weights.pth')"
        )
    needed = re.search(r"GLOBAL (\S+)", str(error))
    what = "objects" if needed is None else f"objects ({needed.group(1)})"
    return (
        f"{path} holds {what} other than weights and plain data, which could run code when loaded; it was not loaded. "
        f"To use it, {CONVERT}"
    )
