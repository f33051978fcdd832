"""The U-Net of guided-diffusion restated as one flat function of its tensors, under their published names.

It shares no code with the package. Tests compare the network and the importer of its checkpoints with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Guided:
    """The published program's options that define its network, under its names, and the image's channels."""

    image_size: int = 16
    num_channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2)
    num_res_blocks: int = 1
    attention_resolutions: tuple[int, ...] = (8,)
    num_heads: int = 4
    num_head_channels: int = -1
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    learn_sigma: bool = True
    image_channels: int = 3
    classes: int = 0

    @property
    def out_channels(self) -> int:
        return self.image_channels * (2 if self.learn_sigma else 1)

    def config(self) -> dict[str, object]:
        """The flags of the program's command line."""
        return {
            "image_size": self.image_size,
            "num_channels": self.num_channels,
            "channel_mult": ",".join(map(str, self.channel_mult)),
            "num_res_blocks": self.num_res_blocks,
            "attention_resolutions": ",".join(map(str, self.attention_resolutions)),
            "num_heads": self.num_heads,
            "num_head_channels": self.num_head_channels,
            "use_scale_shift_norm": self.use_scale_shift_norm,
            "resblock_updown": self.resblock_updown,
            "use_new_attention_order": self.use_new_attention_order,
            "learn_sigma": self.learn_sigma,
            "class_cond": self.classes > 0,
            "diffusion_steps": 1000,
            "noise_schedule": "linear",
        }


def plan(options: Guided) -> list[tuple[str, str, int, int]]:
    """The layers in order, as (name, kind, channels in, channels out) with kind conv, res, down, up or attn.

    A name's last number counts the layers within an entry of input_blocks or output_blocks.
    """
    base, levels = options.num_channels, len(options.channel_mult)
    steps = [("input_blocks.0.0", "conv", options.image_channels, base)]
    kept, width, entry = [base], base, 1
    for level, multiple in enumerate(options.channel_mult):
        attends = options.image_size // 2**level in options.attention_resolutions
        for _ in range(options.num_res_blocks):
            steps.append((f"input_blocks.{entry}.0", "res", width, base * multiple))
            width = base * multiple
            if attends:
                steps.append((f"input_blocks.{entry}.1", "attn", width, width))
            kept.append(width)
            entry += 1
        if level < levels - 1:
            steps.append((f"input_blocks.{entry}.0", "down", width, width))
            kept.append(width)
            entry += 1
    steps += [(f"middle_block.{i}", kind, width, width) for i, kind in enumerate(("res", "attn", "res"))]
    entry = 0
    for level in reversed(range(levels)):
        attends = options.image_size // 2**level in options.attention_resolutions
        for block in range(options.num_res_blocks + 1):
            target = base * options.channel_mult[level]
            steps.append((f"output_blocks.{entry}.0", "res", width + kept.pop(), target))
            width = target
            if attends:
                steps.append((f"output_blocks.{entry}.1", "attn", width, width))
            if level and block == options.num_res_blocks:
                steps.append((f"output_blocks.{entry}.{1 + attends}", "up", width, width))
            entry += 1
    return steps


def random_tensors(options: Guided, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of the published names and shapes, filled with random numbers, none of them zero."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    embedding = 4 * options.num_channels
    layer("time_embed.0", embedding, options.num_channels)
    layer("time_embed.2", embedding, embedding)
    for name, kind, inside, outside in plan(options):
        if kind == "conv":
            layer(name, outside, inside, 3, 3)
        elif kind == "attn":
            layer(f"{name}.norm", inside)
            layer(f"{name}.qkv", 3 * inside, inside, 1)
            layer(f"{name}.proj_out", inside, inside, 1)
        elif kind == "res" or options.resblock_updown:
            layer(f"{name}.in_layers.0", inside)
            layer(f"{name}.in_layers.2", outside, inside, 3, 3)
            layer(f"{name}.emb_layers.1", outside * (2 if options.use_scale_shift_norm else 1), embedding)
            layer(f"{name}.out_layers.0", outside)
            layer(f"{name}.out_layers.3", outside, outside, 3, 3)
            if inside != outside:
                layer(f"{name}.skip_connection", outside, inside, 1, 1)
        else:
            layer(f"{name}.op" if kind == "down" else f"{name}.conv", outside, inside, 3, 3)
    layer("out.0", options.num_channels)
    layer("out.2", options.out_channels, options.num_channels, 3, 3)
    if options.classes:
        shapes["label_emb.weight"] = (options.classes, embedding)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        fan = math.prod(shape[1:])
        tensors[name] = noise / math.sqrt(fan) if fan > 1 else (name.endswith("weight")) + 0.2 * noise
    return tensors


def guided_unet(
    tensors: dict[str, Tensor], options: Guided, x: Tensor, index: Tensor, classes: Tensor | None = None
) -> Tensor:
    """The network's output for images `x` of `classes` and the indices `index`, 0 to 999, of their noise levels."""

    def linear(name: str, vector: Tensor) -> Tensor:
        return F.linear(vector, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def conv(name: str, h: Tensor, **how: int) -> Tensor:
        return F.conv2d(h, tensors[f"{name}.weight"], tensors[f"{name}.bias"], **how)

    def norm(name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, 32, tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-5)

    half = options.num_channels // 2
    phases = index[:, None] * torch.tensor([10000 ** (-k / half) for k in range(half)])
    vector = torch.cat([phases.cos(), phases.sin()], dim=1)
    vector = linear("time_embed.2", F.silu(linear("time_embed.0", vector)))
    if classes is not None:
        vector = vector + tensors["label_emb.weight"][classes]

    def res(name: str, h: Tensor, resample: str | None) -> Tensor:
        inner = F.silu(norm(f"{name}.in_layers.0", h))
        if resample == "down":
            inner, h = F.avg_pool2d(inner, 2), F.avg_pool2d(h, 2)
        elif resample == "up":
            inner, h = F.interpolate(inner, scale_factor=2), F.interpolate(h, scale_factor=2)
        inner = conv(f"{name}.in_layers.2", inner, padding=1)
        label = linear(f"{name}.emb_layers.1", F.silu(vector)).unsqueeze(2).unsqueeze(3)
        if options.use_scale_shift_norm:
            scale, shift = label.split(inner.shape[1], dim=1)
            inner = norm(f"{name}.out_layers.0", inner) * (1 + scale) + shift
        else:
            inner = norm(f"{name}.out_layers.0", inner + label)
        inner = conv(f"{name}.out_layers.3", F.silu(inner), padding=1)
        return (conv(f"{name}.skip_connection", h) if f"{name}.skip_connection.weight" in tensors else h) + inner

    def attention(name: str, h: Tensor) -> Tensor:
        batch, channels, height, width = h.shape
        heads = options.num_heads if options.num_head_channels == -1 else channels // options.num_head_channels
        flat = norm(f"{name}.norm", h).reshape(batch, channels, -1)
        qkv = F.conv1d(flat, tensors[f"{name}.qkv.weight"], tensors[f"{name}.qkv.bias"])
        size = channels // heads
        results = []
        for head in range(heads):
            if options.use_new_attention_order:  # all queries, all keys, all values
                starts = [part * channels + head * size for part in range(3)]
            else:  # each head's query, key and value
                starts = [(3 * head + part) * size for part in range(3)]
            query, key, value = (qkv[:, start : start + size] for start in starts)
            weight = (query.transpose(1, 2) @ key / math.sqrt(size)).softmax(dim=2)
            results.append(value @ weight.transpose(1, 2))
        mixed = F.conv1d(torch.cat(results, 1), tensors[f"{name}.proj_out.weight"], tensors[f"{name}.proj_out.bias"])
        return h + mixed.reshape(batch, channels, height, width)

    def run(name: str, kind: str, h: Tensor) -> Tensor:
        if kind == "conv":
            return conv(name, h, padding=1)
        if kind == "attn":
            return attention(name, h)
        if kind == "res" or options.resblock_updown:
            return res(name, h, None if kind == "res" else kind)
        if kind == "down":
            return conv(f"{name}.op", h, stride=2, padding=1)
        return conv(f"{name}.conv", F.interpolate(h, scale_factor=2), padding=1)

    h, kept = x, []
    steps = plan(options)
    for position, (name, kind, _, _) in enumerate(steps):
        if name.startswith("output_blocks") and name.endswith(".0"):
            h = torch.cat([h, kept.pop()], dim=1)
        h = run(name, kind, h)
        entry = name.rpartition(".")[0]
        ends = position + 1 == len(steps) or steps[position + 1][0].rpartition(".")[0] != entry
        if name.startswith("input_blocks") and ends:
            kept.append(h)
    return conv("out.2", F.silu(norm("out.0", h)), padding=1)
