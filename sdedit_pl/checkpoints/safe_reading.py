"""Reads tensors through safetensors or torch's weights-only unpickler, so that no code from a file runs.

A format is recognised by the tensor names in the file, which are found without unpickling.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES_OF_LEGACY_FILE = 5
"""Pickles at the start of a file of torch before 1.6: magic number, protocol, system, the object, its storages."""
CHECKPOINT_DAMAGE = (
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
"""Exceptions of torch and the standard library on a damaged file or one of another kind."""
CONVERT = (
    "open it with the program that wrote it, in an isolated environment, and save the state dict of its network alone: "
    "torch.save(network.state_dict(), 'weights.pth')"
)


class CheckpointError(ValueError):
    """A file that is not a checkpoint this package can use; its message says why and what to do."""


def plain_name(name: str) -> str:
    """A tensor's name without the `module.` of data parallelism and the `_orig_mod.` of torch.compile."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def tensor_names_in(path: Path) -> set[str]:
    """Plain names of the tensors in a safetensors file, or all strings of a pickle; empty for any other file."""
    if not path.is_file():
        return set()
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as opened:
                return set(map(plain_name, opened.keys()))
        except (SafetensorError, OSError):
            return set()
    names = set()
    try:
        with _pickles(path) as (stream, count):
            for _ in range(count):
                # A module's or class's name is an argument too: "torch._utils _rebuild_tensor_v2".
                texts = (argument for _, argument, _ in pickletools.genops(stream) if isinstance(argument, str))
                names.update(map(plain_name, texts))
    except CHECKPOINT_DAMAGE:
        return names
    return names


def read_plain(path: Path) -> Any:
    """The tensors of a `.safetensors` file, or the object in a torch file of tensors and plain data, on the CPU.

    Tensors are memory-mapped if possible. Raises CheckpointError for a damaged file, or a pickle of anything else.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    try:
        with warnings.catch_warnings(), _pickles(path):
            warnings.simplefilter("ignore")  # torch warns of foreign pickles, which we refuse anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except CHECKPOINT_DAMAGE as error:
        if isinstance(error, pickle.UnpicklingError) and _is_pickle(path):
            raise CheckpointError(_refusal(path, error)) from error
        raise CheckpointError(
            f"{path} is not a complete checkpoint; it is truncated (copy or download it again) or of another kind: "
            f"editing takes .safetensors, .ckpt, .pth and .pt files and run folders"
        ) from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a `.safetensors` file, memory-mapped, and its metadata."""
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete .safetensors file ({error}); it is truncated (copy or download it again) or "
            "another kind of file: editing takes .safetensors, .ckpt, .pth and .pt files and run folders"
        ) from error


def require_stored(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raises CheckpointError if tensors of a file have more numbers than it stores, by sharing or repeating them."""
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    if sum(tensor.nbytes for tensor in tensors.values()) > sum(stored.values()):
        raise CheckpointError(f"{what} has tensors with more numbers than the file stores; was it altered?")


@contextmanager
def _pickles(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """A stream positioned at the pickles of a torch file, and the maximum number of pickles."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            yield stream, PICKLES_OF_LEGACY_FILE
        return
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise zipfile.BadZipFile("its members are compressed or overlap, unlike those that torch writes")
        name = next((name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"), None)
        yield io.BytesIO(b"" if name is None else archive.read(name)), 1


def _is_pickle(path: Path) -> bool:
    try:
        with _pickles(path) as (stream, _):
            return any(opcode.name == "STOP" for opcode, *_ in pickletools.genops(stream))
    except CHECKPOINT_DAMAGE:
        return False


def _refusal(path: Path, error: Exception) -> str:
    if "_reconstruct_persistent_obj" in " ".join(tensor_names_in(path)):
        return (
            f"{path} is a pickle of the kind that EDM and StyleGAN publish: it contains source code, which would run "
            "when loaded; it was not loaded. Convert it to a state dict in a checkout of its own code: "
            "torch.save(pickle.load(file)['ema'].state_dict(), 'weights.pth')"
        )
    needed = re.search(r"GLOBAL (\S+)", str(error))
    what = "objects" if needed is None else f"objects ({needed.group(1)})"
    return (
        f"{path} holds {what} other than weights and plain data, which could run code when loaded; it was not loaded. "
        f"To use it, {CONVERT}"
    )
