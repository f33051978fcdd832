"""The SDEs that tests of all SDEs run over."""

from __future__ import annotations

import pytest

from sdedit_pl.sde import SDES, VESDE, VPSDE, DiscreteVPSDE, SubVPSDE

EVERY_SDE = {
    **{name: cls() for name, cls in SDES.items()},
    "ddpm-scaled_linear": DiscreteVPSDE(schedule="scaled_linear"),
    "ddpm-cosine": DiscreteVPSDE(schedule="cosine"),
}
every_sde = pytest.mark.parametrize("sde", EVERY_SDE.values(), ids=EVERY_SDE)

PUBLISHED = {
    "ve": VESDE(0.01, 50.0),
    "ve_lsun": VESDE(0.01, 380.0),
    "vp": VPSDE(0.1, 20.0),
    "subvp": SubVPSDE(0.1, 20.0),
}
"""The SDEs of `tests/reference/sde.npz`."""
