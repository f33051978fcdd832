"""Geometric augmentation that does not leak: the network is told what was done to an image.

Each transformation is made with some probability and parameterised so that zero is the untouched image; its parameters
are the label that the network gets beside the noise level. Told zero, the network gives images as they were.

Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022, appendix F.2
and table 6, after Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sdedit_pl.typing import Images, over_images

LABELS = 9
"""Numbers that say what was done to an image; see `Transformation.labels`."""

# Standard deviations: of the logarithm to base 2 of a scale and of a stretch, and of a shift in shares of the image.
_SCALE, _STRETCH, _SHIFT = 0.2, 0.2, 0.125
# Share of the stretches that are not along the image's own axes.
_OBLIQUE = 0.5
# Points sampled for each pixel, on each axis: enough for the smallest scales that are drawn.
_SUPERSAMPLING = 2


class Transformation(NamedTuple):
    """What is done to each image of a batch, in this order; everything zero leaves an image as it is.

    Args:
        mirrored: 1 where left and right are exchanged.
        upside_down: 1 where top and bottom are.
        scale: the image grows by 2^(0.2 scale).
        angle: of its rotation, in radians.
        stretch: it grows by 2^(0.2 stretch) along one axis and shrinks by as much across it.
        axis: the angle of that axis, in radians.
        shift_x: it moves to the right by 0.125 shift_x of its width.
        shift_y: it moves down by 0.125 shift_y of its height.
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
    def drawn(cls, count: int, probability: float, like: Tensor) -> Transformation:
        """Random transformations, from the default generator of the device of `like`.

        Args:
            count: of images.
            probability: of each transformation, in [0, 1]. Half of all images are mirrored, whatever it is, as EDM has
                it; of those that may be turned upside down, half are.
            like: a tensor of their dtype and device.
        """
        made = (torch.rand(5, count, device=like.device, dtype=like.dtype) < probability).to(like.dtype)
        normal = torch.randn(4, count, device=like.device, dtype=like.dtype)
        uniform = torch.rand(5, count, device=like.device, dtype=like.dtype)
        half_turns = math.pi * (2 * uniform[2:4] - 1)
        return cls(
            mirrored=(uniform[0] < 0.5).to(like.dtype),
            upside_down=made[0] * (uniform[1] < 0.5),
            scale=made[1] * normal[0],
            angle=made[2] * half_turns[0],
            stretch=made[3] * normal[1],
            axis=(uniform[4] < _OBLIQUE) * half_turns[1],
            shift_x=made[4] * normal[2],
            shift_y=made[4] * normal[3],
        )

    @property
    def labels(self) -> Float[Tensor, "B 9"]:
        """What the network is told: continuous in what was done, also where angles come round."""
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
        """The transformed images; what comes into them from outside mirrors what is inside.

        Images that are only mirrored or turned upside down, or left alone, keep their pixels' values exactly.

        Raises:
            ValueError: images that are not square.
        """
        height, width = images.shape[2:]
        if height != width:
            raise ValueError(f"augmentation turns square images, got {height} x {width}")
        images = torch.where(over_images(self.mirrored) > 0, images.flip(3), images)
        images = torch.where(over_images(self.upside_down) > 0, images.flip(2), images)
        return torch.where(over_images(self._resamples()) > 0, self._resampled(images), images)

    def _resamples(self) -> Float[Tensor, "B"]:
        """Above 0 where pixels do not simply change places."""
        return torch.stack([self.scale, self.angle, self.stretch, self.shift_x, self.shift_y]).abs().amax(0)

    def _resampled(self, images: Images) -> Images:
        size = images.shape[2]
        with torch.autocast(images.device.type, enabled=False):
            grid = F.affine_grid(
                self._sources(), [len(images), 1, _SUPERSAMPLING * size, _SUPERSAMPLING * size], align_corners=False
            )
            fine = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
            # The antialiased filter keeps what is finer than the pixels from coming back as coarser waves.
            small = F.interpolate(fine, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
        return small.clamp(-1, 1)

    def _sources(self) -> Float[Tensor, "B 2 3"]:
        """The affine maps from a place in the result to the place in the image that it shows, both on [-1, 1]."""
        shrink = (-_SCALE * self.scale).exp2()
        along = (-_STRETCH * self.stretch).exp2()
        turn, tilt, back = _rotation(-self.angle), _rotation(self.axis), _rotation(-self.axis)
        zero = torch.zeros_like(along)
        squeeze = torch.stack([torch.stack([along, zero], 1), torch.stack([zero, 1 / along], 1)], 1)
        linear = shrink[:, None, None] * (turn @ tilt @ squeeze @ back)
        # An image's side is 2 long on these coordinates.
        shift = 2 * _SHIFT * torch.stack([self.shift_x, self.shift_y], 1)
        return torch.cat([linear, -linear @ shift.unsqueeze(2)], 2)


def _rotation(angle: Float[Tensor, "B"]) -> Float[Tensor, "B 2 2"]:
    """Rotations by `angle`, from the x axis (to the right) towards the y axis (down)."""
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
