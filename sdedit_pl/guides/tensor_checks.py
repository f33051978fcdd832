"""Checks of an edit's tensors; values are checked only on the CPU, as reading a GPU's would wait for its queue."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.noise import Distribution, Noise, SeededNoise
from sdedit_pl.typing import Images, Mask, Strength

_RANGE_TOLERANCE = 1e-3


def guide_and_noise(
    guide: Images, seeds: Sequence[int] | None, noise: Noise | None, distribution: Distribution | None = None
) -> tuple[Float[Tensor, "samples C H W"], Noise]:
    """Checks a guide and expands it to one image per sample; returns it with the source of the samples' noise.

    `seeds` defaults to 0, 1, ...; a single guide takes any number of them. `noise` replaces them. Raises ValueError if
    the guide is not a batch of images in [-1, 1], or the number of seeds does not fit.
    """
    if guide.ndim != 4 or not guide.is_floating_point():
        raise ValueError(f"a guide is a float tensor (B, C, H, W), got {guide.dtype} of shape {tuple(guide.shape)}")
    if guide.device.type == "cpu":
        _check_range(guide)
    if noise is not None:
        if seeds is not None:
            raise ValueError("give seeds or noise, not both")
        return guide, noise
    seeds = range(len(guide)) if seeds is None else seeds
    if len(guide) == 1:
        guide = guide.expand(len(seeds), -1, -1, -1)
    if len(seeds) != len(guide):
        raise ValueError(
            f"{len(guide)} guides need {len(guide)} seeds, got {len(seeds)}; a single guide takes any number"
        )
    return guide, SeededNoise(seeds, distribution)


def fitting_mask(edit_mask: Mask, guide: Images) -> Mask:
    """Moves an edit mask to the guide's device; raises ValueError if it does not fit, or is False all over an image."""
    if edit_mask.dtype != torch.bool:
        raise ValueError(f"edit_mask is boolean, True where pixels may change, got {edit_mask.dtype}; compare with > 0")
    _check_shape("edit_mask", edit_mask, guide)
    if edit_mask.device.type == "cpu" and not bool(edit_mask.flatten(1).any(1).all()):
        raise ValueError("edit_mask is False everywhere: nothing may change; True marks editable pixels")
    return edit_mask.to(guide.device)


def fitting_strength(strength: Strength, guide: Images) -> Strength:
    """Converts a strength map to the guide's device and dtype.

    Raises ValueError if its values are not floats in [0, 1], it does not fit the guide, or it is 0 all over an image.
    """
    if not strength.is_floating_point():
        raise ValueError(f"strength is a map of floats in [0, 1], got {strength.dtype}; divide 0..255 by 255")
    _check_shape("strength", strength, guide)
    if strength.device.type == "cpu":
        low, high = strength.min().item(), strength.max().item()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"strength lies in [0, 1], got [{low:.4g}, {high:.4g}]; divide 0..255 by 255")
        if not bool(strength.flatten(1).any(1).all()):
            raise ValueError("strength is 0 everywhere: nothing may change; 1 marks pixels edited from t0")
    return strength.to(guide)


def _check_range(guide: Images) -> None:
    if not bool(guide.isfinite().all()):
        raise ValueError("the guide holds NaN or infinite values; expected images in [-1, 1]")
    low, high = guide.min().item(), guide.max().item()
    if low < -1 - _RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
        raise ValueError(f"a guide's pixels lie in [-1, 1], got [{low:.4g}, {high:.4g}]; map 0..255 with x / 127.5 - 1")


def _check_shape(name: str, given: Tensor, guide: Images) -> None:
    if given.ndim != 4 or given.shape[1:] != (1, *guide.shape[2:]) or len(given) not in (1, len(guide)):
        expected = f"(1 or {len(guide)}, 1, {guide.shape[2]}, {guide.shape[3]})"
        raise ValueError(f"{name} must have shape {expected} for this guide, got {tuple(given.shape)}")
