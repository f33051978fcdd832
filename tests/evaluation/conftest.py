"""Images in folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdedit_pl.data.image_decoding import ImageFormat
from sdedit_pl.evaluation.numbered_images import NumberedImages
from sdedit_pl.typing import Images


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, Images], NumberedImages]:
    """Writes images into a folder of the test."""

    def write(folder: str, images: Images) -> NumberedImages:
        pictures = NumberedImages(tmp_path / folder, len(images), ImageFormat(images.shape[-1], images.shape[1]))
        for number, image in enumerate(images):
            pictures.write(number, image)
        return pictures

    return write
