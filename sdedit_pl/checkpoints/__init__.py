"""Checkpoints: reading and writing this project's own, and reading and writing those of other programs."""

from sdedit_pl.checkpoints.formats import CheckpointError, CheckpointFormat, Imported
from sdedit_pl.checkpoints.loading import describe, files_of, find_checkpoint, load_denoiser, load_described
from sdedit_pl.checkpoints.native import Description, save_denoiser, save_weights
from sdedit_pl.checkpoints.table import FORMATS

__all__ = [
    "FORMATS",
    "CheckpointError",
    "CheckpointFormat",
    "Description",
    "Imported",
    "describe",
    "files_of",
    "find_checkpoint",
    "load_denoiser",
    "load_described",
    "save_denoiser",
    "save_weights",
]
