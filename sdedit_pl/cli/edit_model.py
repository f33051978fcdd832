"""The model of an edit: loaded on a device, and made ready for what is asked of it."""

from __future__ import annotations

import torch

from sdedit_pl.checkpoints import Description, load_described
from sdedit_pl.cli.edit_arguments import Arguments
from sdedit_pl.configuration import ConfigError
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.windows import windowed


def load_for_editing(ckpt: str, device: str) -> tuple[Denoiser, Description]:
    """The denoiser of a checkpoint, on a device by name, and what the checkpoint says of itself.

    Raises:
        ConfigError: a device that torch does not know or have.
        CheckpointError: see `sdedit_pl.checkpoints.load_denoiser`.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={device} cannot be used here: {str(error).splitlines()[0]}") from error
    denoiser, description = load_described(ckpt, device)
    # The layout that convolutions are fastest in, on a CPU as on a GPU.
    denoiser.network.to(memory_format=torch.channels_last)
    return denoiser, description


def prepared(denoiser: Denoiser, arguments: Arguments, size: int) -> Denoiser:
    """The denoiser, compiled and seeing windows where a configuration asks for it.

    Args:
        denoiser: of images of the model's size.
        arguments: the verb's arguments.
        size: height and width of the model's images.
    """
    if arguments.compile:
        denoiser.network.compile()
    window = window_size(arguments, size)
    if window is None:
        return denoiser
    overlap = window // 2 if arguments.overlap is None else arguments.overlap
    return windowed(denoiser, window, overlap, trained_size=size)


def window_size(arguments: Arguments, size: int) -> int | None:
    """Height and width of the windows that a configuration asks for; None for no windows.

    Args:
        arguments: the verb's arguments.
        size: height and width of the model's images.
    """
    windows = arguments.windows
    return size if windows is True else windows or None
