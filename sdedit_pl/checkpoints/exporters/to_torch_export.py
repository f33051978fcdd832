"""Export of `exported_function` to a `.pt2` file of torch.export, a graph that torch runs without this package.

    program = torch.export.load("model.pt2").module()
    x_0, score = program(x_t, t)

The graph is for the CPU; torch.export.passes.move_to_device_pass moves it.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from torch.export import Dim

from sdedit_pl.checkpoints.exporters.export_format import Export
from sdedit_pl.checkpoints.exporters.exported_function import (
    INPUTS,
    METADATA_KEY,
    Estimator,
    compare_with_denoiser,
    example_inputs,
)
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser


class TorchExport(Export):
    def write(self, denoiser: Denoiser, model: ModelConfig, out: Path) -> None:
        batch = Dim("batch")
        with torch.no_grad():
            program = torch.export.export(
                Estimator(denoiser), example_inputs(model, 2), dynamic_shapes={name: {0: batch} for name in INPUTS}
            )
        file = io.BytesIO()  # torch aborts on a full disk
        torch.export.save(program, file, extra_files={METADATA_KEY: json.dumps(model.as_data())})
        out.write_bytes(file.getbuffer())
        compare_with_denoiser(denoiser, model, torch.export.load(file).module())
