"""Checkpoints: this project's own, and those of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdedit_pl.lazy_names import lazy_names

if TYPE_CHECKING:
    from sdedit_pl.checkpoints.loading import describe, load_denoiser, load_described
    from sdedit_pl.checkpoints.locating import files_of, find_checkpoint
    from sdedit_pl.checkpoints.native import Description, save_denoiser, save_weights
    from sdedit_pl.checkpoints.safe_reading import CheckpointError

__all__ = [
    "CheckpointError",
    "Description",
    "describe",
    "files_of",
    "find_checkpoint",
    "load_denoiser",
    "load_described",
    "save_denoiser",
    "save_weights",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "loading": "describe load_denoiser load_described",
        "locating": "files_of find_checkpoint",
        "native": "Description save_denoiser save_weights",
        "safe_reading": "CheckpointError",
    },
)
