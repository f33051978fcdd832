"""Checkpoints of ermongroup/SDEdit, ermongroup/ddim and pesser/pytorch_diffusion (`.ckpt`).

The layout is `down.i`, `mid` and `up.i`, where i is the level on both sides. Attentions are listed beside the blocks
that they follow, with 1 x 1 convolutions for query, key, value and output. Published files hold a bare state dict; the
trainer saves a list of state dict, optimiser, epoch, step and the averaged weights by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdedit_pl.checkpoints.importers.checkpoint_format import CheckpointFormat, Imported, published_configuration
from sdedit_pl.checkpoints.importers.noise_conventions import discrete_vp
from sdedit_pl.checkpoints.importers.state_dict_import import ONLY, StoredTensors, import_network
from sdedit_pl.checkpoints.importers.tensor_mapping import (
    TensorSource,
    attention,
    attention_levels,
    layers,
    named_tensors,
)
from sdedit_pl.checkpoints.safe_reading import CheckpointError, read_plain, tensor_names_in
from sdedit_pl.configuration import Component
from sdedit_pl.networks.unet import UNet

UNUSED = "logvar"
"""A tensor that "bayesian" networks have and never use."""
_SCHEDULES = {"linear": "linear", "quad": "scaled_linear"}

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


class DDIMFormat(CheckpointFormat):
    """`config` has the published sections `model`, `data` and `diffusion`."""

    def recognises(self, path: Path) -> bool:
        return "temb.dense.0.weight" in tensor_names_in(path)

    def _read(self, path: Path, weights: str, preset: str | None, config: Mapping[str, Any] | None) -> Imported:
        stored = _stored(path, read_plain(path), weights).without(UNUSED, "never used by the network that carries it")
        configured = None if config is None else model_of(config)
        return import_network(path, "ddim", stored, network_sources, preset=preset, configured=configured)


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translates a published configuration; raises CheckpointError if our networks cannot express it."""
    with published_configuration():
        model, size = config["model"], config["data"]["image_size"]
        image = {"size": size, "channels": model["in_channels"]}
        return {"image": image, "network": _network(model, size), **_convention(config["diffusion"])}


def network_sources(network: Component[UNet]) -> dict[str, TensorSource]:
    """Maps the tensors of a "ddpm" network to the published ones, without the prefix `module.`."""
    blocks = {"mid.block_1": "middle.0", "mid.block_2": "middle.1"}
    attentions, resamples = {"mid.attn_1": "middle.0.attention"}, {}
    count = network.values["blocks_per_level"]
    for level in range(len(network.values["channel_multipliers"])):
        for side, blocks_there in (("down", count), ("up", count + 1)):
            resamples[f"{side}.{level}.{side}sample.conv"] = f"{side}.{level}.resample.convolution"
            for index in range(blocks_there):
                blocks[f"{side}.{level}.block.{index}"] = f"{side}.{level}.blocks.{index}"
                if level in network.values["attention_levels"]:
                    attentions[f"{side}.{level}.attn.{index}"] = f"{side}.{level}.blocks.{index}.attention"
    residuals = {
        f"{theirs}.{their_layer}": f"{ours}.residual.{our_layer}"
        for theirs, ours in blocks.items()
        for their_layer, our_layer in _BLOCK.items()
    }
    sources = layers({**_RENAMED, **residuals, **resamples}.items())
    for theirs, ours in attentions.items():
        sources |= attention(theirs, ours, "norm", "qkv", "proj_out")
    return sources


def _stored(path: Path, saved: Any, weights: str) -> StoredTensors:
    if not isinstance(saved, list):
        return StoredTensors(named_tensors(saved, f"the network in {path}"), ONLY)
    if len(saved) not in (4, 5):
        raise CheckpointError(
            f"{path} is a list of {len(saved)}; the trainer of SDEdit and DDIM saves 5 things: network, optimiser, "
            "epoch, step and averaged weights (4 without an average)"
        )
    training = {"epochs": saved[2], "steps": saved[3]}
    training = {key: value for key, value in training.items() if isinstance(value, int)}
    raw = named_tensors(saved[0], f"the network in {path}")
    if weights == "raw":
        return StoredTensors(raw, weights, training)
    if len(saved) == 4:
        raise CheckpointError(f"{path} holds no averaged weights; weights=raw takes those it has")
    averaged = named_tensors(saved[4], f"the averaged weights in {path}")
    if missing := sorted(raw.keys() - averaged.keys() - {UNUSED}):
        raise CheckpointError(
            f"{path} holds {len(averaged)} averaged tensors for {len(raw)} trained ones, none for {missing[0]}; the "
            "file was altered; weights=raw takes the trained ones"
        )
    return StoredTensors(averaged, weights, training)


def _network(model: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    if model.get("type", "simple") not in ("simple", "bayesian"):
        raise CheckpointError(f"model.type must be 'simple' or 'bayesian' to be read, got {model['type']!r}")
    if model["in_channels"] != model["out_ch"]:
        raise CheckpointError(
            f"model.out_ch must be model.in_channels, {model['in_channels']}, to be read: one estimate of the noise "
            f"for each channel; got {model['out_ch']}"
        )
    return {
        "name": "ddpm",
        "channels": model["ch"],
        "channel_multipliers": list(model["ch_mult"]),
        "blocks_per_level": model["num_res_blocks"],
        "attention_levels": list(attention_levels(image_size, len(model["ch_mult"]), model["attn_resolutions"])),
        "attend_after": "block",
        "dropout": float(model["dropout"]),
        "resample_with_convolution": model["resamp_with_conv"],
    }


def _convention(diffusion: Mapping[str, Any]) -> dict[str, Any]:
    schedule = diffusion["beta_schedule"]
    if schedule not in _SCHEDULES:
        known = ", ".join(_SCHEDULES)
        raise CheckpointError(f"diffusion.beta_schedule must be one of {known} to be read, got {schedule!r}")
    ends = float(diffusion["beta_start"]), float(diffusion["beta_end"])
    return discrete_vp(*ends, diffusion["num_diffusion_timesteps"], _SCHEDULES[schedule])
