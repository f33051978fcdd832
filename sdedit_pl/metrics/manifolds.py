"""Realism and diversity apart: precision and recall, density and coverage of a set of features.

The region that a set fills is taken to be the union of balls, one around each of its images, with the distance to the
k-th nearest other image of the set for a radius.

    precision   share of the generated images inside a ball of a real one
    recall      share of the real images inside a ball of a generated one
    density     balls of real images that a generated one is in, over k, on average: an outlier's large ball counts
                as much as any other; may be above 1
    coverage    share of the real images whose ball holds a generated one

An image on the border of a ball is inside. Two samples of one distribution have a density and a precision near 1 at
best; all of them depend on the numbers of images, so that only equally large sets compare.

Source: Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", NeurIPS 2019,
equations 1 and 2 (k = 3); Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", ICML 2020,
equations 3 and 4 (k = 5).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdedit_pl.metrics.gathered import TooFewImages

_ROWS = 1024
"""Images whose distances to all others are held at a time."""
_BORDER = 1e-9
"""Of a radius: how thick the border of a ball is, which an image on it may miss by rounding."""
_ROUNDING = 1e-12
"""Of the squared lengths of two vectors: the part of their squared distance that is rounding."""


def neighbour_radii(features: Float[Tensor, "N D"], neighbours: int) -> Float[Tensor, "N"]:
    """The distance of each image to its `neighbours`-th nearest other one, float64 (N,).

    Raises:
        TooFewImages: there are not as many others.
    """
    if len(features) <= neighbours:
        raise TooFewImages(
            f"balls to the {neighbours} nearest neighbours need at least {neighbours + 1} images in each set, got "
            f"{len(features)}"
        )
    radii = []
    for distances in _distances(features, features):
        # The nearest is the image itself, at 0.
        radii.append(distances.kthvalue(neighbours + 1, dim=1).values)
    return torch.cat(radii)


def inside_balls(
    images: Float[Tensor, "N D"], centres: Float[Tensor, "M D"], radii: Float[Tensor, "M"]
) -> tuple[Int[Tensor, "N"], Int[Tensor, "M"]]:
    """How many balls each image is in, (N,), and how many images are in each ball, (M,)."""
    of_images, of_balls = [], torch.zeros(len(centres), dtype=torch.int64)
    for distances in _distances(images, centres):
        inside = distances <= radii * (1 + _BORDER)
        of_images.append(inside.sum(1))
        of_balls += inside.sum(0)
    return torch.cat(of_images), of_balls


def precision_and_recall(
    real: Float[Tensor, "N D"], generated: Float[Tensor, "M D"], radii: Float[Tensor, "N"], neighbours: int
) -> tuple[float, float]:
    """Precision and recall of generated images, in [0, 1].

    Args:
        real: features of the real images.
        generated: features of the generated ones.
        radii: `neighbour_radii` of the real ones.
        neighbours: k.

    Raises:
        TooFewImages: there are not more than k generated images.
    """
    generated_radii = neighbour_radii(generated, neighbours)
    in_real, _ = inside_balls(generated, real, radii)
    in_generated, _ = inside_balls(real, generated, generated_radii)
    return (in_real > 0).double().mean().item(), (in_generated > 0).double().mean().item()


def density_and_coverage(
    real: Float[Tensor, "N D"], generated: Float[Tensor, "M D"], radii: Float[Tensor, "N"], neighbours: int
) -> tuple[float, float]:
    """Density, from 0, and coverage, in [0, 1], of generated images; arguments as of `precision_and_recall`."""
    of_generated, of_real = inside_balls(generated, real, radii)
    return of_generated.double().mean().item() / neighbours, (of_real > 0).double().mean().item()


def _distances(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Iterator[Float[Tensor, "rows M"]]:
    """The distances of the images in `x` to all in `y`, float64, some rows at a time."""
    x, y = x.cpu().double(), y.cpu().double()
    lengths = y.square().sum(1)
    for rows in x.split(_ROWS):
        scale = rows.square().sum(1)[:, None] + lengths
        squared = scale - 2 * rows @ y.T
        squared[squared < _ROUNDING * scale] = 0  # of images that are the same, and rounding below 0
        yield squared.sqrt()
