"""Checkpoints of openai/guided-diffusion and openai/improved-diffusion (`.pt`), the bare state dict of one network.

The lists `input_blocks` (down) and `output_blocks` (up) have an entry for each residual block and the layers that
follow it. The rows of `qkv` are grouped by head, or with `use_new_attention_order` by query, key and value, as ours
are. Row k of `label_emb` is added for class k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sdedit_pl.checkpoints.importers.checkpoint_format import CheckpointFormat, Imported
from sdedit_pl.checkpoints.importers.noise_conventions import discrete_vp, numbered_classes
from sdedit_pl.checkpoints.importers.state_dict_import import ONLY, StoredTensors, import_network
from sdedit_pl.checkpoints.importers.tensor_mapping import (
    TensorSource,
    attention_levels,
    layers,
    named_tensors,
    same,
    transposed,
)
from sdedit_pl.checkpoints.safe_reading import CheckpointError, read_plain, tensor_names_in
from sdedit_pl.configuration import Component, nearest
from sdedit_pl.networks.unet import UNet

NAME = "guided_diffusion"
CLASSES = "label_emb.weight"
"""A row for each class of a class-conditional network."""
DEFAULTS: dict[str, Any] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "class_cond": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "predict_xstart": False,
    "rescale_timesteps": False,
}
"""guided-diffusion's flags that define a model; improved-diffusion has rescale_timesteps=True."""
IRRELEVANT = (
    "batch_size",
    "clip_denoised",
    "model_path",
    "num_samples",
    "rescale_learned_sigmas",
    "sigma_small",
    "timestep_respacing",
    "use_checkpoint",
    "use_ddim",
    "use_fp16",
    "use_kl",
)
"""Flags of memory, training loss and sampling."""
MULTIPLIERS = {32: "1,2,2,2", 64: "1,2,3,4", 128: "1,1,2,3,4", 256: "1,1,2,2,4,4", 512: "1,1,2,2,4,4"}
"""Image size -> the default of `channel_mult`."""
_RENAMED = {
    "time_embed.0": "label_embedding.hidden",
    "time_embed.2": "label_embedding.output",
    "input_blocks.0.0": "stem",
    "out.0": "head.norm",
    "out.2": "head.convolution",
}
_BLOCK = {
    "in_layers.0": "norm_1",
    "in_layers.2": "conv_1",
    "emb_layers.1": "label_projection",
    "out_layers.0": "norm_2",
    "out_layers.3": "conv_2",
    "skip_connection": "shortcut",
}


class GuidedDiffusionFormat(CheckpointFormat):
    """`config` holds flags, such as {"image_size": 256, "attention_resolutions": "32,16,8"}; others are `DEFAULTS`."""

    def recognises(self, path: Path) -> bool:
        names = tensor_names_in(path)
        return {f"{name}.weight" for name in _RENAMED} <= names

    def _read(self, path: Path, weights: str, preset: str | None, config: Mapping[str, Any] | None) -> Imported:
        tensors = named_tensors(read_plain(path), f"the network in {path}")
        flags = None if config is None else read_flags(config)
        if flags is None:  # of the presets, 64x64_diffusion alone has the new order
            by_head = len(tensors.get("input_blocks.0.0.bias", ())) != 192
        else:
            by_head = not flags["use_new_attention_order"]
        return import_network(
            path,
            NAME,
            StoredTensors(tensors, ONLY),
            partial(network_sources, by_head=by_head),
            preset=preset,
            configured=None if flags is None else model_of(flags, len(tensors.get(CLASSES, range(1000)))),
        )


def read_flags(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a configuration, with `DEFAULTS` for absent ones; raises CheckpointError for what cannot be read."""
    for flag in config:
        if flag not in DEFAULTS and flag not in IRRELEVANT:
            known = nearest(str(flag), [*DEFAULTS, *IRRELEVANT])
            raise CheckpointError(f"guided-diffusion has no flag {flag!r}{known}")
    flags = {flag: _value(flag, config.get(flag, default)) for flag, default in DEFAULTS.items()}
    if flags["predict_xstart"]:
        raise CheckpointError("a network that estimates x_0 (predict_xstart=true) cannot be read")
    if flags["num_head_channels"] == -1 and flags["num_heads_upsample"] not in (-1, flags["num_heads"]):
        raise CheckpointError(
            f"num_heads_upsample={flags['num_heads_upsample']} with num_heads={flags['num_heads']}: this package's "
            "networks have the same heads on the way down and up"
        )
    if not flags["channel_mult"]:
        if flags["image_size"] not in MULTIPLIERS:
            raise CheckpointError(f"give channel_mult: it has no default for image_size={flags['image_size']}")
        flags["channel_mult"] = MULTIPLIERS[flags["image_size"]]
    return flags


def model_of(flags: Mapping[str, Any], classes: int = 0) -> dict[str, Any]:
    """Translates the flags from `read_flags`; raises CheckpointError if a value cannot be expressed."""
    size, head_channels = flags["image_size"], flags["num_head_channels"]
    multipliers, resolutions = (_numbers(flag, flags[flag]) for flag in ("channel_mult", "attention_resolutions"))
    heads = {"head_channels": None, "heads": flags["num_heads"]} if head_channels == -1 else {}
    network = {
        "name": "adm",
        "channels": flags["num_channels"],
        "channel_multipliers": multipliers,
        "blocks_per_level": flags["num_res_blocks"],
        "attention_levels": list(attention_levels(size, len(multipliers), resolutions)),
        "head_channels": head_channels,
        **heads,
        "modulate": flags["use_scale_shift_norm"],
        "block": "biggan" if flags["resblock_updown"] else "ddpm",
        "dropout": flags["dropout"],
    }
    condition = numbered_classes(classes) if flags["class_cond"] else {}
    return {"image": {"size": size, "channels": 3}, "network": network, **_convention(flags), **condition}


def network_sources(network: Component[UNet], *, by_head: bool) -> dict[str, TensorSource]:
    """Maps our tensors to those of the network "adm"; with `by_head`, rows of `qkv` are grouped by head."""
    arguments, renamed = network.values, [*_RENAMED.items()]
    sources: dict[str, TensorSource] = {}
    for theirs, ours, kind in _modules(arguments):
        if kind == "attention":
            width = arguments["channels"] * arguments["channel_multipliers"][_level(ours, arguments)]
            heads = width // arguments["head_channels"] if arguments["head_channels"] else arguments["heads"]
            renamed += [(f"{theirs}.norm", f"{ours}.norm"), (f"{theirs}.proj_out", f"{ours}.output")]
            for parameter in ("weight", "bias"):
                rows = f"{theirs}.qkv.{parameter}"
                sources[f"{ours}.qkv.{parameter}"] = _heads_together(rows, heads) if by_head else same(rows)
        elif kind in ("op", "conv"):
            renamed.append((f"{theirs}.{kind}", f"{ours}.convolution"))
        else:
            renamed += [(f"{theirs}.{their_layer}", f"{ours}.{our_layer}") for their_layer, our_layer in _BLOCK.items()]
    sources["label_embedding.condition.weight"] = transposed(CLASSES)
    return sources | layers(renamed)


def _heads_together(name: str, heads: int) -> TensorSource:
    """Reorders rows from (head, query | key | value, channel) to (query | key | value, head, channel)."""
    return TensorSource((name,), lambda tensors: tensors[0].unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2))


def _modules(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields (published name, our name, kind) of residual blocks, attentions and resampling layers (op, conv)."""
    blocks, last = arguments["blocks_per_level"], len(arguments["channel_multipliers"]) - 1
    down, up = ("residual", "residual") if arguments["block"] == "biggan" else ("op", "conv")
    entry = 1
    for level in range(last + 1):
        attends = level in arguments["attention_levels"]
        for block in range(blocks):
            yield from _block(f"input_blocks.{entry}", f"down.{level}.blocks.{block}", attends)
            entry += 1
        if level < last:
            yield f"input_blocks.{entry}.0", f"down.{level}.resample", down
            entry += 1
    yield from _block("middle_block", "middle.0", True)
    yield "middle_block.2", "middle.1.residual", "residual"
    entry = 0
    for level in reversed(range(last + 1)):
        attends = level in arguments["attention_levels"]
        for block in range(blocks + 1):
            yield from _block(f"output_blocks.{entry}", f"up.{level}.blocks.{block}", attends)
            if level and block == blocks:
                yield f"output_blocks.{entry}.{1 + attends}", f"up.{level}.resample", up
            entry += 1


def _block(theirs: str, ours: str, attends: bool) -> Iterator[tuple[str, str, str]]:
    yield f"{theirs}.0", f"{ours}.residual", "residual"
    if attends:
        yield f"{theirs}.1", f"{ours}.attention", "attention"


def _level(ours: str, arguments: Mapping[str, Any]) -> int:
    side, level, *_ = ours.split(".")
    return len(arguments["channel_multipliers"]) - 1 if side == "middle" else int(level)


def _convention(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The sections `sde` and `parameterisation`; linear betas are those of 1000 steps, times 1000 / steps."""
    steps, schedule = flags["diffusion_steps"], flags["noise_schedule"]
    if schedule not in ("linear", "cosine"):
        raise CheckpointError(f"noise_schedule must be linear or cosine, got {schedule!r}")
    scale = 1000 / steps
    betas = {"beta_start": 1e-4 * scale, "beta_end": 0.02 * scale} if schedule == "linear" else {}
    rescaled = flags["rescale_timesteps"]
    return discrete_vp(
        **betas,
        steps=steps,
        schedule=schedule,
        learned_variance=flags["learn_sigma"],
        index_scale=scale if rescaled else 1.0,
    )


def _value(flag: str, value: Any) -> Any:
    """A flag's value in the type of its default; numbers may be a list or comma-separated text."""
    default = DEFAULTS[flag]
    if isinstance(default, str) and isinstance(value, list | tuple):
        return ",".join(map(str, value))
    fits = isinstance(value, int | float) if isinstance(default, float) else type(value) is type(default)
    if not fits:
        raise CheckpointError(f"{flag} must have the type of its default, {default!r}, got {value!r}")
    return value


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise CheckpointError(f"{flag} must be whole numbers separated by commas, got {text!r}") from None
