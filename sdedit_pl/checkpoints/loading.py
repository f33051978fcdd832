"""From a file or folder, of this project or of another program's, to a denoiser."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints.formats import CheckpointError, Imported, read_plain
from sdedit_pl.checkpoints.native import Description, described, is_native, read_weights
from sdedit_pl.checkpoints.remote import local_checkpoint
from sdedit_pl.checkpoints.table import FORMATS
from sdedit_pl.configuration import ConfigError
from sdedit_pl.denoiser import Denoiser

RUN_FILE = "model.safetensors"
"""The editing checkpoint in a run's folder."""


def load_denoiser(path: str | Path, device: str | torch.device = "cpu") -> Denoiser:
    """The denoiser of a checkpoint, in evaluation mode, its weights in float32.

    On a CPU its network takes images one by one, so that a sample's bits do not depend on its batch; elsewhere, where
    that would be slow, it takes whole batches, whose results agree up to rounding. `at_once` of the result says which.

    On a CPU, weights that a file holds in float32 are not copied: they stay in the file, mapped to memory, and the file
    must not be written to as long as they are used (replacing it is fine, and what this package does).

    Args:
        path: an editing checkpoint (`.safetensors`), a Lightning checkpoint of this project (`.ckpt`), the folder of a
            run, of which the editing checkpoint is taken, or else the newest Lightning one, or a checkpoint of another
            program whose model is told from it (see `FORMATS`; `sdedit import` takes those that need a word more).
        device: where its weights go.

    Raises:
        CheckpointError: if it is missing, truncated, of an unknown program, names a component that this package does
            not have, holds code in place of data, or its weights do not fit its own configuration.
    """
    return load_described(path, device)[0]


def load_described(path: str | Path, device: str | torch.device = "cpu") -> tuple[Denoiser, Description]:
    """The denoiser of a checkpoint and what the checkpoint says of itself, read once; see `load_denoiser`."""
    description, tensors = _read(find_checkpoint(path))
    return assemble(description, tensors, device), description


def assemble(description: Description, tensors: Mapping[str, Tensor], device: str | torch.device = "cpu") -> Denoiser:
    """The denoiser of a description and its network's tensors; see `load_denoiser`.

    Raises:
        CheckpointError: if this version cannot build it, or the tensors are not its own.
    """
    try:
        with torch.random.fork_rng(devices=[]), without_weights():
            denoiser = build_denoiser(description.model)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(
            f"{description.path} describes a model that this version cannot build: {error}; it may come from a newer "
            "version"
        ) from error
    _check_tensors(description.path, denoiser.network.state_dict(), tensors)
    weights = {
        name: tensor.to(device, torch.float32 if tensor.is_floating_point() else None)
        for name, tensor in tensors.items()
    }
    denoiser.network.load_state_dict(weights, strict=True, assign=True)
    denoiser.at_once = 1 if torch.device(device).type == "cpu" else None
    # Moves what is not part of the state, such as FIR kernels.
    return denoiser.to(device).eval().requires_grad_(False)


def describe_import(path: Path, format: str, imported: Imported) -> Description:
    """What a foreign checkpoint says of itself."""
    training = imported.origin.get("training", {})
    origin = {key: value for key, value in imported.origin.items() if key != "training"}
    return described(path, format, imported.model, training, origin, imported.weights)


def describe(path: str | Path) -> Description:
    """What a checkpoint says of itself; takes and raises what `load_denoiser` does."""
    return _read(find_checkpoint(path))[0]


def find_checkpoint(path: str | Path) -> Path:
    """What `path`, a file, a folder or the name of a published one (see `remote.py`), stands for.

    That is a file, or the folder of another program's checkpoint.

    Raises:
        CheckpointError: if there is none.
    """
    path = local_checkpoint(path)
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at {path}; give a .safetensors or .ckpt file, or a run's folder")
    if (path / RUN_FILE).is_file():
        return path / RUN_FILE
    if resumable := resumable_checkpoints(path):
        return resumable[-1]
    if format_of(path) is not None:
        return path
    raise CheckpointError(
        f"the folder {path} holds neither {RUN_FILE} nor checkpoints/*.ckpt: not a run's folder? A folder of diffusers "
        "needs its config.json"
    )


def files_of(checkpoint: Path) -> list[Path]:
    """The files of what `find_checkpoint` returns."""
    return [checkpoint] if checkpoint.is_file() else sorted(file for file in checkpoint.rglob("*") if file.is_file())


def resumable_checkpoints(run: Path) -> list[Path]:
    """The Lightning checkpoints in a run's folder, in the order of their steps, which their names tell."""
    return sorted((run / "checkpoints").glob("step=*.ckpt"))


def format_of(path: Path) -> str | None:
    """The name in `FORMATS` of what is at `path`; None for this project's own files and what nothing recognises."""
    if is_native(path):
        return None
    return next((name for name, kind in FORMATS.items() if kind().recognises(path)), None)


@contextmanager
def without_weights() -> Iterator[None]:
    """Within, modules are built with parameters that have a shape and no memory; their buffers are as ever.

    Buffers that are not part of the state (FIR kernels, sinusoids' frequencies) are computed by the constructors, which
    building on the device "meta" would leave empty.
    """
    builder = threading.get_ident()

    def empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or threading.get_ident() != builder:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    # The parameter that a hook returns takes the place of the one it was given; torch's annotation leaves that out.
    hook = register_module_parameter_registration_hook(empty)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        hook.remove()


def _read(checkpoint: Path) -> tuple[Description, dict[str, Tensor]]:
    format = format_of(checkpoint)
    if format is not None:
        imported = FORMATS[format]().read(checkpoint)
        return describe_import(checkpoint, format, imported), imported.weights
    if checkpoint.suffix == ".safetensors":
        return read_weights(checkpoint)
    read_plain(checkpoint)
    raise CheckpointError(
        f"{checkpoint} is not a checkpoint of this project's training (it carries no configuration), nor of a known "
        f"format ({', '.join(FORMATS)}); train a model here, or take a checkpoint that sdedit_pl wrote"
    )


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
