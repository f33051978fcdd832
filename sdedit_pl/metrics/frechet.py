"""Realism of a set of images: FID, the Frechet distance between Gaussians fitted to two sets of features.

    FID = |mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))

With A'A = C_x and B'B = C_y, the eigenvalues of C_x C_y are the squared singular values of A B', so that the trace of
the root is their sum. That needs no root of a product of nearly singular matrices, in which half of the digits go. For
A serve the centred features themselves, over sqrt(N - 1), or the triangle of their QR decomposition where there are
more images than features.

It is biased upwards, the more the fewer images there are: compare FIDs of equally many images only.

Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017, equation 6.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.metrics.gathered import TooFewImages


class Gaussian(NamedTuple):
    """A Gaussian fitted to features.

    Args:
        mean: (D,), float64.
        root: a matrix with root' root = the covariance, (R, D), float64.
    """

    mean: Float[Tensor, "D"]
    root: Float[Tensor, "R D"]

    @classmethod
    def of(cls, features: Float[Tensor, "N D"]) -> Gaussian:
        """The Gaussian with the mean and the (unbiased) covariance of some features.

        Raises:
            TooFewImages: of less than two images.
        """
        if len(features) < 2:
            raise TooFewImages(f"FID needs at least 2 images in each set, got {len(features)}")
        features = features.cpu().double()
        centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
        tall = len(features) > features.shape[1]
        return cls(features.mean(0), torch.linalg.qr(centred, mode="r").R if tall else centred)


def frechet_distance(x: Gaussian, y: Gaussian) -> float:
    """The squared Frechet distance between two Gaussians, which is at least 0."""
    roots = torch.linalg.svdvals(x.root @ y.root.T).sum()
    spread = x.root.square().sum() + y.root.square().sum() - 2 * roots
    return ((x.mean - y.mean).square().sum() + spread).clamp(min=0).item()
