"""Editing with a denoiser: SDEdit, its variants, constraints and guidance."""

from __future__ import annotations

from sdedit_pl.editing.published import VARIANTS, Variant
from sdedit_pl.editing.sdedit import SDEdit

__all__ = ["VARIANTS", "SDEdit", "Variant"]
