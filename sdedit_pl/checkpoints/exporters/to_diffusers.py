"""Writes the folder of a diffusers pipeline, for models with a beta table, a VE score or EDM's preconditioning.

A model with EDM's preconditioning is written as a VE model, whatever its SDE, in a ConsistencyModelPipeline, diffusers'
only pipeline that scales a UNet2DModel's input: call it with num_inference_steps=20. The written configuration is read
back by the importer; a model that it would read differently is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import nn

from sdedit_pl.checkpoints.exporters.export_format import Export, ExportError
from sdedit_pl.checkpoints.importers.diffusers_config import (
    BETA_SCHEDULES,
    EDM_SCHEDULERS,
    LEARNED,
    PREDICTIONS,
    read_scheduler,
    read_unet,
    skip_groups,
)
from sdedit_pl.checkpoints.importers.diffusers_tensor_names import published_state
from sdedit_pl.checkpoints.importers.from_diffusers import CONFIG, INDEX, NETWORK_CLASS, SCHEDULER_CONFIG, WEIGHTS_FILE
from sdedit_pl.checkpoints.init_from import OPTIONAL_WEIGHTS
from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.configuration.resolving import as_data
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.sde import SDE, VESDE, DiscreteVPSDE

PIPELINES = {
    "DDPMScheduler": "DDPMPipeline",
    "ScoreSdeVeScheduler": "ScoreSdeVePipeline",
    "EDMDPMSolverMultistepScheduler": "ConsistencyModelPipeline",
}
BLOCKS = {"ddpm": "", "ncsnpp": "Skip"}
"""Our network -> prefix of its block names in diffusers."""
OF_TRAINING = frozenset(("init_scale", "fourier_scale", "checkpoint_gradients"))
"""Arguments of a network that do not affect the outputs of a trained one."""
GROUPS = frozenset(("smallest_group", "most_groups"))
"""Arguments that determine the number of groups of each normalisation."""


class DiffusersExport(Export):
    def write(self, denoiser: Denoiser, model: ModelConfig, out: Path) -> None:
        if denoiser.condition is not None:
            raise ExportError("label= cannot be written for diffusers' UNet2DModel here; omit it, or use format=onnx")
        if not model.noise.is_default:
            raise ExportError("diffusers' pipelines draw Gaussian noise, and this model was trained on other noise")
        unet, scheduler = configurations(denoiser, model)
        state = {key: tensor for key, tensor in denoiser.network.state_dict().items() if key not in OPTIONAL_WEIGHTS}
        classes = {"unet": ["diffusers", NETWORK_CLASS], "scheduler": ["diffusers", scheduler["_class_name"]]}
        out.mkdir()
        _write_json(out / INDEX, {"_class_name": PIPELINES[scheduler["_class_name"]], **classes})
        _write_json(out / "unet" / CONFIG, unet)
        _write_json(out / "scheduler" / SCHEDULER_CONFIG, scheduler)
        weights = save(published_state(state, model.network), {"format": "pt"})
        (out / "unet" / WEIGHTS_FILE).write_bytes(weights)


def configurations(denoiser: Denoiser, model: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Diffusers' configurations of the network and scheduler; raises ExportError if they cannot hold the model."""
    scheduler = _scheduler_config(model, denoiser.sde)
    unet = _unet_config(model, denoiser, scheduler["_class_name"])
    _check(model, unet, scheduler)
    if model.t_max < 1:
        raise ExportError(
            f"the model was trained up to t={model.t_max}, and diffusers' pipelines begin at t=1, pure noise; "
            f"train with times.t_max=1 to export"
        )
    return unet, scheduler


def _unet_config(model: ModelConfig, denoiser: Denoiser, scheduler: str) -> dict[str, Any]:
    """The configuration of the UNet2DModel nearest to a network of ours; raises ExportError if there is none."""
    name, arguments, image_channels = model.network.name, model.network.values, model.image.channels
    if name not in BLOCKS:
        raise ExportError(
            f"network.name={name} cannot be expressed with the blocks of diffusers' {NETWORK_CLASS}; "
            f"{' and '.join(BLOCKS)} can"
        )
    channels, skip = arguments["channels"], name == "ncsnpp"
    fourier = arguments.get("label_embedding") == "fourier"
    if fourier != (scheduler == "ScoreSdeVeScheduler"):
        raise ExportError(
            f"diffusers cannot combine {'Fourier' if fourier else 'positional'} features of the label with "
            f"parameterisation.name={model.parameterisation.name} and sde.name={model.sde.name}: its VE models have "
            f"Fourier features, its models with beta tables and EDM's preconditioning positional ones "
            f"(network.label_embedding=positional)"
        )
    down = [
        f"{'Attn' if level in arguments['attention_levels'] else ''}{BLOCKS[name]}DownBlock2D"
        for level in range(len(arguments["channel_multipliers"]))
    ]
    return {
        "_class_name": NETWORK_CLASS,
        "sample_size": as_data(model.image.size),
        "in_channels": image_channels,
        "out_channels": denoiser.parameterisation.output_channels(image_channels),
        # VE models of diffusers noise images in [0, 1] and map them to [-1, 1] inside.
        "center_input_sample": fourier,
        "time_embedding_type": "fourier" if fourier else "positional",
        "freq_shift": 1 if arguments["close_frequencies"] else 0,
        "flip_sin_to_cos": False,
        "down_block_types": down,
        "up_block_types": [block.replace("Down", "Up") for block in reversed(down)],
        "block_out_channels": [channels * multiplier for multiplier in arguments["channel_multipliers"]],
        "layers_per_block": arguments["blocks_per_level"],
        "mid_block_scale_factor": math.sqrt(2) if skip else 1,
        "downsample_padding": 1 if skip or arguments["pad_all_sides"] else 0,
        "dropout": arguments["dropout"],
        "act_fn": "silu",
        "attention_head_dim": arguments["head_channels"],
        "norm_num_groups": _groups(denoiser.network, skip),
        "norm_eps": arguments["epsilon"],
    }


def _groups(network: nn.Module, skip: bool) -> int | None:
    """norm_num_groups of a network; None for diffusers' Skip blocks, whose groups are those of `skip_groups`."""
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    if skip:
        for norm in norms:
            if norm.num_groups != skip_groups(norm.num_channels):
                raise ExportError(
                    f"the network normalises {norm.num_channels} channels in {norm.num_groups} groups, and diffusers' "
                    f"SkipDownBlock2D in {skip_groups(norm.num_channels)}"
                )
        return None
    counts = sorted({norm.num_groups for norm in norms})
    if len(counts) > 1:
        raise ExportError(
            f"the network has group norms of {' and '.join(map(str, counts))} groups; diffusers' DownBlock2D has one "
            "number for all, norm_num_groups"
        )
    return counts[0]


def _scheduler_config(model: ModelConfig, sde: SDE) -> dict[str, Any]:
    parameterisation = model.parameterisation.name
    if model.sde.name == "ve" and parameterisation == "score":
        sde = cast(VESDE, sde)
        return {"_class_name": "ScoreSdeVeScheduler", "sigma_min": sde.sigma_min / 2, "sigma_max": sde.sigma_max / 2}
    estimated = {ours: theirs for theirs, ours in PREDICTIONS.items()} | {"epsilon_and_variance": "epsilon"}
    if parameterisation == "edm":
        return _edm_scheduler(model, sde)
    if model.sde.name != "ddpm" or parameterisation not in estimated:
        raise ExportError(
            f"sde.name={model.sde.name} with parameterisation.name={parameterisation} has no scheduler in diffusers: "
            f"there is one for sde=ddpm with {', '.join(estimated)}, one for sde=ve with score, and one for edm"
        )
    table = cast(DiscreteVPSDE, sde)
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": table.steps,
        "beta_start": table.beta_start,
        "beta_end": table.beta_end,
        "beta_schedule": {ours: theirs for theirs, ours in BETA_SCHEDULES.items()}[table.schedule],
        "prediction_type": estimated[parameterisation],
        "variance_type": LEARNED if parameterisation == "epsilon_and_variance" else "fixed_small",
        "clip_sample": True,
    }


def _edm_scheduler(model: ModelConfig, sde: SDE) -> dict[str, Any]:
    """EDM's preconditioning sees only x_t / alpha and the noise level; of the SDE, it needs the range of levels."""
    smallest, largest = sde.noise_level(torch.tensor([1e-3, 1.0], dtype=torch.float64)).tolist()
    return {
        "_class_name": "EDMDPMSolverMultistepScheduler",
        "sigma_min": smallest,
        "sigma_max": largest,
        "sigma_data": model.parameterisation.values["data_deviation"],
        "prediction_type": "epsilon",
    }


def _check(model: ModelConfig, unet: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
    try:
        network = read_unet(unet)
        convention = read_scheduler(scheduler, network)
    except CheckpointError as error:
        raise ExportError(f"the model cannot be written for diffusers: {error}") from error
    written = ModelConfig.from_data({**model.as_data(), **convention, "network": network.section})
    for section in ("network", "sde", "parameterisation"):
        left_out = OF_TRAINING | GROUPS if section == "network" else frozenset()
        if section == "sde" and scheduler["_class_name"] in EDM_SCHEDULERS:
            continue
        own, theirs = as_data(getattr(model, section)), as_data(getattr(written, section))
        for key, value in own.items():
            if key not in left_out and theirs.get(key) != value:
                raise ExportError(
                    f"{section}.{key}={value} cannot be written for diffusers, whose "
                    f"{NETWORK_CLASS if section == 'network' else scheduler['_class_name']} has "
                    f"{theirs.get(key)} in its place"
                )


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
