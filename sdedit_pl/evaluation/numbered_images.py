"""Folders of numbered images, written atomically: an image that exists is finished, whichever process made it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from sdedit_pl.data.array_formats import Tiff
from sdedit_pl.data.image_decoding import decode_image
from sdedit_pl.data.image_files import UnreadableImage, open_image
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.value_decoding import sample_suffix
from sdedit_pl.files import whole_file
from sdedit_pl.guides.guide_files import image_size
from sdedit_pl.picture_grid import to_picture
from sdedit_pl.typing import Images, Mask

MARK = "sdedit_pl"
"""Key of the PNG text that holds the SHA-256 of the pixels as they were written."""


def is_own(file: Path) -> bool:
    """Whether `NumberedImages` wrote a file and its pixels are unchanged."""
    try:
        if file.suffix == ".tif":
            stored = Tiff().read(file.read_bytes())
            return stored.metadata.get("ImageDescription") == _hash_of(stored.values.tobytes())
        with open_image(file, str(file)) as image:
            image.load()
            return image.info.get(MARK) == _hash_of(image.tobytes())
    except (UnreadableImage, ValueError):
        return False


def _hash_of(pixels: bytes) -> str:
    return hashlib.sha256(pixels).hexdigest()


@dataclass(frozen=True)
class NumberedImages:
    """A folder of `count` images of one shape, created with the first; `files` replace 000000.png, 000001.png, ..."""

    folder: Path
    count: int
    format: ImageFormat
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return self.count

    def file(self, number: int) -> Path:
        return self.files[number] if self.files else self.folder / f"{number:06d}{sample_suffix(self.format)}"

    def missing(self) -> list[int]:
        return [number for number in range(self.count) if not self.file(number).is_file()]

    def write(self, number: int, image: Float[Tensor, "C H W"]) -> None:
        """Writes an image, clamped to [-1, 1], in the precision of its format."""
        with whole_file(self.file(number)) as unfinished:
            if self.format.format is None:
                picture, mark = to_picture(image), PngInfo()
                mark.add_text(MARK, _hash_of(picture.tobytes()))
                picture.save(unfinished, format="PNG", pnginfo=mark)
                return
            values = self.format.values(image).permute(1, 2, 0).cpu().numpy()
            unfinished.write_bytes(Tiff().write(values, {"ImageDescription": _hash_of(values.tobytes())}))

    def read(self, numbers: Sequence[int]) -> Images:
        """Some of the images, (B, C, H, W) in [-1, 1]; raises UnreadableImage or OSError."""
        return self.format.images(torch.stack([self._decoded(number) for number in numbers]))

    def shown(self, numbers: Sequence[int]) -> list[Image.Image]:
        return [to_picture(image, self.format.format) for image in self.read(numbers)]

    def read_masks(self, numbers: Sequence[int]) -> Mask:
        """Some of the images as masks, True where they are white."""
        return torch.stack([self._decoded(number)[:1] for number in numbers]) >= 128

    def batches(self, size: int) -> NumberedBatches:
        return NumberedBatches(self, size)

    def digest(self) -> str:
        found = hashlib.sha256()
        for number in range(self.count):
            found.update(hashlib.sha256(self._decoded(number).contiguous().numpy().tobytes()).digest())
        return found.hexdigest()

    def check_sizes(self) -> None:
        """Raises ValueError if an image has another size, UnreadableImage if a file is not an image."""
        expected = (self.format.width, self.format.height)
        for number in range(self.count):
            if (found := image_size(self.file(number))) != expected:
                raise ValueError(
                    f"{self.file(number)} is {found[0]}x{found[1]}, expected {expected[0]}x{expected[1]} like the "
                    "inputs; resize that system's outputs first"
                )

    def _decoded(self, number: int) -> Tensor:
        path = self.file(number)
        return decode_image(path, str(path), self.format)


@dataclass(frozen=True)
class NumberedBatches:
    """Batches of `size` images; can be iterated repeatedly."""

    pictures: NumberedImages
    size: int

    def __iter__(self) -> Iterator[Images]:
        for numbers in self.numbers():
            yield self.pictures.read(numbers)

    def numbers(self) -> Iterator[range]:
        for start in range(0, len(self.pictures), self.size):
            yield range(start, min(start + self.size, len(self.pictures)))
