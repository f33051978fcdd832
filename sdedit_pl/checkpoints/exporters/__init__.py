"""Exporters to other programs' formats, one file each, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdedit_pl.checkpoints.exporters.export_format import Export

EXPORTS = {
    "diffusers": "to_diffusers.DiffusersExport",
    "onnx": "to_onnx.ONNXExport",
    "torch_export": "to_torch_export.TorchExport",
}
"""Name of a format -> module in this folder and class."""


def exporter(format: str) -> Export:
    module, _, name = EXPORTS[format].partition(".")
    return getattr(import_module(f"{__name__}.{module}"), name)()
