"""Export to ONNX, for runtimes other than torch.

    session = onnxruntime.InferenceSession("model.onnx")
    x_0, score = session.run(["x_0", "score"], {"x_t": x_t, "t": t})

`exported_function` describes the function.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

from sdedit_pl.checkpoints.exporters.export_format import Export, ExportError
from sdedit_pl.checkpoints.exporters.exported_function import (
    INPUTS,
    METADATA_KEY,
    Estimator,
    compare_with_denoiser,
    example_inputs,
)
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser

OPSET = 18
LIBRARIES = ("onnx", "onnxruntime", "onnxscript")
LARGEST = 2**31 - 2**24
"""Maximum bytes of weights in one file: protobuf is limited to 2 GiB, which includes the graph."""


class ONNXExport(Export):
    def write(self, denoiser: Denoiser, model: ModelConfig, out: Path) -> None:
        absent = [library for library in LIBRARIES if find_spec(library) is None]
        if absent:
            raise ExportError(
                f"exporting to ONNX needs {', '.join(absent)}: pip install 'sdedit-pl[onnx]', or use "
                "format=torch_export, which needs torch alone"
            )
        size = sum(tensor.numel() * tensor.element_size() for tensor in denoiser.network.state_dict().values())
        if size > LARGEST:
            raise ExportError(
                f"an ONNX file holds up to 2 GiB, the weights are {size / 2**30:.1f} GiB; use format=torch_export"
            )
        import onnxruntime

        estimator = Estimator(denoiser)
        program = _program(estimator, example_inputs(model, 2))
        program.model.metadata_props[METADATA_KEY] = json.dumps(model.as_data())
        program.save(out, external_data=False)
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])

        def run(x_t: Tensor, t: Tensor) -> Sequence[Tensor]:
            outputs = session.run(list(estimator.outputs), {"x_t": x_t.numpy(), "t": t.numpy()})
            return [torch.from_numpy(output) for output in outputs]

        compare_with_denoiser(denoiser, model, run)


def _program(estimator: Estimator, inputs: tuple[Tensor, Tensor]) -> torch.onnx.ONNXProgram:
    batch = Dim("batch")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning that both inputs share the axis `batch`
            program = torch.onnx.export(
                estimator,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=list(estimator.outputs),
                dynamic_shapes={name: {0: batch} for name in INPUTS},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(
            f"torch cannot turn this model into ONNX ({type(error).__name__}); use format=torch_export, or another "
            "version of torch"
        ) from error
    assert program is not None
    return program
