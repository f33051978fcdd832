"""The `[mask, image]` files of SDEdit's reference runner, and files that are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.guides.guide_files import find_guides, read_guide

IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
KEPT = torch.zeros(3, 8, 8)
KEPT[:, :, :3] = 1


def saved(folder: Path, value: object) -> Path:
    torch.save(value, folder / "guide.pth")
    return folder / "guide.pth"


@pytest.mark.parametrize("mask", [KEPT, KEPT[:1], KEPT[0], KEPT.bool(), KEPT.int()], ids=str)
@pytest.mark.parametrize("kind", [list, tuple])
def test_files_are_converted_to_this_packages_conventions(mask: torch.Tensor, kind: type, tmp_path: Path) -> None:
    guide = read_guide(saved(tmp_path, kind([mask, IMAGE])), ImageFormat(8))
    assert guide.mask is not None and guide.mask.shape == (1, 1, 8, 8) and guide.mask.dtype == torch.bool
    assert torch.equal(guide.mask[0, 0], KEPT[0] != 1), "the runner keeps pixels at 1"
    torch.testing.assert_close(guide.image, IMAGE[None] * 2 - 1)
    assert not guide.resized


def test_double_and_half_images(tmp_path: Path) -> None:
    for dtype in (torch.float64, torch.float16):
        image = read_guide(saved(tmp_path, [KEPT, IMAGE.to(dtype)]), ImageFormat(8)).image
        torch.testing.assert_close(image, IMAGE[None] * 2 - 1, rtol=0, atol=2e-3)


def test_runner_files_in_a_folder_are_not_guides(tmp_path: Path) -> None:
    file = saved(tmp_path, [KEPT, IMAGE])
    assert find_guides(str(file)) == [file] == find_guides(str(tmp_path / "*.pth"))
    with pytest.raises(ValueError, match="holds no images"):
        find_guides(str(tmp_path))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([IMAGE, KEPT], r"the mask in .* must be 0 \(may change\) or 1 \(is kept\).*the mask comes first"),
        ([KEPT, IMAGE * 255], r"must lie in \[0, 1\], got \[.*, 25\d"),
        ([KEPT, IMAGE * torch.nan], r"must lie in \[0, 1\], got \[nan, nan\]"),
        ([KEPT, (IMAGE * 255).byte()], r"must be floats of shape \(3, 8, 8\).*got uint8 of shape \(3, 8, 8\)"),
        ([KEPT, IMAGE[:, :4]], r"of shape \(3, 8, 8\), as the model takes it, got float32 of shape \(3, 4, 8\)"),
        ([KEPT, IMAGE[None]], r"got float32 of shape \(1, 3, 8, 8\)"),
        ([KEPT[:, :4], IMAGE], r"must have its image's shape, \(3, 8, 8\), got float32 of shape \(3, 4, 8\)"),
        ([KEPT * torch.tensor([0, 1, 1])[:, None, None], IMAGE], "differs between the channels"),
        ([torch.ones(3, 8, 8), IMAGE], "is 1 everywhere, so nothing may change"),
        ([KEPT, IMAGE, IMAGE], r"must hold the two tensors \[mask, image\].*got a list of 3"),
        ([KEPT, 3], "got a list of 2"),
        ({"mask": KEPT, "image": IMAGE}, "got a dict"),
        (IMAGE, r"got float32 of shape \(3, 8, 8\)"),
    ],
)
def test_other_contents_are_refused(value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_guide(saved(tmp_path, value), ImageFormat(8))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path, [KEPT, IMAGE]).read_bytes()
    for damaged in (b"", b"no pickle", whole[:-200]):
        (tmp_path / "guide.pth").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"guide.pth (is damaged|holds objects other than tensors)"):
            read_guide(tmp_path / "guide.pth", ImageFormat(8))


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_code_is_not_run(tmp_path: Path) -> None:
    file = saved(tmp_path, [KEPT, Trap(tmp_path / "marker")])
    with pytest.raises(ValueError, match=r"could run code.*not loaded"):
        read_guide(file, ImageFormat(8))
    assert not (tmp_path / "marker").exists()
