"""The interface of an exporter to another program's format."""

from __future__ import annotations

import abc
from pathlib import Path

from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser


class ExportError(CheckpointError):
    """A denoiser that the format cannot express."""


class Export(abc.ABC):
    @abc.abstractmethod
    def write(self, denoiser: Denoiser, model: ModelConfig, out: Path) -> None:
        """Writes a denoiser, in evaluation mode on the CPU, to the new `out`; the caller removes partial output."""
