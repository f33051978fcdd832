"""Noise conventions of published programs: the sections `sde` and `parameterisation` of models on images in [-1, 1]."""

from __future__ import annotations

import math
from typing import Any

HALF_NOISE_LEVEL = -math.log(2.0)
"""Label offset of VE models of images in [0, 1], whose sigma is half of ours; the default of `Score`."""


def discrete_vp(
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    steps: int = 1000,
    schedule: str = "linear",
    *,
    learned_variance: bool = False,
    index_scale: float = 1.0,
) -> dict[str, Any]:
    """A network that estimates the noise of a table of betas; its label is `index_scale` times the index in the table.

    Source: Ho et al. (2020), section 4; with a learned variance Nichol and Dhariwal (2021), section 3.1.
    """
    return {
        "sde": {"name": "ddpm", "beta_start": beta_start, "beta_end": beta_end, "steps": steps, "schedule": schedule},
        "parameterisation": {
            "name": "epsilon_and_variance" if learned_variance else "epsilon",
            "label": "time",
            "label_scale": index_scale * steps,
            "label_offset": -index_scale,
        },
    }


def numbered_classes(count: int, drop: float = 0.0) -> dict[str, Any]:
    """The section `condition` of a model with numbered classes; empty for no classes."""
    classes = [str(number) for number in range(count)]
    return {"condition": {"name": "class", "classes": classes, "drop": drop}} if count else {}


def edm_ve(data_deviation: float = 0.5) -> dict[str, Any]:
    """A network with EDM's preconditioning, sampled between its noise levels 0.002 and 80."""
    parameterisation = {"name": "edm", "data_deviation": data_deviation}
    return {"sde": {"name": "ve", "sigma_min": 0.002, "sigma_max": 80.0}, "parameterisation": parameterisation}


def continuous_vp(name: str = "vp", beta_min: float = 0.1, beta_max: float = 20.0) -> dict[str, Any]:
    """A network that estimates the noise of a VP or sub-VP SDE, given 999 t. Source: Song et al. (2021), appendix C."""
    return {
        "sde": {"name": name, "beta_min": beta_min, "beta_max": beta_max},
        "parameterisation": {"name": "epsilon", "label": "time", "label_scale": 999.0, "label_offset": 0.0},
    }


def continuous_ve(sigma_max: float, sigma_min: float = 0.01, *, centered: bool = False) -> dict[str, Any]:
    """A network that estimates sigma times the score of a VE SDE, given ln(sigma).

    Sigmas are as published; without `centered`, images were in [0, 1], where a sigma is half of ours.

    Source: Song et al. (2021), appendix C.
    """
    label = {"label": "log_noise_level", "label_scale": 1.0, "label_offset": 0.0 if centered else HALF_NOISE_LEVEL}
    return {"sde": _ve(sigma_max, sigma_min, centered), "parameterisation": {"name": "score", **label}}


def discrete_ve(sigma_max: float, sigma_min: float, steps: int, *, centered: bool = False) -> dict[str, Any]:
    """As `continuous_ve`, given the index in a falling table of `steps` geometrically spaced sigmas."""
    label = {"label": "time", "label_scale": 1.0 - steps, "label_offset": steps - 1.0}
    return {"sde": _ve(sigma_max, sigma_min, centered), "parameterisation": {"name": "score", **label}}


def _ve(sigma_max: float, sigma_min: float, centered: bool) -> dict[str, Any]:
    width = 1.0 if centered else 2.0
    return {"name": "ve", "sigma_min": width * sigma_min, "sigma_max": width * sigma_max}
