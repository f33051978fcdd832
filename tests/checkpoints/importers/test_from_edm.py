"""EDM's state dicts: the published network restated as one function of its tensors, with its labels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.denoisers import denoiser_of, relative_error
from torch import Tensor
from torch.nn import functional as F

from sdedit_pl.checkpoints.importers.from_edm import EDMFormat, model_of
from sdedit_pl.checkpoints.importers.presets import PRESETS
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser

CONFIG = {
    **{"img_resolution": 8, "img_channels": 3, "label_dim": 5, "model_channels": 16, "channel_mult": [1, 2]},
    **{"num_blocks": 1, "attn_resolutions": [4], "augment_dim": 9, "model_type": "SongUNet"},
}
BLOCKS = {  # name -> channels in, channels out, attention, resampling
    "enc.8x8_block0": (16, 16, False, None),
    "enc.4x4_down": (16, 16, False, "down"),
    "enc.4x4_block0": (16, 32, True, None),
    "dec.4x4_in0": (32, 32, True, None),
    "dec.4x4_in1": (32, 32, False, None),
    "dec.4x4_block0": (64, 32, False, None),
    "dec.4x4_block1": (48, 32, True, None),
    "dec.8x8_up": (32, 32, False, "up"),
    "dec.8x8_block0": (48, 16, False, None),
    "dec.8x8_block1": (32, 16, False, None),
}
"""Of the network of CONFIG, in the order of evaluation."""


def random_tensors() -> dict[str, Tensor]:
    """A state dict of the published names and shapes, filled with random numbers."""
    shapes: dict[str, tuple[int, ...]] = {"map_augment.weight": (16, 9)}

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    layer("map_label", 16, 5)
    layer("map_layer0", 64, 16)
    layer("map_layer1", 64, 64)
    layer("enc.8x8_conv", 16, 3, 3, 3)
    layer("dec.8x8_aux_norm", 16)
    layer("dec.8x8_aux_conv", 3, 16, 3, 3)
    for name, (inside, outside, attends, resample) in BLOCKS.items():
        layer(f"{name}.norm0", inside)
        layer(f"{name}.conv0", outside, inside, 3, 3)
        layer(f"{name}.affine", outside, 64)
        layer(f"{name}.norm1", outside)
        layer(f"{name}.conv1", outside, outside, 3, 3)
        if resample or inside != outside:
            layer(f"{name}.skip", outside, inside, 1, 1)
        if attends:
            layer(f"{name}.norm2", outside)
            layer(f"{name}.qkv", 3 * outside, outside, 1, 1)
            layer(f"{name}.proj", outside, outside, 1, 1)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        fan = math.prod(shape[1:])
        tensors[f"model.{name}"] = noise / math.sqrt(fan) if len(shape) > 1 else name.endswith("weight") + 0.2 * noise
    return {**tensors, "model.enc.4x4_down.conv0.resample_filter": torch.full((1, 1, 2, 2), 0.25)}


def song_unet(tensors: dict[str, Tensor], x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
    """The network's output for images `x`, their noise labels and the vectors of their classes."""

    def conv(name: str, h: Tensor) -> Tensor:
        weight = tensors[f"model.{name}.weight"]
        return F.conv2d(h, weight, tensors[f"model.{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(name: str, h: Tensor) -> Tensor:
        groups = min(32, h.shape[1] // 4)
        return F.group_norm(h, groups, tensors[f"model.{name}.weight"], tensors[f"model.{name}.bias"], eps=1e-6)

    def linear(name: str, vector: Tensor) -> Tensor:
        return F.linear(vector, tensors[f"model.{name}.weight"], tensors[f"model.{name}.bias"])

    phases = noise[:, None] * torch.tensor([10000 ** (-k / 7) for k in range(8)])
    vector = torch.cat([phases.sin(), phases.cos()], 1)
    vector = vector + linear("map_label", labels * math.sqrt(5))
    vector = F.silu(linear("map_layer1", F.silu(linear("map_layer0", vector))))

    def block(name: str, h: Tensor) -> Tensor:
        def resampled(part: Tensor) -> Tensor:
            how = BLOCKS[name][3]
            return F.avg_pool2d(part, 2) if how == "down" else F.interpolate(part, scale_factor=2) if how else part

        inner = conv(f"{name}.conv0", resampled(F.silu(norm(f"{name}.norm0", h))))
        inner = inner + linear(f"{name}.affine", vector).unsqueeze(2).unsqueeze(3)
        inner = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", inner)))
        skip = resampled(h)
        h = (inner + (conv(f"{name}.skip", skip) if f"model.{name}.skip.weight" in tensors else skip)) * math.sqrt(0.5)
        if not BLOCKS[name][2]:
            return h
        query, key, value = conv(f"{name}.qkv", norm(f"{name}.norm2", h)).flatten(2).unflatten(1, (-1, 3)).unbind(2)
        weight = (query.transpose(1, 2) @ key / math.sqrt(h.shape[1])).softmax(2)
        mixed = (value @ weight.transpose(1, 2)).unflatten(2, h.shape[2:])
        return (conv(f"{name}.proj", mixed) + h) * math.sqrt(0.5)

    h = conv("enc.8x8_conv", x)
    kept = [h]
    for name in BLOCKS:
        if name.startswith("dec") and "block" in name:
            h = torch.cat([h, kept.pop()], 1)
        h = block(name, h)
        if name.startswith("enc"):
            kept.append(h)
    return conv("dec.8x8_aux_conv", F.silu(norm("dec.8x8_aux_norm", h)))


def read(folder: Path, tensors: dict[str, Tensor], **changes: object) -> Denoiser:
    torch.save(tensors, folder / "edm.pt")
    assert EDMFormat().recognises(folder / "edm.pt")
    imported = EDMFormat().read(folder / "edm.pt", config={**CONFIG, **changes})
    assert "model.map_augment.weight" not in imported.used and "map_augment.weight" in imported.ignored
    return denoiser_of(imported)


def test_estimates_are_the_published_ones_for_each_class_and_for_none(tmp_path: Path) -> None:
    """D(x) = c_skip x + c_out F(c_in x, ln(sigma) / 4, label), with sigma_data = 0.5."""
    tensors = random_tensors()
    denoiser, x = read(tmp_path, tensors, label_dropout=0.1), torch.randn(3, 3, 8, 8)
    sigma = torch.tensor([0.02, 1.0, 40.0])
    t = denoiser.sde.time_at_noise_level(sigma)
    total = (sigma.square() + 0.25)[:, None, None, None]
    labels = F.one_hot(torch.tensor([4, 0, 2]), 5).float()
    for vectors, model in ((labels, denoiser.labelled(["4", "0", "2"])), (torch.zeros(3, 5), denoiser)):
        with torch.no_grad():
            output = song_unet(tensors, x / total.sqrt(), sigma.log() / 4, vectors)
            expected = 0.25 / total * x + 0.5 * (total - 0.25).sqrt() / total.sqrt() * output
            assert relative_error(model(x, t), expected) < 1e-4


def test_the_published_model_is_the_preset() -> None:
    published = {"img_resolution": 32, "img_channels": 3, "label_dim": 10, "channel_mult": [2, 2, 2]}
    model = ModelConfig.from_data(model_of(published))
    assert model == ModelConfig.from_data(PRESETS["edm-cifar10-32x32-cond-vp"].model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_type": "residual"}, "encoder_type must be 'standard' to be read, got 'residual'"),
        ({"label_dim": 0}, r"not expected map_label\.weight"),
        ({"label_dim": 6}, "map_label.weight should give"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, random_tensors(), **changes)
