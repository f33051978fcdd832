"""State dicts (`torch.save(net.state_dict(), FILE)`) of EDM's `-vp` models, of the architecture "ddpmpp".

The published pickles contain code and are not read. Layers are named by side and resolution: `enc.16x16_down`,
`dec.32x32_block0`. A label's vector, times the square root of its size, passes through the linear layer `map_label` and
is added to the features of the noise level, before `map_layer0`; our networks merge the two layers.

Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from sdedit_pl.checkpoints.importers.checkpoint_format import CheckpointFormat, Imported, published_configuration
from sdedit_pl.checkpoints.importers.noise_conventions import edm_ve, numbered_classes
from sdedit_pl.checkpoints.importers.state_dict_import import ONLY, StoredTensors, import_network
from sdedit_pl.checkpoints.importers.tensor_mapping import TensorSource, attention_levels, layers, named_tensors, same
from sdedit_pl.checkpoints.safe_reading import CheckpointError, read_plain, tensor_names_in
from sdedit_pl.configuration import Component
from sdedit_pl.networks.unet import UNet

LABEL, LABEL_BIAS, AUGMENTATION = "map_label.weight", "map_label.bias", "map_augment.weight"
FIRST, FIRST_BIAS = "map_layer0.weight", "map_layer0.bias"
_PREFIX = "model."
_BLOCK = {
    "norm0": "norm_1",
    "conv0": "conv_1",
    "affine": "label_projection",
    "norm1": "norm_2",
    "conv1": "conv_2",
    "skip": "shortcut",
}
ACCEPTED_VALUES = {"embedding_type": "positional", "encoder_type": "standard", "decoder_type": "standard"}
"""Arguments of the published network, and the only values that are accepted."""


class EDMFormat(CheckpointFormat):
    """A state dict; `config` holds the network's `init_kwargs`, `{"img_resolution": 32, "label_dim": 10, ...}`."""

    def recognises(self, path: Path) -> bool:
        return bool({FIRST, _PREFIX + FIRST} & tensor_names_in(path))

    def _read(self, path: Path, weights: str, preset: str | None, config: Mapping[str, Any] | None) -> Imported:
        found = named_tensors(read_plain(path), f"the network in {path}")
        tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in found.items()}
        stored = StoredTensors(_folded(tensors), ONLY).without(AUGMENTATION, "editing does not augment images")
        for name in [name for name in tensors if name.endswith("resample_filter")]:
            stored = stored.without(name, "a fixed filter, which averages two pixels")
        configured = None if config is None else model_of(config)
        size = _resolution(tensors, path)
        return import_network(
            path, "edm", stored, partial(network_sources, size=size), preset=preset, configured=configured
        )


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translates the network's arguments; raises CheckpointError if our networks cannot express one."""
    for name, only in ACCEPTED_VALUES.items():
        if config.get(name, only) != only:
            raise CheckpointError(f"{name} must be {only!r} to be read, got {config[name]!r}")
    with published_configuration():
        size, multipliers = config["img_resolution"], config.get("channel_mult", [1, 2, 2, 2])
        resolutions = config.get("attn_resolutions", [16])
        network = {
            "name": "ncsnpp",
            "channels": config.get("model_channels", 128),
            "channel_multipliers": list(multipliers),
            "blocks_per_level": config.get("num_blocks", 4),
            "attention_levels": list(attention_levels(size, len(multipliers), resolutions)),
            "label_embedding": "positional",
            "fir": False,
        }
        condition = numbered_classes(config.get("label_dim", 0), drop=config.get("label_dropout", 0.0))
        image = {"size": size, "channels": config["img_channels"]}
        return {"image": image, "network": network, **edm_ve(config.get("sigma_data", 0.5)), **condition}


def network_sources(network: Component[UNet], *, size: int) -> dict[str, TensorSource]:
    count, levels = network.values["blocks_per_level"], len(network.values["channel_multipliers"])
    names = [f"{size // 2**level}x{size // 2**level}" for level in range(levels)]
    blocks = {f"dec.{names[-1]}_in0": "middle.0.residual", f"dec.{names[-1]}_in1": "middle.1.residual"}
    for level, name in enumerate(names):
        blocks |= {f"enc.{name}_block{index}": f"down.{level}.blocks.{index}.residual" for index in range(count)}
        blocks |= {f"dec.{name}_block{index}": f"up.{level}.blocks.{index}.residual" for index in range(count + 1)}
        if level:
            blocks[f"enc.{name}_down"] = f"down.{level - 1}.resample"
            blocks[f"dec.{names[level - 1]}_up"] = f"up.{level}.resample"
    renamed = {
        "map_layer0": "label_embedding.hidden",
        "map_layer1": "label_embedding.output",
        f"enc.{names[0]}_conv": "stem",
        f"dec.{names[0]}_aux_norm": "head.norm",
        f"dec.{names[0]}_aux_conv": "head.convolution",
    }
    sources = {"label_embedding.condition.weight": same(LABEL)}
    for theirs, ours in blocks.items():
        renamed |= {f"{theirs}.{their_layer}": f"{ours}.{our_layer}" for their_layer, our_layer in _BLOCK.items()}
        attention = ours.replace(".residual", ".attention")
        renamed |= {f"{theirs}.norm2": f"{attention}.norm", f"{theirs}.proj": f"{attention}.output"}
        for parameter in ("weight", "bias"):
            sources[f"{attention}.qkv.{parameter}"] = _interleaved(f"{theirs}.qkv.{parameter}")
    return sources | layers(renamed.items())


def _folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merges `map_label` into `map_layer0`: LABEL holds the product, and FIRST_BIAS both biases."""
    label, first, bias = (tensors.get(name) for name in (LABEL, FIRST, FIRST_BIAS))
    if label is None or first is None or bias is None:
        return dict(tensors)
    own = tensors.get(LABEL_BIAS, label.new_zeros(len(label)))
    if first.dim() != 2 or not first.shape[1:] == label.shape[:1] == own.shape:
        return dict(tensors)
    found = {name: tensor for name, tensor in tensors.items() if name != LABEL_BIAS}
    found[LABEL] = math.sqrt(label.shape[1]) * first.double().mm(label.double()).to(first.dtype)
    found[FIRST_BIAS] = bias + first.double().mv(own.double()).to(bias.dtype)
    return found


def _resolution(tensors: Mapping[str, Tensor], path: Path) -> int:
    for name in tensors:
        if name.startswith("enc.") and name.endswith("_conv.weight"):
            size = name.removeprefix("enc.").partition("x")[0]
            if size.isdecimal():
                return int(size)
    raise CheckpointError(f"{path} has no enc.SIZExSIZE_conv.weight, as EDM's networks of the architecture ddpmpp have")


def _interleaved(name: str) -> TensorSource:
    """Reorders rows from (channel, query | key | value) to (query | key | value, channel)."""
    return TensorSource((name,), lambda tensors: tensors[0].unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1))
