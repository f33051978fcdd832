"""Reads networks out of checkpoints of yang-song/score_sde_pytorch: key maps, and nothing else.

That code keeps a network as one flat list of modules, `all_modules.N.*`, in the order of construction, so that N means
something only together with the configuration. Here the order is written down once, as a sequence of slots, each the
name of one of our modules and the kind of layer that it is.

Two layouts of linear maps occur: `NIN_k.W` is (in, out) where a 1 x 1 convolution's weight is (out, in, 1, 1), and
query, key and value are three layers where ours is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from sdedit_pl.checkpoints.layouts import Source, attention_levels, read_network, same, stacked, transposed

_UNTRAINED = re.compile(r"(module\.)?(sigmas|all_modules\.\d+\.W)")

Slot = tuple[str, str]
"""The name of one of our modules and its kind: a key of `_KINDS`, or "" for a module without parameters."""


def network_arguments(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Translates a published configuration to one of ours.

    Args:
        config: The published configuration's sections `model` and `data` as plain mappings.

    Returns:
        The network's name in `NETWORKS` and its constructor's arguments.

    Raises:
        ValueError: If the configuration lacks something or asks for something that our networks do not have.
    """
    try:
        return _arguments(config["model"], config["data"])
    except KeyError as error:
        raise ValueError(f"the published configuration lacks {error}") from error


def network_state(published: Mapping[str, Tensor], name: str, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Translates a published state dict to ours.

    Args:
        published: Tensors under `all_modules.N.*` or `module.all_modules.N.*`; `sigmas`, a table that belongs to the
            SDE, may be among them.
        name: The network's name, from `network_arguments`.
        arguments: Its constructor's arguments, from `network_arguments`.

    Returns:
        The network's state dict.

    Raises:
        ValueError: If the tensors are not those of that network, naming the first that differ.
    """
    tensors = {key.removeprefix("module."): tensor for key, tensor in published.items()}
    tensors.pop("sigmas", None)
    sources: dict[str, Source] = {}
    for number, (module, kind) in enumerate(_slots(name, arguments)):
        for ours, source in _KINDS[kind](f"all_modules.{number}.").items():
            sources[f"{module}.{ours}"] = source
    return read_network(tensors, sources, name, arguments)


def averaged_state(published: Mapping[str, Tensor], shadow_params: Sequence[Tensor]) -> dict[str, Tensor]:
    """Puts a checkpoint's averaged weights, which are stored without names, under their names.

    Args:
        published: The checkpoint's state dict under `model`, in its order.
        shadow_params: The checkpoint's list under `ema`: one tensor for each parameter that is trained.

    Returns:
        `published` with the averaged weights in place of the raw ones. The Fourier frequencies and `sigmas`, which are
        not trained and have no average, stay.

    Raises:
        ValueError: If the two do not belong together.
    """
    trained = [key for key in published if not _UNTRAINED.fullmatch(key)]
    if [published[key].shape for key in trained] != [tensor.shape for tensor in shadow_params]:
        raise ValueError(
            f"the checkpoint's {len(shadow_params)} averaged tensors do not match its {len(trained)} trained ones in "
            "number or shape; the file is not a checkpoint of score_sde_pytorch, or it was altered"
        )
    return {**published, **dict(zip(trained, shadow_params, strict=True))}


def _arguments(model: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    for option, supported in (("normalization", "groupnorm"), ("nonlinearity", "swish"), ("attention_type", "ddpm")):
        if str(model.get(option, supported)).lower() != supported:
            raise ValueError(f"model.{option} must be {supported!r} to be read, got {model[option]!r}")
    if not model.get("conditional", True):
        raise ValueError("model.conditional=false is not supported: our networks always take a label")
    arguments: dict[str, Any] = {
        "image_channels": data["num_channels"],
        "channels": model["nf"],
        "channel_multipliers": tuple(model["ch_mult"]),
        "blocks_per_level": model["num_res_blocks"],
        "attention_levels": attention_levels(data["image_size"], len(model["ch_mult"]), model["attn_resolutions"]),
        "dropout": float(model["dropout"]),
    }
    name = model["name"].lower()
    if name == "ddpm":
        return name, {**arguments, "resample_with_convolution": model["resamp_with_conv"], "attend_after": "level"}
    if name != "ncsnpp":
        raise ValueError(f"model.name must be 'ncsnpp' or 'ddpm' to be read, got {model['name']!r}")
    block, progressive_input = model["resblock_type"].lower(), model["progressive_input"].lower()
    return name, {
        **arguments,
        "label_embedding": model["embedding_type"].lower(),
        "fourier_scale": float(model["fourier_scale"]),
        "block": block,
        "fir": model["fir"],
        "fir_kernel": tuple(map(float, model["fir_kernel"])),
        "skip_rescale": model["skip_rescale"],
        "progressive": model["progressive"].lower(),
        "progressive_input": progressive_input,
        # Elsewhere the published code ignores this option, where ours refuses a contradiction.
        "progressive_combine": model["progressive_combine"].lower() if progressive_input == "input_skip" else "sum",
        "resample_with_convolution": model["resamp_with_conv"] if block == "ddpm" else True,
        "init_scale": float(model["init_scale"]),
    }


def _slots(name: str, arguments: Mapping[str, Any]) -> Iterator[Slot]:
    """Yields our modules in the order of the published list."""
    levels = range(len(arguments["channel_multipliers"]))
    blocks = arguments["blocks_per_level"]
    attending = arguments["attention_levels"]
    progressive = arguments.get("progressive", "none")
    progressive_input = arguments.get("progressive_input", "none")
    in_between = name == "ddpm" or arguments["block"] == "ddpm"
    residual = "ddpm block" if in_between else "biggan block"
    sampled = "fir convolution" if arguments.get("fir") else "convolution"
    if not in_between:
        resample = residual
    else:
        resample = sampled if arguments["resample_with_convolution"] else ""

    if arguments.get("label_embedding") == "fourier":
        yield "label_embedding.features", "fourier"
    yield "label_embedding.hidden", "plain"
    yield "label_embedding.output", "plain"
    yield "stem", "plain"
    for level in levels:
        for index in range(blocks):
            yield f"down.{level}.blocks.{index}.residual", residual
            if level in attending:
                yield f"down.{level}.blocks.{index}.attention", "attention"
        if level != levels[-1]:
            yield f"down.{level}.resample", resample
            if progressive_input == "input_skip":
                yield f"input_pyramid.{level}", "projection"
            elif progressive_input == "residual":
                yield f"input_pyramid.{level}.downsample", sampled
    yield "middle.0.residual", residual
    yield "middle.0.attention", "attention"
    yield "middle.1.residual", residual
    for level in reversed(levels):
        for index in range(blocks + 1):
            yield f"up.{level}.blocks.{index}.residual", residual
        if level in attending:
            yield f"up.{level}.blocks.{blocks}.attention", "attention"
        if progressive == "output_skip" or (progressive == "residual" and level == levels[-1]):
            yield f"output_pyramid.{level}.head.norm", "plain"
            yield f"output_pyramid.{level}.head.convolution", "plain"
        elif progressive == "residual":
            yield f"output_pyramid.{level}.upsample", sampled
        if level:
            yield f"up.{level}.resample", resample
    if progressive != "output_skip":
        yield "head.norm", "plain"
        yield "head.convolution", "plain"


def _layers(renamed: Mapping[str, str], prefix: str) -> dict[str, Source]:
    """Maps `weight` and `bias` of each published layer, {theirs: ours}; `NIN` layers are transposed."""
    sources: dict[str, Source] = {}
    for theirs, ours in renamed.items():
        nin = theirs.startswith("NIN")
        weight, bias = (f"{prefix}{theirs}.{name}" for name in (("W", "b") if nin else ("weight", "bias")))
        sources[f"{ours}.weight"] = transposed(weight) if nin else same(weight)
        sources[f"{ours}.bias"] = same(bias)
    return sources


def _attention(prefix: str) -> dict[str, Source]:
    projections: Sequence[str] = [f"{prefix}NIN_{index}" for index in range(3)]
    return {
        **_layers({"GroupNorm_0": "norm", "NIN_3": "output"}, prefix),
        "qkv.weight": stacked([transposed(f"{projection}.W") for projection in projections]),
        "qkv.bias": stacked([same(f"{projection}.b") for projection in projections]),
    }


_BLOCK = {
    "GroupNorm_0": "norm_1",
    "Conv_0": "conv_1",
    "Dense_0": "label_projection",
    "GroupNorm_1": "norm_2",
    "Conv_1": "conv_2",
}

_KINDS = {
    "": lambda prefix: {},
    "fourier": lambda prefix: {"frequencies": same(f"{prefix}W")},
    "plain": lambda prefix: {"weight": same(f"{prefix}weight"), "bias": same(f"{prefix}bias")},
    "convolution": lambda prefix: _layers({"Conv_0": "convolution"}, prefix),
    "fir convolution": lambda prefix: _layers({"Conv2d_0": "convolution"}, prefix),
    "projection": lambda prefix: _layers({"Conv_0": "projection"}, prefix),
    "biggan block": lambda prefix: _layers({**_BLOCK, "Conv_2": "shortcut"}, prefix),
    "ddpm block": lambda prefix: _layers({**_BLOCK, "NIN_0": "shortcut"}, prefix),
    "attention": _attention,
}
