"""Published models by name, for files of weights without a configuration.

Source: the configurations that the authors released: ermongroup/SDEdit, ermongroup/ddim, pesser/pytorch_diffusion,
yang-song/score_sde_pytorch, NVlabs/edm, openai/guided-diffusion; google/ddpm-* and google/ncsnpp-* for diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sdedit_pl.checkpoints.importers.noise_conventions import (
    continuous_ve,
    continuous_vp,
    discrete_ve,
    discrete_vp,
    edm_ve,
    numbered_classes,
)

CENTERED, UNIT = (-1.0, 1.0), (0.0, 1.0)
"""Ranges of images: of VP models, and of published VE models."""


@dataclass(frozen=True)
class Preset:
    """A published model.

    Args:
        model: configuration of the denoiser on images in [-1, 1]: `image`, `sde`, `network` and `parameterisation`.
        sampling: how its authors sampled, in the terms of their program; for information only.
        data_range: range of the images that its authors added noise to.
    """

    format: str
    model: Mapping[str, Any]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    data_range: tuple[float, float] = CENTERED


def _preset(
    format: str,
    size: int,
    network: Mapping[str, Any],
    convention: Mapping[str, Any],
    sampling: Mapping[str, Any],
    data_range: tuple[float, float] = CENTERED,
) -> Preset:
    return Preset(
        format, {"image": {"size": size, "channels": 3}, "network": network, **convention}, sampling, data_range
    )


def _ncsnpp(**changes: Any) -> dict[str, Any]:
    """The network of `cifar10_ncsnpp_continuous`, with changes."""
    return {
        "name": "ncsnpp",
        "channels": 128,
        "channel_multipliers": [1, 2, 2, 2],
        "blocks_per_level": 4,
        "attention_levels": [1],
        "dropout": 0.1,
        "label_embedding": "fourier",
        "fir": True,
        "progressive_input": "residual",
        **changes,
    }


def _ddpmpp(**changes: Any) -> dict[str, Any]:
    """The network of `cifar10_ddpmpp_continuous`, with changes."""
    return _ncsnpp(label_embedding="positional", fir=False, progressive_input="none", **changes)


def _ncsnpp_of_skips(**changes: Any) -> dict[str, Any]:
    """The network of the 256 px VE models, with changes."""
    at_256 = {"channel_multipliers": [1, 1, 2, 2, 2, 2, 2], "blocks_per_level": 2, "attention_levels": [4]}
    pyramids = {"progressive": "output_skip", "progressive_input": "input_skip"}
    return _ncsnpp(**{**at_256, **pyramids, "dropout": 0.0, **changes})


def _ddpm(size: int, attend_after: str) -> dict[str, Any]:
    """The network of Ho et al. for CIFAR-10 (32 px) and for 256 px."""
    return {
        "name": "ddpm",
        "channels": 128,
        "channel_multipliers": {32: [1, 2, 2, 2], 256: [1, 1, 2, 2, 4, 4]}[size],
        "blocks_per_level": 2,
        "attention_levels": [{32: 1, 256: 4}[size]],
        "attend_after": attend_after,
        "dropout": {32: 0.1, 256: 0.0}[size],
    }


def _predictor(predictor: str, corrector: str = "none", steps: int = 1000, **more: Any) -> dict[str, Any]:
    return {"predictor": predictor, "corrector": corrector, "steps": steps, **more}


_LANGEVIN_32 = _predictor("reverse_diffusion", "langevin", snr=0.16)
_LANGEVIN_256 = _predictor("reverse_diffusion", "langevin", 2000, snr=0.075)
_LANGEVIN_1024 = _predictor("reverse_diffusion", "langevin", 2000, snr=0.15)
_EULER = _predictor("euler_maruyama")
_ANCESTRAL = _predictor("ancestral_sampling")
_LEARNED_VARIANCE = {"steps": 1000, "variance": "learned", "clip_denoised": True}

_POSITIONAL_NCSNPP = _ncsnpp(label_embedding="positional")
_DEEP_POSITIONAL_NCSNPP = _ncsnpp(label_embedding="positional", blocks_per_level=8)
_DEEP_DDPMPP = _ddpmpp(blocks_per_level=8)
_NCSNPP_1024 = _ncsnpp_of_skips(
    channels=16, channel_multipliers=[1, 2, 4, 8, 16, 32, 32, 32], blocks_per_level=1, attention_levels=[6]
)
_ADM_256 = {
    "name": "adm",
    "channels": 256,
    "channel_multipliers": [1, 1, 2, 2, 4, 4],
    "blocks_per_level": 2,
    "attention_levels": [3, 4, 5],
    "head_channels": 64,
    "modulate": True,
    "block": "biggan",
}
"""Without dropout, which editing does not use; all LSUN models but lsun_horse_nodropout were trained with 0.1."""
_ADM_64 = {
    **_ADM_256,
    "channels": 192,
    "channel_multipliers": [1, 2, 3, 4],
    "blocks_per_level": 3,
    "attention_levels": [1, 2, 3],
    "dropout": 0.1,
}


def _guided(size: int, network: Mapping[str, Any], classes: Mapping[str, Any], **schedule: Any) -> Preset:
    convention = {**discrete_vp(**schedule, learned_variance=True), **classes}
    return _preset("guided_diffusion", size, network, convention, _LEARNED_VARIANCE)


def _vp_32(network: Mapping[str, Any], convention: Mapping[str, Any], sampling: Mapping[str, Any]) -> Preset:
    return _preset("score_sde", 32, network, convention, sampling)


def _ve_32(network: Mapping[str, Any], convention: Mapping[str, Any]) -> Preset:
    return _preset("score_sde", 32, network, convention, _LANGEVIN_32, UNIT)


def _ve_256(sigma_max: float) -> Preset:
    return _preset("score_sde", 256, _ncsnpp_of_skips(), continuous_ve(sigma_max), _LANGEVIN_256, UNIT)


def _edm(size: int, multipliers: list[int], level: int, classes: int = 0) -> Preset:
    """EDM's `-vp` networks; without dropout, which editing does not use."""
    network = _ddpmpp(channel_multipliers=multipliers, attention_levels=[level], dropout=0.0)
    return _preset("edm", size, network, {**edm_ve(), **numbered_classes(classes)}, {"steps": 18})


def _diffusers(preset: Preset) -> Preset:
    return replace(preset, format="diffusers")


_SDEDIT = _preset("ddim", 256, _ddpm(256, "block"), discrete_vp(), {"steps": 1000, "variance": "fixedsmall"})
_DDIM_32 = _preset("ddim", 32, _ddpm(32, "block"), discrete_vp(), {"steps": 1000, "variance": "fixedlarge"})
_DDPM_256 = _preset("score_sde", 256, _ddpm(256, "level"), discrete_vp(), _ANCESTRAL)
_VE_1024 = _preset("score_sde", 1024, _NCSNPP_1024, continuous_ve(1348.0), _LANGEVIN_1024, UNIT)
_GUIDED = _guided(256, _ADM_256, {})

PRESETS: dict[str, Preset] = {
    "celeba_hq": _SDEDIT,
    "bedroom": _SDEDIT,
    "church_outdoor": _SDEDIT,
    "ddim/cifar10": _DDIM_32,
    "ve/cifar10_ncsnpp_continuous": _ve_32(_ncsnpp(), continuous_ve(50.0)),
    "ve/cifar10_ncsnpp_deep_continuous": _ve_32(_ncsnpp(blocks_per_level=8), continuous_ve(50.0)),
    "ve/cifar10_ncsnpp": _ve_32(_POSITIONAL_NCSNPP, discrete_ve(50.0, 0.01, 1000)),
    "ve/cifar10_ddpm": _ve_32(_ddpm(32, "level"), discrete_ve(50.0, 0.01, 1000)),
    "ve/church_ncsnpp_continuous": _ve_256(380.0),
    "ve/bedroom_ncsnpp_continuous": _ve_256(378.0),
    "ve/ffhq_256_ncsnpp_continuous": _ve_256(348.0),
    "ve/celebahq_256_ncsnpp_continuous": _ve_256(348.0),
    "ve/ffhq_ncsnpp_continuous": _VE_1024,
    "ve/celebahq_ncsnpp_continuous": _VE_1024,
    "vp/cifar10_ddpmpp": _vp_32(_ddpmpp(), discrete_vp(), _ANCESTRAL),
    "vp/cifar10_ddpmpp_continuous": _vp_32(_ddpmpp(), continuous_vp(), _EULER),
    "vp/cifar10_ddpmpp_deep_continuous": _vp_32(_DEEP_DDPMPP, continuous_vp(), _EULER),
    "vp/cifar10_ncsnpp": _vp_32(_POSITIONAL_NCSNPP, discrete_vp(), _predictor("reverse_diffusion")),
    "vp/cifar10_ncsnpp_continuous": _vp_32(_POSITIONAL_NCSNPP, continuous_vp(), _EULER),
    "vp/cifar10_ncsnpp_deep_continuous": _vp_32(_DEEP_POSITIONAL_NCSNPP, continuous_vp(), _EULER),
    "vp/ddpm/cifar10": _vp_32(_ddpm(32, "level"), discrete_vp(), _ANCESTRAL),
    "vp/ddpm/cifar10_continuous": _vp_32(_ddpm(32, "level"), continuous_vp(), _EULER),
    "vp/ddpm/bedroom": _DDPM_256,
    "vp/ddpm/celebahq": _DDPM_256,
    "vp/ddpm/church": _DDPM_256,
    "subvp/cifar10_ddpm_continuous": _vp_32(_ddpm(32, "level"), continuous_vp("subvp"), _EULER),
    "subvp/cifar10_ddpmpp_continuous": _vp_32(_ddpmpp(), continuous_vp("subvp"), _EULER),
    "subvp/cifar10_ddpmpp_deep_continuous": _vp_32(_DEEP_DDPMPP, continuous_vp("subvp"), _EULER),
    "subvp/cifar10_ncsnpp_continuous": _vp_32(_POSITIONAL_NCSNPP, continuous_vp("subvp"), _EULER),
    "subvp/cifar10_ncsnpp_deep_continuous": _vp_32(_DEEP_POSITIONAL_NCSNPP, continuous_vp("subvp"), _EULER),
    "ddpm-cifar10-32": _diffusers(_DDIM_32),
    "ddpm-bedroom-256": _diffusers(_SDEDIT),
    "ddpm-celebahq-256": _diffusers(_SDEDIT),
    "ddpm-church-256": _diffusers(_SDEDIT),
    "ddpm-ema-bedroom-256": _diffusers(_SDEDIT),
    "ddpm-ema-celebahq-256": _diffusers(_SDEDIT),
    "ddpm-ema-church-256": _diffusers(_SDEDIT),
    "ncsnpp-bedroom-256": _diffusers(_ve_256(378.0)),
    "ncsnpp-celebahq-256": _diffusers(_ve_256(348.0)),
    "ncsnpp-church-256": _diffusers(_ve_256(380.0)),
    "ncsnpp-ffhq-256": _diffusers(_ve_256(348.0)),
    "ncsnpp-ffhq-1024": _diffusers(_VE_1024),
    "edm-cifar10-32x32-cond-vp": _edm(32, [2, 2, 2], 1, classes=10),
    "edm-cifar10-32x32-uncond-vp": _edm(32, [2, 2, 2], 1),
    "edm-ffhq-64x64-uncond-vp": _edm(64, [1, 2, 2, 2], 2),
    "edm-afhqv2-64x64-uncond-vp": _edm(64, [1, 2, 2, 2], 2),
    "256x256_diffusion_uncond": _GUIDED,
    "256x256_diffusion": _guided(256, _ADM_256, numbered_classes(1000)),
    "64x64_diffusion": _guided(64, _ADM_64, numbered_classes(1000), schedule="cosine"),
    "lsun_bedroom": _GUIDED,
    "lsun_cat": _GUIDED,
    "lsun_horse": _GUIDED,
    "lsun_horse_nodropout": _GUIDED,
}
