"""This project's checkpoints.

For editing: one `.safetensors` file with the averaged weights of the network; its metadata hold the configuration of
the model and the facts of its training as JSON. For resuming: Lightning's `.ckpt`, which editing reads too,
weights-only. Neither can run anything: a configuration names components of this package's tables and nothing else.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdedit_pl.build import build_denoiser, model_config
from sdedit_pl.config import ConfigError
from sdedit_pl.denoiser import Denoiser

FORMAT = "sdedit_pl"
VERSION = 1
RUN_FILE = "model.safetensors"
"""The editing checkpoint in a run's folder."""
AVERAGE_PREFIX = "denoiser.network."


class CheckpointError(ValueError):
    """A file that is not a checkpoint this package can use; its message says why and what to do."""


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself.

    Args:
        path: the file.
        format: "sdedit_pl" or "lightning".
        model: configuration of the denoiser.
        training: facts of its training, such as steps and images seen, and the run's configuration.
        parameters: numbers of the network.
        dtypes: their types.
    """

    path: Path
    format: str
    model: dict[str, Any]
    training: dict[str, Any]
    parameters: int
    dtypes: tuple[str, ...]


def save_denoiser(
    path: str | Path,
    denoiser: Denoiser,
    model: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes an editing checkpoint; the file appears whole or not at all.

    Args:
        path: the `.safetensors` file, replaced if it is there.
        denoiser: whose network's weights are written.
        model: configuration that `sdedit_pl.build.build_denoiser` makes the same denoiser of.
        training: facts worth knowing later: plain data.
        dtype: of the floating-point weights in the file.
    """
    path = Path(path)
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in denoiser.network.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "model": json.dumps(model),
        "training": json.dumps(dict(training or {})),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=metadata)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def load_denoiser(path: str | Path, device: str | torch.device = "cpu") -> Denoiser:
    """The denoiser of a checkpoint, in evaluation mode, its weights in float32.

    On a CPU its network takes images one by one, so that a sample's bits do not depend on its batch; elsewhere, where
    that would be slow, it takes whole batches, whose results agree up to rounding. `at_once` of the result says which.

    Args:
        path: an editing checkpoint (`.safetensors`), a Lightning checkpoint of this project (`.ckpt`), or the folder of
            a run, of which the editing checkpoint is taken, or else the newest Lightning one.
        device: where its weights go.

    Raises:
        CheckpointError: if it is missing, truncated, of another program, names a component that this package does not
            have, holds code in place of data, or its weights do not fit its own configuration.
    """
    file = find_checkpoint(path)
    description, tensors = _read(file)
    try:
        with torch.device("meta"):
            denoiser = build_denoiser(description.model)
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} describes a model that this version cannot build: {error}; it may come from a newer version"
        ) from error
    _check_tensors(file, denoiser.network.state_dict(), tensors)
    weights = {
        name: tensor.to(device, torch.float32 if tensor.is_floating_point() else None)
        for name, tensor in tensors.items()
    }
    # Buffers that are not part of the state (FIR kernels) are computed by the constructor, which "meta" leaves empty.
    with torch.random.fork_rng(devices=[]):
        denoiser = build_denoiser(description.model).to(device)
    denoiser.network.load_state_dict(weights, strict=True)
    denoiser.at_once = 1 if torch.device(device).type == "cpu" else None
    return denoiser.eval().requires_grad_(False)


def describe(path: str | Path) -> Description:
    """What a checkpoint says of itself; takes and raises what `load_denoiser` does."""
    return _read(find_checkpoint(path))[0]


def find_checkpoint(path: str | Path) -> Path:
    """The file that `path`, a file or a run's folder, stands for.

    Raises:
        CheckpointError: if there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at {path}; give a .safetensors or .ckpt file, or a run's folder")
    if (path / RUN_FILE).is_file():
        return path / RUN_FILE
    resumable = resumable_checkpoints(path)
    if not resumable:
        raise CheckpointError(f"the folder {path} holds neither {RUN_FILE} nor checkpoints/*.ckpt: not a run's folder?")
    return resumable[-1]


def resumable_checkpoints(run: Path) -> list[Path]:
    """The Lightning checkpoints in a run's folder, in the order of their steps, which their names tell."""
    return sorted((run / "checkpoints").glob("step=*.ckpt"))


def _read(file: Path) -> tuple[Description, dict[str, Tensor]]:
    return _read_lightning(file) if file.suffix == ".ckpt" else _read_safetensors(file)


def _read_safetensors(file: Path) -> tuple[Description, dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a whole .safetensors file ({error}); it is truncated (copy or download it again) or "
            f"something else: editing takes .safetensors, .ckpt and folders of runs"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} holds tensors but no sdedit_pl configuration, so what they are is unknown; "
            f"expected a file that training or export of this project wrote"
        )
    version = metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise CheckpointError(
            f"{file} is of version {version or 'unknown'}, this program reads up to {VERSION}: update sdedit_pl"
        )
    try:
        model, training = json.loads(metadata["model"]), json.loads(metadata.get("training", "{}"))
    except (KeyError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"the configuration in {file} cannot be read ({error}); export or download the checkpoint again"
        ) from error
    if not isinstance(model, dict) or not isinstance(training, dict):
        raise CheckpointError(f"the configuration in {file} must be two JSON objects, model and training")
    return _description(file, FORMAT, model, training, tensors), tensors


def _read_lightning(file: Path) -> tuple[Description, dict[str, Tensor]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on foreign pickles, which end in an error of ours
            checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file) or None)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds objects other than weights and plain data, which could run code when loaded, or is damaged; "
            f"it was not loaded. Save its weights alone and try again ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{file} is not a whole checkpoint; it is truncated (copy it again) or something else: editing takes "
            f".safetensors, .ckpt and folders of runs"
        ) from error
    facts = checkpoint if isinstance(checkpoint, dict) else {}
    config, state = facts.get("sdedit_config"), facts.get("state_dict")
    if not isinstance(config, dict) or not isinstance(state, dict):
        raise CheckpointError(
            f"{file} is not a checkpoint of this project's training: it carries no configuration; train a model here, "
            f"or take a checkpoint that sdedit_pl wrote"
        )
    tensors = {
        name.removeprefix(AVERAGE_PREFIX): tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and str(name).startswith(AVERAGE_PREFIX)
    }
    try:
        model = model_config(config)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the configuration in {file} cannot be read ({error}); take another") from error
    training = {"steps": facts.get("global_step"), "config": config}
    return _description(file, "lightning", model, training, tensors), tensors


def _description(
    file: Path, format: str, model: dict[str, Any], training: dict[str, Any], tensors: Mapping[str, Tensor]
) -> Description:
    floating = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    dtypes = tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in floating}))
    return Description(file, format, model, training, sum(tensor.numel() for tensor in floating), dtypes)


def _check_tensors(file: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"the weights in {file} do not fit its own configuration: "
            f"missing {missing[:3] or 'none'}, not expected {extra[:3] or 'none'}"
        )
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise CheckpointError(
                f"the weights in {file} do not fit its own configuration: {name} must be {tuple(tensor.shape)}, "
                f"is {tuple(found[name].shape)}"
            )
