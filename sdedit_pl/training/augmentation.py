"""Random changes of training images before noise is added; `data.flip` mirrors them without conditioning."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sdedit_pl.training.geometric_augmentation import LABELS, Symmetry, Transformation
from sdedit_pl.training.recolouring import recolour
from sdedit_pl.typing import Images, Mask


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images in [-1, 1], from the default generator of the images' device.

    Args:
        probability: probability of each geometric transformation of an image (vertical flip, scaling, rotation,
            stretch, shift); above 0, half of the images are mirrored as well. The network is conditioned on them, so
            that generated images do not show them. EDM trains with 0.12 (CIFAR-10) and 0.15 (FFHQ and AFHQ at 64 px).
        recolour: probability that one colour of an image is replaced by another. The model learns the new colours as
            part of the domain; meant for domains with few colours.
        symmetries: changes after which an image still belongs to the domain: mirror, upside_down, scale, rotation,
            stretch, shift; only these are made. null allows all for photographs, and none for other data (data.format).
    """

    probability: float = 0.0
    recolour: float = 0.0
    symmetries: tuple[Symmetry, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("probability", "recolour"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    @property
    def labels(self) -> int:
        """Size of the label that the network is conditioned on; 0 without geometric augmentation."""
        return LABELS if self.probability else 0

    def __call__(
        self, images: Images, valid: Mask | None = None
    ) -> tuple[Images, Float[Tensor, "B labels"] | None, Mask | None]:
        """The changed images, their labels, and their valid pixels, changed alike."""
        if self.recolour:
            images = recolour(images, self.recolour)
        if not self.probability:
            return images, None, valid
        transformation = Transformation.random(len(images), self.probability, images, self.symmetries)
        if valid is not None:
            valid = transformation(valid.to(images.dtype)) > 0.99
        return transformation(images), transformation.labels, valid

    def check_data(self, photographs: bool, flip: bool) -> None:
        """Raises ValueError for changes that `symmetries` does not state.

        `photographs`: the data are 8-bit RGB or grey; `flip`: images are mirrored as they are read.
        """
        stated = self.symmetries
        if flip and (not photographs if stated is None else "mirror" not in stated):
            raise ValueError(
                f"data.flip=true mirrors images, and augment.symmetries={'null' if stated is None else list(stated)} "
                "does not state that mirror images belong to the domain; add mirror to it, or set data.flip=false"
            )
        if self.probability and stated is None and not photographs:
            raise ValueError(
                "augment.probability transforms images that are not photographs; give the changes that leave them in "
                "the domain, such as augment.symmetries=[mirror,shift], or augment.probability=0"
            )
