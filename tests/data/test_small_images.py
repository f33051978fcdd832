"""Small copies of all training images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny import tiny_config, two_colour_images, write_images

from sdedit_pl.build.training_parts import build_data


@pytest.mark.parametrize("side", [4, 16])
def test_training_images_are_averaged_down(side: int, tmp_path: Path) -> None:
    config = tiny_config(f"data.path={write_images(tmp_path, count=12)}", "data.val_fraction=0.25", "data.flip=true")
    data = build_data(config)
    small = data.small_training_images(side, at_most=12)
    assert small is not None and small.shape == (12 - len(data.val_images(99)), 3, min(side, 8), min(side, 8))
    # The halves of the images are even, whatever their size.
    originals = {tuple(image[:, 0, [0, -1]].flatten().mul(100).round().tolist()) for image in two_colour_images(12, 8)}
    assert {tuple(image[:, 0, [0, -1]].flatten().mul(100).round().tolist()) for image in small} <= originals
    torch.testing.assert_close(
        small[..., :1].expand(-1, -1, -1, small.shape[-1] // 2), small[..., : small.shape[-1] // 2]
    )


def test_too_many_images_give_none(tmp_path: Path) -> None:
    data = build_data(tiny_config(f"data.path={write_images(tmp_path, count=12)}", "data.val_fraction=0"))
    assert data.small_training_images(8, at_most=11) is None
    assert data.small_training_images(8, at_most=0) is None
