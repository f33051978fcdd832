"""Geometric augmentation that does not leak into generated images, because the network is conditioned on it.

A transformation's parameters form a label besides the noise level; all zero, as in sampling, they are the identity.

Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022, appendix F.2
and table 6, after Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sdedit_pl.typing import Images, over_images

LABELS = 9
Symmetry: TypeAlias = Literal["mirror", "upside_down", "scale", "rotation", "stretch", "shift"]
_FIELDS: dict[Symmetry, tuple[str, ...]] = {
    "mirror": ("mirrored",),
    "upside_down": ("upside_down",),
    "scale": ("scale",),
    "rotation": ("angle",),
    "stretch": ("stretch", "axis"),
    "shift": ("shift_x", "shift_y"),
}

# Standard deviations of log2(scale), log2(stretch) and the shift as a fraction of the image.
_SCALE, _STRETCH, _SHIFT = 0.2, 0.2, 0.125
# Fraction of the stretches that are not aligned with the image axes.
_OBLIQUE = 0.5
# Samples per pixel and axis, enough for the smallest scales that are drawn.
_SUPERSAMPLING = 2


class Transformation(NamedTuple):
    """The transformations of a batch of images, applied in this order; all zero is the identity.

    Args:
        mirrored: 1 flips the image horizontally.
        upside_down: 1 flips it vertically.
        scale: enlarges it by 2^(0.2 scale).
        angle: rotates it, in radians.
        stretch: enlarges it by 2^(0.2 stretch) along one axis and shrinks it by the same factor across that axis.
        axis: the angle of that axis, in radians.
        shift_x: moves it to the right by 0.125 shift_x of its width.
        shift_y: moves it down by 0.125 shift_y of its height.
    """

    mirrored: Float[Tensor, "B"]
    upside_down: Float[Tensor, "B"]
    scale: Float[Tensor, "B"]
    angle: Float[Tensor, "B"]
    stretch: Float[Tensor, "B"]
    axis: Float[Tensor, "B"]
    shift_x: Float[Tensor, "B"]
    shift_y: Float[Tensor, "B"]

    @classmethod
    def random(
        cls, count: int, probability: float, like: Tensor, symmetries: Collection[Symmetry] | None = None
    ) -> Transformation:
        """Draws transformations from the `symmetries`, by the default generator of the device of `like`.

        As in EDM, images are mirrored with probability 1/2, and flipped vertically with half of `probability`.
        """
        made = (torch.rand(5, count, device=like.device, dtype=like.dtype) < probability).to(like.dtype)
        normal = torch.randn(4, count, device=like.device, dtype=like.dtype)
        uniform = torch.rand(5, count, device=like.device, dtype=like.dtype)
        half_turns = math.pi * (2 * uniform[2:4] - 1)
        drawn = cls(
            mirrored=(uniform[0] < 0.5).to(like.dtype),
            upside_down=made[0] * (uniform[1] < 0.5),
            scale=made[1] * normal[0],
            angle=made[2] * half_turns[0],
            stretch=made[3] * normal[1],
            axis=(uniform[4] < _OBLIQUE) * half_turns[1],
            shift_x=made[4] * normal[2],
            shift_y=made[4] * normal[3],
        )
        left_out = _FIELDS.keys() - (_FIELDS if symmetries is None else symmetries)
        fields = [name for symmetry in left_out for name in _FIELDS[symmetry]]
        return drawn._replace(**{name: torch.zeros_like(drawn.mirrored) for name in fields})

    @property
    def labels(self) -> Float[Tensor, "B 9"]:
        """The label of each image, a continuous function of the transformation (also where angles wrap around)."""
        return torch.stack(
            [
                self.mirrored,
                self.upside_down,
                self.scale,
                self.angle.cos() - 1,
                self.angle.sin(),
                self.stretch * self.axis.cos(),
                self.stretch * self.axis.sin(),
                self.shift_x,
                self.shift_y,
            ],
            dim=1,
        )

    def __call__(self, images: Images) -> Images:
        """Transforms images, filled by reflection; those that are only flipped keep their pixel values exactly."""
        images = torch.where(over_images(self.mirrored) > 0, images.flip(3), images)
        images = torch.where(over_images(self.upside_down) > 0, images.flip(2), images)
        return torch.where(over_images(self._resamples()) > 0, self._resampled(images), images)

    def _resamples(self) -> Float[Tensor, "B"]:
        return torch.stack([self.scale, self.angle, self.stretch, self.shift_x, self.shift_y]).abs().amax(0)

    def _resampled(self, images: Images) -> Images:
        height, width = images.shape[2:]
        with torch.autocast(images.device.type, enabled=False):
            fine_shape = [len(images), 1, _SUPERSAMPLING * height, _SUPERSAMPLING * width]
            grid = F.affine_grid(self._sources(height, width), fine_shape, align_corners=False)
            fine = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
            # The antialiasing filter removes detail finer than a pixel.
            small = F.interpolate(fine, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
        return small.clamp(-1, 1)

    def _sources(self, height: int, width: int) -> Float[Tensor, "B 2 3"]:
        """The affine maps from positions in the result to positions in the source image, both in [-1, 1]."""
        shrink = (-_SCALE * self.scale).exp2()
        along = (-_STRETCH * self.stretch).exp2()
        turn, tilt, back = _rotation(-self.angle), _rotation(self.axis), _rotation(-self.axis)
        zero = torch.zeros_like(along)
        squeeze = torch.stack([torch.stack([along, zero], 1), torch.stack([zero, 1 / along], 1)], 1)
        linear = shrink[:, None, None] * (turn @ tilt @ squeeze @ back)
        # The image has a width of 2 in these coordinates.
        shift = 2 * _SHIFT * torch.stack([self.shift_x, self.shift_y], 1)
        # Rotations and stretches happen in pixels, which are square.
        sides = linear.new_tensor([width, height]) / max(width, height)
        linear = linear * sides / sides[:, None]
        return torch.cat([linear, -linear @ shift.unsqueeze(2)], 2)


def _rotation(angle: Float[Tensor, "B"]) -> Float[Tensor, "B 2 2"]:
    """Rotation matrices by `angle`, from the x axis (right) towards the y axis (down)."""
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
