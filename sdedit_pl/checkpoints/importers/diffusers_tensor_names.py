"""The names of tensors in diffusers' UNet2DModel, to and from our networks' names.

DownBlock2D, UpBlock2D and their variants with attention are our "ddpm"; those with Skip our "ncsnpp" with the pyramids
"input_skip" and "output_skip". `down_blocks` are numbered like our levels; `up_blocks` begin at the lowest resolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sdedit_pl.checkpoints.importers.tensor_mapping import TensorSource, attention, layers, same
from sdedit_pl.configuration import Component
from sdedit_pl.networks.unet import UNet

_RESIDUAL = {
    "norm1": "norm_1",
    "conv1": "conv_1",
    "time_emb_proj": "label_projection",
    "norm2": "norm_2",
    "conv2": "conv_2",
    "conv_shortcut": "shortcut",
}
_QKV, _OUTPUT = ("to_q", "to_k", "to_v"), "to_out.0"
_OLD_QKV, _OLD_OUTPUT = ("query", "key", "value"), "proj_attn"
"""Names of attention's layers before release 0.17."""
_LABEL = {"time_embedding.linear_1": "label_embedding.hidden", "time_embedding.linear_2": "label_embedding.output"}
_FREQUENCIES = ("time_proj.weight", "label_embedding.features.frequencies")


def network_sources(
    network: Component[UNet], *, old_names: bool = False, cosines_first: bool = False
) -> dict[str, TensorSource]:
    """Our tensors -> the published ones they are made of; `cosines_first` if the label's cosines precede its sines."""
    sources = layers(_layers(network))
    projections, output = (_OLD_QKV, _OLD_OUTPUT) if old_names else (_QKV, _OUTPUT)
    for theirs, ours in _attentions(network):
        sources |= attention(theirs, ours, "group_norm", projections, output)
    sources[_FREQUENCIES[1]] = same(_FREQUENCIES[0])
    if cosines_first:
        half = network.values["channels"] // 2

        def sines_first(tensors: Sequence[Tensor]) -> Tensor:
            cosines, sines, rest = tensors[0].tensor_split([half, 2 * half], dim=1)
            return torch.cat([sines, cosines, rest], dim=1)

        first = next(iter(_LABEL))
        sources[f"{_LABEL[first]}.weight"] = TensorSource((f"{first}.weight",), sines_first)
    return sources


def has_old_names(names: Iterable[str]) -> bool:
    """Whether attention layers are named as before diffusers 0.17."""
    return any(f".{_OLD_OUTPUT}." in name for name in names)


def without_copies(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Drops the second copy of the frequencies that the first releases saved; also returns dropped name -> reason."""
    first, second = _FREQUENCIES[0], "time_proj.W"
    if second not in tensors or first not in tensors or not torch.equal(tensors[first], tensors[second]):
        return dict(tensors), {}
    rest = {name: tensor for name, tensor in tensors.items() if name != second}
    return rest, {second: f"the same as {first}"}


def published_state(state: Mapping[str, Tensor], network: Component[UNet]) -> dict[str, Tensor]:
    """The inverse of `network_sources`, with sines before cosines."""
    sources = network_sources(network)
    assert state.keys() <= sources.keys(), f"without a name in diffusers: {sorted(state.keys() - sources.keys())}"
    published: dict[str, Tensor] = {}
    for ours, tensor in state.items():
        names = sources[ours].names
        for name, part in zip(names, tensor.chunk(len(names)), strict=True):
            # Our 1 x 1 convolutions in attention are linear layers there.
            published[name] = (part.flatten(1) if ".to_" in name and part.dim() > 1 else part).contiguous()
    return published


def _layers(network: Component[UNet]) -> Iterator[tuple[str, str]]:
    """Yields (published name, our name) of each layer outside attention that the network may have."""
    yield from _LABEL.items()
    yield "conv_in", "stem"
    for theirs, ours in _residuals(network):
        for their_layer, our_layer in _RESIDUAL.items():
            yield f"{theirs}.{their_layer}", f"{ours}.{our_layer}"
    lowest = len(network.values["channel_multipliers"]) - 1
    if network.name == "ddpm":
        yield from (("conv_norm_out", "head.norm"), ("conv_out", "head.convolution"))
        for level in range(lowest):
            yield f"down_blocks.{level}.downsamplers.0.conv", f"down.{level}.resample.convolution"
            yield f"up_blocks.{level}.upsamplers.0.conv", f"up.{lowest - level}.resample.convolution"
        return
    heads = {"": "output_pyramid.0"}
    for level in range(lowest):
        yield f"down_blocks.{level}.skip_conv", f"input_pyramid.{level}.projection"
        heads[f"up_blocks.{level}."] = f"output_pyramid.{lowest - level}"
    for theirs, ours in heads.items():
        norm, convolution = ("skip_norm", "skip_conv") if theirs else ("conv_norm_out", "conv_out")
        yield f"{theirs}{norm}", f"{ours}.head.norm"
        yield f"{theirs}{convolution}", f"{ours}.head.convolution"


def _residuals(network: Component[UNet]) -> Iterator[tuple[str, str]]:
    levels, blocks = len(network.values["channel_multipliers"]), network.values["blocks_per_level"]
    for index in range(2):
        yield f"mid_block.resnets.{index}", f"middle.{index}.residual"
    for level in range(levels):
        above = levels - 1 - level
        for index in range(blocks):
            yield f"down_blocks.{level}.resnets.{index}", f"down.{level}.blocks.{index}.residual"
        for index in range(blocks + 1):
            yield f"up_blocks.{level}.resnets.{index}", f"up.{above}.blocks.{index}.residual"
        if network.name == "ncsnpp" and above:
            yield f"down_blocks.{level}.resnet_down", f"down.{level}.resample"
            yield f"up_blocks.{level}.resnet_up", f"up.{above}.resample"


def _attentions(network: Component[UNet]) -> Iterator[tuple[str, str]]:
    lowest, blocks = len(network.values["channel_multipliers"]) - 1, network.values["blocks_per_level"]
    yield "mid_block.attentions.0", "middle.0.attention"
    for level in network.values["attention_levels"]:
        for index in range(blocks):
            yield f"down_blocks.{level}.attentions.{index}", f"down.{level}.blocks.{index}.attention"
        attending = range(blocks + 1) if network.name == "ddpm" else [blocks]
        for number, index in enumerate(attending):
            yield f"up_blocks.{lowest - level}.attentions.{number}", f"up.{level}.blocks.{index}.attention"
