"""SDEdit on any image domain: train a score model, then edit with it.

from sdedit_pl import SDEdit, load_denoiser

denoiser = load_denoiser("checkpoints/portraits64.safetensors")
images = SDEdit(t0=0.5, steps=100)(denoiser, guide, edit_mask=mask, seeds=[0, 1])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdedit_pl.checkpoints import load_denoiser, save_denoiser
    from sdedit_pl.denoiser import Denoiser
    from sdedit_pl.editing import SDEdit
    from sdedit_pl.sde import SDE, VESDE, VPSDE, DiscreteVPSDE, SubVPSDE

__version__ = "0.1.0"
__all__ = [
    "SDE",
    "VESDE",
    "VPSDE",
    "Denoiser",
    "DiscreteVPSDE",
    "SDEdit",
    "SubVPSDE",
    "load_denoiser",
    "save_denoiser",
]

_HOMES = {
    "load_denoiser": "checkpoints",
    "save_denoiser": "checkpoints",
    "Denoiser": "denoiser",
    "SDEdit": "editing",
    "SDE": "sde",
    "VESDE": "sde",
    "VPSDE": "sde",
    "DiscreteVPSDE": "sde",
    "SubVPSDE": "sde",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that a verb loads only what it needs."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
