"""Loads a checkpoint for editing, on a device given by name."""

from __future__ import annotations

import torch

from sdedit_pl.checkpoints.loading import load_described
from sdedit_pl.checkpoints.native import Description
from sdedit_pl.denoiser import Denoiser


def load_for_editing(ckpt: str, device: str) -> tuple[Denoiser, Description]:
    """The denoiser of a checkpoint on a device, and the checkpoint's description.

    Args:
        ckpt: see `sdedit_pl.checkpoints.load_denoiser`.
        device: a device of torch, or "auto" for a GPU if there is one.

    Raises:
        ValueError: torch does not know or have the device.
        CheckpointError: see `sdedit_pl.checkpoints.load_denoiser`.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device} cannot be used here: {str(error).splitlines()[0]}") from error
    denoiser, description = load_described(ckpt, device)
    # the memory format in which convolutions are fastest, on a CPU and on a GPU
    denoiser.network.to(memory_format=torch.channels_last)
    return denoiser, description
