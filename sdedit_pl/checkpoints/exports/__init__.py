"""Exports: this project's denoisers in the forms of other programs.

Adding one: a class deriving from `Export` in a file of its own, and its line in `EXPORTS`.
"""

from __future__ import annotations

from sdedit_pl.checkpoints.exports.base import Export, ExportError
from sdedit_pl.checkpoints.exports.diffusers_folder import DiffusersExport
from sdedit_pl.checkpoints.exports.onnx import ONNXExport
from sdedit_pl.checkpoints.exports.torch_export import TorchExport

EXPORTS: dict[str, type[Export]] = {
    "diffusers": DiffusersExport,
    "onnx": ONNXExport,
    "torch_export": TorchExport,
}

__all__ = ["EXPORTS", "Export", "ExportError"]
