"""What published programs feed their networks and take their outputs for, as SDE and parameterisation of this package.

Each returns the sections `sde` and `parameterisation` of a model's configuration, for images in [-1, 1].
"""

from __future__ import annotations

from typing import Any

from sdedit_pl.denoiser import Score


def discrete_vp(
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    steps: int = 1000,
    schedule: str = "linear",
    *,
    learned_variance: bool = False,
    index_scale: float = 1.0,
) -> dict[str, Any]:
    """A network that estimates the noise of a table of betas, given `index_scale` times the index in the table.

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


def continuous_vp(name: str = "vp", beta_min: float = 0.1, beta_max: float = 20.0) -> dict[str, Any]:
    """A network that estimates the noise of a VP or sub-VP SDE ("vp", "subvp"), given 999 t.

    Source: Song et al. (2021), appendix C.
    """
    return {
        "sde": {"name": name, "beta_min": beta_min, "beta_max": beta_max},
        "parameterisation": {"name": "epsilon", "label": "time", "label_scale": 999.0, "label_offset": 0.0},
    }


def continuous_ve(sigma_max: float, sigma_min: float = 0.01, *, centered: bool = False) -> dict[str, Any]:
    """A network that estimates sigma times the score of a VE SDE, given ln(sigma).

    Args:
        sigma_max: as published.
        sigma_min: as published.
        centered: whether the published images are in [-1, 1]; otherwise in [0, 1], where a sigma is half of ours.

    Source: Song et al. (2021), appendix C.
    """
    label = {"label": "log_noise_level", "label_scale": 1.0, "label_offset": 0.0 if centered else Score().label_offset}
    return {"sde": _ve(sigma_max, sigma_min, centered), "parameterisation": {"name": "score", **label}}


def discrete_ve(sigma_max: float, sigma_min: float, steps: int, *, centered: bool = False) -> dict[str, Any]:
    """A network that estimates sigma times the score, given the index in a table of falling sigmas; see above.

    The published table has `steps` geometrically spaced sigmas; sigma_max has the index 0.
    """
    label = {"label": "time", "label_scale": 1.0 - steps, "label_offset": steps - 1.0}
    return {"sde": _ve(sigma_max, sigma_min, centered), "parameterisation": {"name": "score", **label}}


def _ve(sigma_max: float, sigma_min: float, centered: bool) -> dict[str, Any]:
    width = 1.0 if centered else 2.0
    return {"name": "ve", "sigma_min": width * sigma_min, "sigma_max": width * sigma_max}
