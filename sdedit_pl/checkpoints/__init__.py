"""Checkpoints: this project's own, and those of other programs.

A checkpoint is located (`locating`), read (`native`, or one of `importers`) and built (`loading`). `exporters` write
other programs' formats; `init_from` starts a training run from a checkpoint.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "CheckpointError": "safe_reading",
    "Description": "native",
    "describe": "loading",
    "files_of": "locating",
    "find_checkpoint": "locating",
    "load_denoiser": "loading",
    "load_described": "loading",
    "save_denoiser": "native",
    "save_weights": "native",
}


def __getattr__(name: str) -> Any:
    """Imports a name on first use, because the names of formats and presets need no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
