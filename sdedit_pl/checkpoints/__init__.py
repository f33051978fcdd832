"""Checkpoints: reading and writing this project's own, and the layouts of published ones."""

from sdedit_pl.checkpoints.native import (
    CheckpointError,
    Description,
    describe,
    find_checkpoint,
    load_denoiser,
    save_denoiser,
)

__all__ = [
    "CheckpointError",
    "Description",
    "describe",
    "find_checkpoint",
    "load_denoiser",
    "save_denoiser",
]
