"""Matches the colours of an edit to those of its guide, against the drift of repeated edits.

    x -> m_g + A (x - m_e),    A = C_e^(-1/2) (C_e^(1/2) C_g C_e^(1/2))^(1/2) C_e^(-1/2)

is the optimal transport between two Gaussians with the means m and covariances C of the colours of the edit (e) and the
guide (g), in Oklab, whose distances are perceptual.

Source: Pitie and Kokaram, "The Linear Monge-Kantorovitch Linear Colour Mapping for Example-Based Colour Transfer", CVMP
2007, equation 6; Ottosson, "A perceptual color space for image processing", 2020, for Oklab.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.typing import Images, Mask, Strength

_LMS = ((0.4122214708, 0.5363325363, 0.0514459929),
        (0.2119034982, 0.6806995451, 0.1073969566),
        (0.0883024619, 0.2817188376, 0.6299787005))  # fmt: skip
_LAB = ((0.2104542553, 0.7936177850, -0.0040720468),
        (1.9779984951, -2.4285922050, 0.4505937099),
        (0.0259040371, 0.7827717662, -0.8086757660))  # fmt: skip
_FLAT = 1e-6
"""Variance added to that of all colours, since flat regions have none: about a third of an 8-bit level, squared."""


def with_colours_of(guide: Images, edit: Images, area: Mask | Strength | None) -> Images:
    """An edit, in [-1, 1], with the mean and covariance of its guide's colours.

    `area` weights each pixel, (B, 1, H, W) or (1, 1, H, W); None weights all alike.
    """
    area = guide.new_ones(1, 1, *guide.shape[2:]) if area is None else area.to(guide)
    triples = zip(guide, edit, area.expand(len(guide), -1, -1, -1), strict=True)
    # one by one, so that a result does not depend on its batch
    return torch.stack([_matched(*triple) for triple in triples])


def oklab(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """sRGB in [-1, 1] to lightness in [0, 1], a and b."""
    srgb = (image.clamp(-1, 1) + 1) / 2
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return _mixed(_LAB, _mixed(_LMS, linear).clamp(min=0) ** (1 / 3))


def from_oklab(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """The inverse of `oklab`; colours outside sRGB are clamped."""
    linear = _mixed(_LMS, _mixed(_LAB, image, inverse=True) ** 3, inverse=True).clamp(0, 1)
    return 2 * torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) - 1


def _matched(
    guide: Float[Tensor, "C H W"], edit: Float[Tensor, "C H W"], weight: Float[Tensor, "1 H W"]
) -> Float[Tensor, "C H W"]:
    colours = [oklab(image) if len(image) == 3 else image for image in (guide, edit)]
    (target, wanted), (mean, covariance) = (_moments(image, weight) for image in colours)
    root = _power(covariance, 0.5)
    back = _power(covariance, -0.5)
    transport = back @ _power(root @ wanted @ root, 0.5) @ back
    moved = torch.einsum("cd,dhw->chw", transport.to(edit), colours[1] - mean.to(edit)[:, None, None])
    moved = moved + target.to(edit)[:, None, None]
    moved = from_oklab(moved) if len(edit) == 3 else moved.clamp(-1, 1)
    return torch.where(weight > 0, torch.lerp(edit, moved, weight), edit)


def _moments(
    image: Float[Tensor, "C H W"], weight: Float[Tensor, "1 H W"]
) -> tuple[Float[Tensor, "C"], Float[Tensor, "C C"]]:
    """Weighted mean and covariance of the colours, float64 on the CPU."""
    pixels, weights = image.flatten(1).double().cpu(), weight.flatten().double().cpu()
    weights = weights / weights.sum().clamp(min=1e-12)
    mean = pixels @ weights
    centred = pixels - mean[:, None]
    return mean, (centred * weights) @ centred.T + _FLAT * torch.eye(len(image), dtype=torch.float64)


def _power(matrix: Float[Tensor, "C C"], exponent: float) -> Float[Tensor, "C C"]:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=1e-12) ** exponent) @ vectors.T


def _mixed(matrix: tuple[tuple[float, ...], ...], image: Float[Tensor, "3 H W"], inverse: bool = False) -> Tensor:
    mixing = torch.tensor(matrix, dtype=torch.float64)
    mixing = torch.linalg.inv(mixing) if inverse else mixing
    return torch.einsum("cd,dhw->chw", mixing.to(image), image)
