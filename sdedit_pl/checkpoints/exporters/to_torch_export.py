"""Export to a `.pt2` file of torch.export: a graph that torch runs without this package.

    program = torch.export.load("model.pt2").module()
    x_0, score = program(x_t, t)

`estimator` says what the function is. The file is made for CPUs; torch.export.passes.move_to_device_pass moves it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import Dim

from sdedit_pl.checkpoints.exporters.export_format import Export
from sdedit_pl.checkpoints.exporters.exported_function import (
    INPUTS,
    METADATA_KEY,
    Estimator,
    check,
    example,
    metadata,
)
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser


class TorchExport(Export):
    """The estimates as a torch.export program, for any size of the batch."""

    def write(self, denoiser: Denoiser, model: ModelConfig, out: Path) -> None:
        batch = Dim("batch")
        with torch.no_grad():
            program = torch.export.export(
                Estimator(denoiser), example(model, 2), dynamic_shapes={name: {0: batch} for name in INPUTS}
            )
        file = out.with_name(f"{out.name}.pt2")  # torch refuses other suffixes
        torch.export.save(program, file, extra_files={METADATA_KEY: metadata(model)})
        check(denoiser, model, torch.export.load(file).module())
        file.rename(out)
