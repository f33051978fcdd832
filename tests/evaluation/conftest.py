"""What several of these tests use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdedit_pl.data.images import ImageFormat
from sdedit_pl.evaluation.pictures import Pictures
from sdedit_pl.typing import Images


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, Images], Pictures]:
    """Writes images into a folder of the test."""

    def write(folder: str, images: Images) -> Pictures:
        pictures = Pictures(tmp_path / folder, len(images), ImageFormat(images.shape[-1], images.shape[1]))
        for number, image in enumerate(images):
            pictures.write(number, image)
        return pictures

    return write
