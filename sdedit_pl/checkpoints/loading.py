"""Makes a denoiser from a checkpoint of this project or of another program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints.expected_tensors import check_numbers, shape_difference, without_weights
from sdedit_pl.checkpoints.importers import CHECKPOINT_FORMATS, importer
from sdedit_pl.checkpoints.locating import find_checkpoint, foreign_format
from sdedit_pl.checkpoints.native import Description, read_weights
from sdedit_pl.checkpoints.safe_reading import CheckpointError, read_plain, require_stored
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.batch_independence import images_per_call


def load_denoiser(path: str | Path, device: str | torch.device = "cpu", *, train: bool = False) -> Denoiser:
    """The denoiser of a checkpoint, in evaluation mode, its weights in float32.

    On a CPU the network takes images one by one, so that a sample's bits do not depend on its batch; elsewhere it takes
    whole batches (`at_once`). On a CPU, float32 weights stay memory-mapped: replace the file, but do not write to it.

    Args:
        path: as `find_checkpoint` takes it: an editing checkpoint (`.safetensors`), or a checkpoint of
            `CHECKPOINT_FORMATS` whose model can be derived from the file (`sdedit import` reads the others).
        train: training mode instead: trainable weights in memory of their own, and whole batches.

    Raises:
        CheckpointError: it is missing, damaged, of an unknown program, names a component that this package does not
            have, holds code instead of data, or its weights do not fit its configuration or are not finite.
    """
    denoiser = load_described(path, device)[0]
    if train:
        denoiser.at_once = None
        for weight in denoiser.train().requires_grad_(True).parameters():
            weight.data = weight.data.clone()
    return denoiser


def load_described(path: str | Path, device: str | torch.device = "cpu") -> tuple[Denoiser, Description]:
    """The denoiser and the description of a checkpoint, read once; see `load_denoiser`."""
    description, tensors = read_checkpoint(find_checkpoint(path))
    return assemble_denoiser(description, tensors, device), description


def load_for_editing(ckpt: str, device: str) -> tuple[Denoiser, Description]:
    """As `load_described`; "auto" is a GPU if there is one. Raises ValueError if torch cannot use the device."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device} cannot be used here: {str(error).splitlines()[0]}") from error
    denoiser, description = load_described(ckpt, device)
    # The faster order on a CPU; `prepare_network` changes it for uncompiled networks on a GPU.
    denoiser.network.to(memory_format=torch.channels_last)
    return denoiser, description


def describe(path: str | Path) -> Description:
    """The description of a checkpoint; `path` and errors are those of `load_denoiser`."""
    return read_checkpoint(find_checkpoint(path))[0]


def read_checkpoint(checkpoint: Path) -> tuple[Description, dict[str, Tensor]]:
    format = foreign_format(checkpoint)
    if format is not None:
        imported = importer(format).read(checkpoint)
        return imported.description(checkpoint), imported.weights
    if checkpoint.suffix == ".safetensors":
        return read_weights(checkpoint)
    read_plain(checkpoint)
    raise CheckpointError(
        f"{checkpoint} is not a checkpoint of this project's training (it carries no configuration), nor of a known "
        f"format ({', '.join(CHECKPOINT_FORMATS)}); train a model here, or use a checkpoint that sdedit_pl wrote"
    )


def assemble_denoiser(
    description: Description, tensors: Mapping[str, Tensor], device: str | torch.device = "cpu"
) -> Denoiser:
    """The denoiser of a description and its network's tensors; raises CheckpointError if they do not fit."""
    file = description.path
    try:
        check_numbers(description.model.as_data())
        with without_weights():
            denoiser = build_denoiser(description.model)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"{file} describes a model that this version cannot build: {error}; it may come from a newer version"
        ) from error
    difference = shape_difference(denoiser.network.state_dict(), tensors)
    if difference:
        raise CheckpointError(f"the weights in {file} do not fit its own configuration: {difference}")
    require_stored(tensors, f"the network in {file}")
    weights = {name: _weight(file, name, tensor, device) for name, tensor in tensors.items()}
    denoiser.network.load_state_dict(weights, strict=True, assign=True)
    denoiser.at_once = images_per_call(device)
    # Moves buffers outside the state dict, such as FIR kernels.
    return denoiser.to(device).eval().requires_grad_(False)


def _weight(file: Path, name: str, tensor: Tensor, device: str | torch.device) -> Tensor:
    """Converts a tensor to float32 on a device; raises CheckpointError if it holds integers, NaN or infinity."""
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"the weights in {file} are {kind} numbers ({name}), expected floating-point ones; a quantised network has "
            "to be converted back by the program that quantised it"
        )
    weight = tensor.to(device, torch.float32)
    if not torch.stack(weight.aminmax()).isfinite().all():
        raise CheckpointError(
            f"the weights in {file} hold NaN or infinite numbers ({name}): their training diverged, or the file was "
            "altered; use an earlier checkpoint"
        )
    return weight
