"""What it means to export: a denoiser in the form of another program."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.denoiser import Denoiser


class ExportError(CheckpointError):
    """A denoiser that the other format cannot express; the message says what stands in the way and what to do."""


class Export(abc.ABC):
    """A format that denoisers can be written in."""

    @abc.abstractmethod
    def write(self, denoiser: Denoiser, model: Mapping[str, Any], out: Path) -> None:
        """Writes the denoiser to `out`.

        Args:
            denoiser: in evaluation mode, on the CPU.
            model: the configuration that `sdedit_pl.build.build_denoiser` makes the same denoiser of, with sections
                image, sde, network and parameterisation.
            out: the file or folder to make. Nothing is there yet, and its folder exists. The caller sees to it that
                `out` appears whole or not at all, so that nothing need be tidied up on an error.

        Raises:
            ExportError: if the format has no way to say what the denoiser computes.
        """
