"""Random changes of training images before noise is added.

Mirroring without conditioning, for symmetric domains, belongs to the data (`data.flip`).
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
    """Random changes of training images in [-1, 1], from the default generator of the images' device.

    Args:
        probability: probability of each geometric transformation of an image (vertical flip, scaling, rotation,
            stretch, shift); above 0, half of the images are mirrored as well. The network is conditioned on them, so
            that generated images do not show them. EDM trains with 0.12 (CIFAR-10) and 0.15 (FFHQ and AFHQ at 64 px).
        recolour: probability that one colour of an image is replaced by another. The model learns the new colours as
            part of the domain; meant for domains with few colours.

    Raises:
        ValueError: a probability lies outside [0, 1].
    """

    probability: float = 0.0
    recolour: float = 0.0

    def __post_init__(self) -> None:
        for name in ("probability", "recolour"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    @property
    def labels(self) -> int:
        """Size of the label that the network is conditioned on; 0 without geometric augmentation."""
        return LABELS if self.probability else 0

    def __call__(self, images: Images) -> tuple[Images, Float[Tensor, "B labels"] | None]:
        if self.recolour:
            images = recolour(images, self.recolour)
        if not self.probability:
            return images, None
        transformation = Transformation.random(len(images), self.probability, images)
        return transformation(images), transformation.labels
