"""Editing with a denoiser: SDEdit, its constraints and its guides."""

from __future__ import annotations

from sdedit_pl.editing.sdedit import SDEdit
from sdedit_pl.editing.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "SDEdit", "Variant"]
