"""Shapes of tensors, a helper that broadcasts over images, and the description of an object for messages.

A batch of images is `Images`: float, (B, C, H, W), RGB in [-1, 1] if there are three channels. Diffusion times are
`Times`: one t in (0, 1] for each image, or one of shape () for all, which may be on the CPU while the images are on a
GPU. A `Mask` is boolean, True where pixels may change, with one entry for each image or one for all; a `Strength` is a
soft mask in [0, 1]. `Pixels` are values as decoded from files.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from jaxtyping import Bool, Float, Int32, UInt8, UInt16
from torch import Tensor

Images: TypeAlias = Float[Tensor, "B C H W"]
Times: TypeAlias = Float[Tensor, "B"] | Float[Tensor, ""]
Mask: TypeAlias = Bool[Tensor, "#B 1 H W"]
Strength: TypeAlias = Float[Tensor, "#B 1 H W"]
Pixels: TypeAlias = (
    UInt8[Tensor, "... _ _ _"] | UInt16[Tensor, "... _ _ _"] | Int32[Tensor, "... _ _ _"] | Float[Tensor, "... _ _ _"]
)


class Examples(NamedTuple):
    """Training images in [-1, 1], with labels or None; `valid` is True where pixels count in the loss, None for all."""

    images: Images
    labels: Tensor | None = None
    valid: Mask | None = None


def over_images(values: Times) -> Float[Tensor, "B 1 1 1"] | Float[Tensor, ""]:
    """Reshapes (B,) to (B, 1, 1, 1), without a copy; returns a single value unchanged."""
    return values[:, None, None, None] if values.dim() else values


def described(value: object) -> str:
    """Describes an object for messages: "float32 of shape (2, 3)", "a list of 2", "a dict"."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple) else "")
