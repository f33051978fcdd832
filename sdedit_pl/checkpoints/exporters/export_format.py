"""What it means to export: a denoiser in the form of another program."""

from __future__ import annotations

import abc
from pathlib import Path

from sdedit_pl.checkpoints.native import CheckpointError
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser


class ExportError(CheckpointError):
    """A denoiser that the other format cannot express; the message says what stands in the way and what to do."""


class Export(abc.ABC):
    """A format that denoisers can be written in."""

    @abc.abstractmethod
    def write(self, denoiser: Denoiser, model: ModelConfig, out: Path) -> None:
        """Writes the denoiser to `out`.

        Args:
            denoiser: in evaluation mode, on the CPU.
            model: the description that `build_denoiser` builds the same denoiser from.
            out: the file or folder to make. Nothing is there yet, and its folder exists. The caller sees to it that
                `out` appears whole or not at all, so that nothing need be tidied up on an error.

        Raises:
            ExportError: if the format has no way to say what the denoiser computes.
        """
