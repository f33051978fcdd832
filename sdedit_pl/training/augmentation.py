"""What is done to training images before they are noised.

Two augmentations, one of each kind: geometry, which the network is told of and which therefore does not leak into what
it generates (`geometry.py`), and recolouring, which is meant to leak (`recolour.py`). Mirroring without a label, for
domains that look alike in the mirror, is the data's.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sdedit_pl.training.geometric_augmentation import LABELS, Transformation
from sdedit_pl.training.recolouring import recolour
from sdedit_pl.typing import Images


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Args:
        probability: of each geometric transformation of an image: turning it upside down, scaling, rotating, stretching
            and shifting it; above 0, half of the images are mirrored as well. EDM trains with 0.12 (CIFAR-10) and 0.15
            (FFHQ and AFHQ at 64 px). The network is told, so that its images are not changed.
        recolour: probability that one colour of an image becomes another, which the model learns as part of the domain;
            for domains that have few colours.

    Raises:
        ValueError: a probability out of [0, 1].
    """

    probability: float = 0.0
    recolour: float = 0.0

    def __post_init__(self) -> None:
        for name in ("probability", "recolour"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    @property
    def labels(self) -> int:
        """How many numbers tell the network what was done; 0 where it is not told."""
        return LABELS if self.probability else 0

    def __call__(self, images: Images) -> tuple[Images, Float[Tensor, "B labels"] | None]:
        """Augmented images in [-1, 1], and the labels for the network.

        Random numbers come from the default generator of the images' device.
        """
        if self.recolour:
            images = recolour(images, self.recolour)
        if not self.probability:
            return images, None
        transformation = Transformation.drawn(len(images), self.probability, images)
        return transformation(images), transformation.labels
