"""Checkpoints of yang-song/score_sde_pytorch (`.pth`): a trainer's dictionary, or a network's state dict.

A network there is one flat list of modules, `all_modules.N.*`, in the order of construction, which `_slots` yields.
`NIN_k.W` is (in, out) where a 1 x 1 convolution's weight is (out, in, 1, 1). Query, key and value are separate layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sdedit_pl.checkpoints.importers.checkpoint_format import CheckpointFormat, Imported, published_configuration
from sdedit_pl.checkpoints.importers.noise_conventions import continuous_ve, continuous_vp, discrete_ve, discrete_vp
from sdedit_pl.checkpoints.importers.presets import CENTERED, UNIT
from sdedit_pl.checkpoints.importers.state_dict_import import ONLY, StoredTensors, import_network
from sdedit_pl.checkpoints.importers.tensor_mapping import (
    Difference,
    TensorSource,
    attention_levels,
    named_tensors,
    same,
    stacked,
    transposed,
)
from sdedit_pl.checkpoints.safe_reading import CheckpointError, read_plain, tensor_names_in
from sdedit_pl.configuration import Component
from sdedit_pl.networks.unet import UNet

TABLE = "sigmas"
"""The table of noise levels that a published network carries. It belongs to the SDE."""
_OWN_NAME = re.compile(r"all_modules\.\d+\..+")
_UNTRAINED = re.compile(rf"({TABLE}|all_modules\.\d+\.W)")

Slot = tuple[str, str]
"""(name of one of our modules, its kind as a key of `_KINDS`)."""


class ScoreSDEFormat(CheckpointFormat):
    """`config` has the published sections `model`, `data` and `training`."""

    def recognises(self, path: Path) -> bool:
        return any(_OWN_NAME.fullmatch(name) for name in tensor_names_in(path))

    def _read(self, path: Path, weights: str, preset: str | None, config: Mapping[str, Any] | None) -> Imported:
        stored = _stored(path, read_plain(path), weights)
        table = stored.tensors.get(TABLE)
        return import_network(
            path,
            "score_sde",
            stored.without(TABLE, "the SDE's table of noise levels, which the model's configuration contains"),
            network_sources,
            preset=preset,
            configured=None if config is None else model_of(config),
            data_range=CENTERED if config is None or config["data"]["centered"] else UNIT,
            refine=lambda found, model: with_sigmas_compared(found, model, table),
        )


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translates a published configuration; raises CheckpointError if our networks cannot express it."""
    with published_configuration():
        model, data, training = config["model"], config["data"], config["training"]
        image = {"size": data["image_size"], "channels": data["num_channels"]}
        return {"image": image, "network": _network(model, data), **_convention(model, data, training)}


def network_sources(network: Component[UNet]) -> dict[str, TensorSource]:
    """Maps our tensors to the published ones, without the prefix `module.`."""
    return {
        f"{module}.{ours}": source
        for number, (module, kind) in enumerate(_slots(network))
        for ours, source in _KINDS[kind](f"all_modules.{number}.").items()
    }


def _averaged_state(published: Mapping[str, Tensor], shadow_params: Sequence[Tensor]) -> dict[str, Tensor]:
    """A state dict with the averages of the trained parameters, in their order; frequencies and `sigmas` have none."""
    trained = [key for key in published if not _UNTRAINED.fullmatch(key)]
    if [published[key].shape for key in trained] != [tensor.shape for tensor in shadow_params]:
        raise CheckpointError(
            f"the checkpoint's {len(shadow_params)} averaged tensors do not match its {len(trained)} trained ones in "
            "number or shape; the file is not a checkpoint of score_sde_pytorch, or it was altered"
        )
    return {**published, **dict(zip(trained, shadow_params, strict=True))}


def _stored(path: Path, saved: Any, weights: str) -> StoredTensors:
    if not isinstance(saved, Mapping) or "model" not in saved:
        return StoredTensors(named_tensors(saved, f"the network in {path}"), ONLY)
    average = saved.get("ema")
    average = average if isinstance(average, Mapping) else {}
    facts = {"steps": saved.get("step"), "ema_decay": average.get("decay"), "ema_updates": average.get("num_updates")}
    training = {key: value for key, value in facts.items() if isinstance(value, int | float)}
    raw = named_tensors(saved["model"], f"the network in {path}")
    if weights == "raw":
        return StoredTensors(raw, weights, training)
    shadow = average.get("shadow_params")
    if not isinstance(shadow, Sequence) or not all(isinstance(tensor, Tensor) for tensor in shadow):
        raise CheckpointError(f"{path} holds no averaged weights; weights=raw takes those under `model`")
    return StoredTensors(_averaged_state(raw, shadow), weights, training)


def with_sigmas_compared(found: Difference, model: Mapping[str, Any], table: Tensor | None) -> Difference:
    """Compares the file's falling sigmas, which are half of ours on images in [0, 1], with those of a VE model."""
    if table is None or table.dim() != 1 or model["sde"]["name"] != "ve":
        return found
    largest = model["sde"]["sigma_max"] / table[0].item()
    if any(math.isclose(largest, width, rel_tol=1e-4) for width in (1, 2)):
        return found
    sentence = f"{TABLE} begins with {table[0].item():g} (twice that on images in [-1, 1]) where the model's sigma_max "
    return replace(found, misshapen=[*found.misshapen, f"{sentence}is {model['sde']['sigma_max']:g}"])


def _network(model: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    for option, supported in (("normalization", "groupnorm"), ("nonlinearity", "swish"), ("attention_type", "ddpm")):
        if str(model.get(option, supported)).lower() != supported:
            raise CheckpointError(f"model.{option} must be {supported!r} to be read, got {model[option]!r}")
    if not model.get("conditional", True):
        raise CheckpointError("model.conditional=false is not supported: our networks always take a label")
    name = model["name"].lower()
    multipliers = list(model["ch_mult"])
    arguments: dict[str, Any] = {
        "name": name,
        "channels": model["nf"],
        "channel_multipliers": multipliers,
        "blocks_per_level": model["num_res_blocks"],
        "attention_levels": list(attention_levels(data["image_size"], len(multipliers), model["attn_resolutions"])),
        "dropout": float(model["dropout"]),
    }
    if name == "ddpm":
        return {**arguments, "resample_with_convolution": model["resamp_with_conv"], "attend_after": "level"}
    if name != "ncsnpp":
        raise CheckpointError(f"model.name must be 'ncsnpp' or 'ddpm' to be read, got {model['name']!r}")
    block, progressive_input = model["resblock_type"].lower(), model["progressive_input"].lower()
    return {
        **arguments,
        "label_embedding": model["embedding_type"].lower(),
        # The discrete configurations, whose embedding is positional, have none.
        "fourier_scale": float(model.get("fourier_scale", 16)),
        "block": block,
        "fir": model["fir"],
        "fir_kernel": list(map(float, model["fir_kernel"])),
        "skip_rescale": model["skip_rescale"],
        "progressive": model["progressive"].lower(),
        "progressive_input": progressive_input,
        # Without input_skip the published code ignores this option, and ours refuses a contradictory value.
        "progressive_combine": model["progressive_combine"].lower() if progressive_input == "input_skip" else "sum",
        "resample_with_convolution": model["resamp_with_conv"] if block == "ddpm" else True,
        "init_scale": float(model["init_scale"]),
    }


def _convention(model: Mapping[str, Any], data: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    kind, continuous = training["sde"].lower(), training["continuous"]
    divides, centered = model["scale_by_sigma"], data["centered"]
    if kind == "vesde":
        if not divides:
            raise CheckpointError(
                "model.scale_by_sigma=false with a VE SDE is not supported: its network estimates "
                "the score itself, and no parameterisation here does"
            )
        fourier = model["name"].lower() == "ncsnpp" and model["embedding_type"].lower() == "fourier"
        if continuous != fourier:
            raise CheckpointError(
                f"training.continuous={str(continuous).lower()} with model.embedding_type={model['embedding_type']} is "
                "not supported with a VE SDE: continuous models embed ln(sigma) by 'fourier' features, discrete ones "
                "the index of sigma by 'positional' ones"
            )
        bounds = float(model["sigma_max"]), float(model["sigma_min"])
        if continuous:
            return continuous_ve(*bounds, centered=centered)
        return discrete_ve(*bounds, model["num_scales"], centered=centered)
    if kind not in ("vpsde", "subvpsde"):
        raise CheckpointError(f"training.sde must be vesde, vpsde or subvpsde to be read, got {training['sde']!r}")
    if divides or not centered:
        raise CheckpointError(
            f"a {training['sde']} model is read with model.scale_by_sigma=false and data.centered=true, as published; "
            f"got {str(divides).lower()} and {str(centered).lower()}"
        )
    betas = float(model["beta_min"]), float(model["beta_max"])
    if continuous or kind == "subvpsde":
        return continuous_vp(kind.removesuffix("sde"), *betas)
    steps = model["num_scales"]
    return discrete_vp(betas[0] / steps, betas[1] / steps, steps)


def _slots(network: Component[UNet]) -> Iterator[Slot]:
    """Yields our modules in the order of the published list; "" is the kind of one without parameters."""
    arguments = network.values
    levels = range(len(arguments["channel_multipliers"]))
    blocks = arguments["blocks_per_level"]
    attending = arguments["attention_levels"]
    progressive = arguments.get("progressive", "none")
    progressive_input = arguments.get("progressive_input", "none")
    in_between = network.name == "ddpm" or arguments["block"] == "ddpm"
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


def _layers(renamed: Mapping[str, str], prefix: str) -> dict[str, TensorSource]:
    """Maps `weight` and `bias` of each published layer, {theirs: ours}; `NIN` layers are transposed."""
    sources: dict[str, TensorSource] = {}
    for theirs, ours in renamed.items():
        nin = theirs.startswith("NIN")
        weight, bias = (f"{prefix}{theirs}.{name}" for name in (("W", "b") if nin else ("weight", "bias")))
        sources[f"{ours}.weight"] = transposed(weight) if nin else same(weight)
        sources[f"{ours}.bias"] = same(bias)
    return sources


def _attention(prefix: str) -> dict[str, TensorSource]:
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
