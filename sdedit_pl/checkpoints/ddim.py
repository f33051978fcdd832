"""Reads networks out of checkpoints of ermongroup/SDEdit, ermongroup/ddim and pesser: key maps, and nothing else.

One layout: `down.i`, `mid` and `up.i` (i is the level on both sides), attention beside the blocks it follows, 1 x 1
convolutions for query, key, value and output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from sdedit_pl.checkpoints.layouts import Source, attention_levels, read_network, same, stacked

_BLOCK = {
    "norm1": "norm_1",
    "conv1": "conv_1",
    "temb_proj": "label_projection",
    "norm2": "norm_2",
    "conv2": "conv_2",
    "nin_shortcut": "shortcut",
}
_RENAMED = {
    "temb.dense.0": "label_embedding.hidden",
    "temb.dense.1": "label_embedding.output",
    "conv_in": "stem",
    "norm_out": "head.norm",
    "conv_out": "head.convolution",
}


def network_arguments(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Translates a published configuration to one of ours.

    Args:
        config: The published configuration's sections `model` and `data` as plain mappings.

    Returns:
        The network's name in `NETWORKS` and its constructor's arguments.

    Raises:
        ValueError: If the configuration lacks something or is of another type of network.
    """
    try:
        return _arguments(config["model"], config["data"])
    except KeyError as error:
        raise ValueError(f"the published configuration lacks {error}") from error


def network_state(published: Mapping[str, Tensor], name: str, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Translates a published state dict to ours.

    Args:
        published: The tensors by name, with or without the prefix `module.`; `logvar`, which "bayesian" networks carry
            and do not use, may be among them.
        name: The network's name, from `network_arguments`.
        arguments: Its constructor's arguments, from `network_arguments`.

    Returns:
        The network's state dict.

    Raises:
        ValueError: If the tensors are not those of that network, naming the first that differ.
    """
    tensors = {key.removeprefix("module."): tensor for key, tensor in published.items()}
    tensors.pop("logvar", None)
    sources: dict[str, Source] = {}
    for theirs, ours in _layers(arguments):
        for parameter in ("weight", "bias"):
            sources[f"{ours}.{parameter}"] = same(f"{theirs}.{parameter}")
    for theirs, ours in _attentions(arguments):
        for parameter in ("weight", "bias"):
            projections = [same(f"{theirs}.{projection}.{parameter}") for projection in "qkv"]
            sources[f"{ours}.norm.{parameter}"] = same(f"{theirs}.norm.{parameter}")
            sources[f"{ours}.qkv.{parameter}"] = stacked(projections)
            sources[f"{ours}.output.{parameter}"] = same(f"{theirs}.proj_out.{parameter}")
    return read_network(tensors, sources, name, arguments)


def _arguments(model: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if model.get("type", "simple") not in ("simple", "bayesian"):
        raise ValueError(f"model.type must be 'simple' or 'bayesian' to be read, got {model['type']!r}")
    return "ddpm", {
        "image_channels": model["in_channels"],
        "output_channels": model["out_ch"],
        "channels": model["ch"],
        "channel_multipliers": tuple(model["ch_mult"]),
        "blocks_per_level": model["num_res_blocks"],
        "attention_levels": attention_levels(data["image_size"], len(model["ch_mult"]), model["attn_resolutions"]),
        "attend_after": "block",
        "dropout": float(model["dropout"]),
        "resample_with_convolution": model["resamp_with_conv"],
    }


def _blocks(arguments: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yields (side, level, index) of every block outside the middle."""
    for level in range(len(arguments["channel_multipliers"])):
        for side, count in (("down", arguments["blocks_per_level"]), ("up", arguments["blocks_per_level"] + 1)):
            for index in range(count):
                yield side, level, index


def _layers(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (their name, our name) of every layer outside attention that the network might have."""
    yield from _RENAMED.items()
    blocks = [("mid.block_1", "middle.0"), ("mid.block_2", "middle.1")]
    blocks += [
        (f"{side}.{level}.block.{index}", f"{side}.{level}.blocks.{index}") for side, level, index in _blocks(arguments)
    ]
    for theirs, ours in blocks:
        for their_layer, our_layer in _BLOCK.items():
            yield f"{theirs}.{their_layer}", f"{ours}.residual.{our_layer}"
    for level in range(len(arguments["channel_multipliers"])):
        for side in ("down", "up"):
            yield f"{side}.{level}.{side}sample.conv", f"{side}.{level}.resample.convolution"


def _attentions(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (their name, our name) of every attention."""
    yield "mid.attn_1", "middle.0.attention"
    for side, level, index in _blocks(arguments):
        if level in arguments["attention_levels"]:
            yield f"{side}.{level}.attn.{index}", f"{side}.{level}.blocks.{index}.attention"
