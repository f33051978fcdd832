"""Translates configurations of diffusers: a UNet2DModel to a network of ours, a scheduler to SDE and parameterisation.

Each key is expressed exactly or refused; an absent key has the default of its class in diffusers. A UNet2DModel with
time_embedding_type "fourier" is the score network of a VE model on images in [0, 1]: it takes sigma, embeds ln(sigma)
and divides its output by sigma. One with "positional" takes the index in a beta table or, for EDM, ln(sigma) / 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sdedit_pl.checkpoints.importers.noise_conventions import continuous_ve, discrete_vp
from sdedit_pl.checkpoints.safe_reading import CheckpointError

UNET_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}

AVERAGE_KEYS = frozenset(
    ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")
)
"""Keys that diffusers' EMAModel adds to the configuration of its network."""
SCHEDULER_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}
"""Keys of DDPMScheduler, DDIMScheduler and PNDMScheduler that define the noise and the network's target."""
VE_SCHEDULER_DEFAULTS = {"sigma_min": 0.01, "sigma_max": 1348.0}
EDM_SCHEDULERS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
EDM_DEFAULTS = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "prediction_type": "epsilon"}
BETA_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
"""Diffusers' schedule of betas -> ours."""
PREDICTIONS = {"epsilon": "epsilon", "sample": "x_0", "v_prediction": "v"}
"""prediction_type -> our parameterisation."""
FIXED_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
LEARNED = "learned_range"
"""variance_type of a network with twice the output channels."""

_PLAIN = {"DownBlock2D": False, "AttnDownBlock2D": True, "UpBlock2D": False, "AttnUpBlock2D": True}
_SKIP = {"SkipDownBlock2D": False, "AttnSkipDownBlock2D": True, "SkipUpBlock2D": False, "AttnSkipUpBlock2D": True}
SKIP_IMAGE_CHANNELS = 3
SKIP_ATTENTION_GROUPS = 32
SKIP_FIR_KERNEL = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True)
class TranslatedUNet:
    """A UNet2DModel in our terms; `fourier`: a VE score network; `cosines_first`: the label's cosines come first."""

    section: dict[str, Any]
    cosines_first: bool
    fourier: bool
    learned_variance: bool
    image: dict[str, Any]


def read_unet(config: Mapping[str, Any]) -> TranslatedUNet:
    """Translates a UNet2DModel's configuration; raises CheckpointError for a key that our networks cannot express."""
    unet = _Keys("UNet2DModel", config, UNET_DEFAULTS)
    unet.refuse_others(UNET_DEFAULTS.keys() | AVERAGE_KEYS)
    skip, attention = _blocks(unet)
    channels, multipliers = _widths(unet)
    unet.require("mid_block_type", "UNetMidBlock2D")
    unet.require("add_attention", True)
    unet.require("act_fn", "silu", "swish")
    unet.require("resnet_time_scale_shift", "default")
    unet.require("class_embed_type", None)
    unet.require("num_class_embeds", None)
    unet.require("time_embedding_dim", None, 4 * channels)
    unet.require("out_channels", unet["in_channels"], *([] if skip else [2 * unet["in_channels"]]))
    unet.require("time_embedding_type", "positional", *(["fourier"] if skip else []))
    fourier = unet["time_embedding_type"] == "fourier"
    unet.require("center_input_sample", fourier)
    if not fourier:
        unet.require("freq_shift", 0, 1)
    section = {
        "name": "ncsnpp" if skip else "ddpm",
        "channels": channels,
        "channel_multipliers": multipliers,
        "blocks_per_level": unet["layers_per_block"],
        "attention_levels": attention,
        "head_channels": _head_channels(unet, [channels * multipliers[level] for level in (*attention, -1)]),
        "dropout": float(unet["dropout"]),
        "close_frequencies": fourier or unet["freq_shift"] == 1,
        "epsilon": float(unet["norm_eps"]),
    }
    section |= _skip_arguments(unet, attention, fourier) if skip else _plain_arguments(unet)
    return TranslatedUNet(
        section=section,
        cosines_first=not fourier and bool(unet["flip_sin_to_cos"]),
        fourier=fourier,
        learned_variance=unet["out_channels"] != unet["in_channels"],
        image={"size": _size(unet), "channels": unet["in_channels"]},
    )


def read_scheduler(config: Mapping[str, Any], network: TranslatedUNet) -> dict[str, Any]:
    """The sections `sde` and `parameterisation` of a scheduler; raises CheckpointError if we cannot express it."""
    name = config.get("_class_name")
    if name == "ScoreSdeVeScheduler" and network.fourier:
        scheduler = {**VE_SCHEDULER_DEFAULTS, **config}
        return continuous_ve(scheduler["sigma_max"], scheduler["sigma_min"])
    if name in EDM_SCHEDULERS and not network.fourier:
        scheduler = _Keys(name, config, EDM_DEFAULTS)
        scheduler.require("prediction_type", "epsilon")
        return {
            "sde": {"name": "ve", "sigma_min": scheduler["sigma_min"], "sigma_max": scheduler["sigma_max"]},
            "parameterisation": {"name": "edm", "data_deviation": scheduler["sigma_data"]},
        }
    if name not in ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler") or network.fourier:
        wanted = "ScoreSdeVeScheduler" if network.fourier else "DDPMScheduler, DDIMScheduler, PNDMScheduler or EDM's"
        raise CheckpointError(
            f"a UNet2DModel with time_embedding_type={'fourier' if network.fourier else 'positional'!r} needs the "
            f"scheduler {wanted}, got {name!r}; give the configuration that it was trained with, config=FILE.json"
        )
    scheduler = _Keys(name, config, SCHEDULER_DEFAULTS)
    scheduler.require("beta_schedule", *BETA_SCHEDULES)
    scheduler.require("prediction_type", *PREDICTIONS)
    scheduler.require("trained_betas", None)
    scheduler.require("rescale_betas_zero_snr", False)
    scheduler.require("variance_type", *([LEARNED] if network.learned_variance else FIXED_VARIANCES))
    schedule = BETA_SCHEDULES[scheduler["beta_schedule"]]
    table = discrete_vp(scheduler["beta_start"], scheduler["beta_end"], scheduler["num_train_timesteps"], schedule)
    table["parameterisation"]["name"] = PREDICTIONS[scheduler["prediction_type"]]
    if network.learned_variance:
        scheduler.require("prediction_type", "epsilon")
        table["parameterisation"]["name"] = "epsilon_and_variance"
    return table


class _Keys:
    def __init__(self, what: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.what = what
        self.values = {**defaults, **config}

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def require(self, key: str, *values: Any) -> None:
        if self[key] not in values:
            expected = " or ".join(map(repr, values))
            raise CheckpointError(f"{self.what} with {key}={self[key]!r} is not supported: expected {expected}")

    def refuse_others(self, known: Iterable[str]) -> None:
        others = {key: value for key, value in self.values.items() if key not in known and not key.startswith("_")}
        for key, value in others.items():
            if value is not None and value is not False:
                raise CheckpointError(
                    f"{self.what} with {key}={value!r} is not supported: the effect of this key is unknown"
                )


def _blocks(unet: _Keys) -> tuple[bool, tuple[int, ...]]:
    """Whether the blocks are of the Skip family, and the levels with attention."""
    down = [name.removeprefix("UNetRes") for name in unet["down_block_types"]]
    up = [name.removeprefix("UNetRes") for name in unet["up_block_types"]]
    for family in (_PLAIN, _SKIP):
        if set(down) | set(up) <= family.keys():
            attending = [family[name] for name in down]
            if attending != [family[name] for name in reversed(up)]:
                raise CheckpointError(
                    f"UNet2DModel with down_block_types={down} and up_block_types={up} is not supported: the same "
                    f"levels must attend on the way down and up, and up_block_types must begin at the lowest level"
                )
            return family is _SKIP, tuple(level for level, attends in enumerate(attending) if attends)
    raise CheckpointError(
        f"UNet2DModel with down_block_types={down} and up_block_types={up} is not supported: expected all of "
        f"{', '.join(_PLAIN)}, or all of {', '.join(_SKIP)}"
    )


def _widths(unet: _Keys) -> tuple[int, tuple[int, ...]]:
    """Channels at full resolution, and the multiplier of each level."""
    widths = tuple(unet["block_out_channels"])
    if len(widths) != len(unet["down_block_types"]) or any(width < 1 or width % widths[0] for width in widths):
        raise CheckpointError(
            f"UNet2DModel with block_out_channels={list(widths)} is not supported: expected one number for each of "
            f"down_block_types, each a multiple of the first"
        )
    return widths[0], tuple(width // widths[0] for width in widths)


def _head_channels(unet: _Keys, widths: Iterable[int]) -> int | None:
    """Channels of each attention head; None for a single head."""
    head = unet["attention_head_dim"]
    if head is not None and any(width % head for width in widths):
        raise CheckpointError(
            f"UNet2DModel with attention_head_dim={head!r} is not supported: it must divide the channels of each "
            f"attention layer, {sorted(set(widths))}"
        )
    return head


def _size(unet: _Keys) -> int | list[int]:
    size = unet["sample_size"]
    sides = size if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise CheckpointError(
            f"UNet2DModel with sample_size={size!r} cannot be read: it must be the height and width of its images, one "
            f"number or two; write it into the configuration"
        )
    return size if isinstance(size, int) else list(sides)


def _plain_arguments(unet: _Keys) -> dict[str, Any]:
    unet.require("downsample_type", "conv")
    unet.require("upsample_type", "conv")
    unet.require("downsample_padding", 0, 1)
    unet.require("mid_block_scale_factor", 1)
    groups = unet["norm_num_groups"]
    unet.require("attn_norm_num_groups", None, groups)
    if not isinstance(groups, int) or any(width % groups for width in unet["block_out_channels"]):
        raise CheckpointError(
            f"UNet2DModel with norm_num_groups={groups!r} is not supported: it must divide block_out_channels, "
            f"{list(unet['block_out_channels'])}"
        )
    return {
        "attend_after": "block",
        "pad_all_sides": unet["downsample_padding"] == 1,
        "smallest_group": 1,
        "most_groups": groups,
    }


def _skip_arguments(unet: _Keys, attention: Iterable[int], fourier: bool) -> dict[str, Any]:
    unet.require("in_channels", SKIP_IMAGE_CHANNELS)
    if not math.isclose(unet["mid_block_scale_factor"], math.sqrt(2), rel_tol=1e-6):
        unet.require("mid_block_scale_factor", math.sqrt(2))
    widths = list(unet["block_out_channels"])
    for width in (widths[0], widths[-1]):
        unet.require("norm_num_groups", None, skip_groups(width))
    unet.require("attn_norm_num_groups", None, skip_groups(widths[-1]))
    if any(skip_groups(widths[level]) != SKIP_ATTENTION_GROUPS for level in attention):
        raise CheckpointError(
            f"UNet2DModel with block_out_channels={widths} is not supported: its attention blocks normalise in "
            f"{SKIP_ATTENTION_GROUPS} groups, ours in groups of at least 4 channels; they agree from 128 channels up"
        )
    return {
        "label_embedding": "fourier" if fourier else "positional",
        "block": "biggan",
        "fir": True,
        "fir_kernel": SKIP_FIR_KERNEL,
        "skip_rescale": True,
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "progressive_combine": "sum",
    }


def skip_groups(width: int) -> int:
    return min(width // 4, 32)
