"""Score networks: maps from (images, label) to images, independent of the SDE."""

from __future__ import annotations

from sdedit_pl.networks.adm import ADM
from sdedit_pl.networks.ddpm import DDPM
from sdedit_pl.networks.ncsnpp import NCSNpp
from sdedit_pl.networks.unet import UNet

NETWORKS: dict[str, type[UNet]] = {"ncsnpp": NCSNpp, "ddpm": DDPM, "adm": ADM}

__all__ = ["ADM", "DDPM", "NETWORKS", "NCSNpp"]
