"""Measurement from files gives the numbers of the images themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.dependent_images import Partners
from sdedit_pl.evaluation.evaluation_plan import make_plan
from sdedit_pl.evaluation.image_store import ImageStore
from sdedit_pl.evaluation.measurement import Instruments, Measurement, choose_nearest
from sdedit_pl.evaluation.numbered_images import NumberedImages
from sdedit_pl.metrics.features import FeatureExtractor
from sdedit_pl.metrics.image_distances import squared_l2
from sdedit_pl.metrics.kid import kernel_distance
from sdedit_pl.typing import Images

COUNT = 9


class Projection(FeatureExtractor):
    """Some random directions of the pixels."""

    def __init__(self) -> None:
        super().__init__("signed", "projection")
        self.largest_batch = 0
        self.weights = nn.Parameter(torch.randn(192, 5, generator=torch.Generator().manual_seed(0)), False)

    def vectors(self, prepared: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
        self.largest_batch = max(self.largest_batch, len(prepared))
        return prepared.flatten(1) @ self.weights


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, Images], NumberedImages]:
    """Writes images into a folder of the test."""

    def write(folder: str, images: Images) -> NumberedImages:
        pictures = NumberedImages(tmp_path / folder, len(images), ImageFormat(images.shape[-1], images.shape[1]))
        for number, image in enumerate(images):
            pictures.write(number, image)
        return pictures

    return write


def noise_images(seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (COUNT, 3, 8, 8), generator=generator) / 127.5 - 1


@pytest.fixture
def evaluate(tmp_path: Path, written: Callable[[str, Images], NumberedImages]) -> Callable[..., dict]:
    """Measures three sets of images, of which two are originals and guides, in groups."""
    sets = {"original": noise_images(0), "guide": noise_images(1), "sdedit": noise_images(2) * 0.5}
    for name, images in sets.items():
        written(f"images/{name if name == 'original' else f'stroke_synthesis/{name}'}", images)

    def measured(groups: list[int], instruments: Instruments) -> dict:
        plan = make_plan(SDEdit(steps=2), tasks=["stroke_synthesis"], baselines=[])
        store = ImageStore(tmp_path, COUNT, ImageFormat(8), Partners([], []))
        return Measurement(plan, store, groups, {}, instruments).measure()["tasks"]["stroke_synthesis"]

    return measured


@pytest.mark.parametrize("groups", [list(range(COUNT)), [0, 0, 1, 1, 2, 2, 3, 3, 4]])
def test_kid_leaves_out_pairs_of_a_group_and_l2_is_to_the_guide(groups: list[int], evaluate) -> None:
    extractor = Projection()
    found = evaluate(groups, Instruments(extractor, None, torch.device("cpu"), batch=4))
    edits = ((noise_images(2) * 0.5 + 1) * 127.5).round() / 127.5 - 1
    features = [extractor(images) for images in (edits, noise_images(0))]
    expected = kernel_distance(*features, torch.tensor(groups), torch.tensor(groups))
    assert found["sdedit"]["kid"] == pytest.approx(expected.value, rel=1e-5)
    assert found["sdedit"]["kid_error"] == pytest.approx(expected.error, rel=1e-4)
    assert found["sdedit"]["squared_l2"] == pytest.approx(squared_l2(edits, noise_images(1)).mean().item(), rel=1e-5)
    assert "kid_subsets" not in found["sdedit"] and "masked_lpips" not in found["sdedit"]


def test_one_batch_of_images_is_in_memory_at_a_time(evaluate) -> None:
    extractor = Projection()
    evaluate(list(range(COUNT)), Instruments(extractor, None, torch.device("cpu"), batch=2))
    assert extractor.largest_batch == 2


def test_the_nearest_sample_is_chosen_whatever_the_batch(
    written: Callable[[str, Images], NumberedImages], tmp_path: Path
):
    samples = noise_images(5)
    order = torch.tensor([3, 1, 8, 0, 3, 7, 2, 2, 5])
    guides = written("guides", (samples[order] + 0.02).clamp(-1, 1))
    for batch in (1, 4, 20):
        chosen = NumberedImages(tmp_path / f"chosen{batch}", COUNT, ImageFormat(8))
        choose_nearest(guides, written("samples", samples), chosen, batch)
        assert torch.equal(chosen.read(range(COUNT)), samples[order])


def test_large_images_are_compared_averaged(written: Callable[[str, Images], NumberedImages], tmp_path: Path) -> None:
    dark, bright = torch.full((3, 64, 64), -0.8), torch.full((3, 64, 64), 0.8)
    checkered = torch.ones(3, 64, 64)
    checkered[:, ::2, ::2] = checkered[:, 1::2, 1::2] = -1
    chosen = NumberedImages(tmp_path / "chosen", 1, ImageFormat(64))
    grey = written("guides", torch.zeros(1, 3, 64, 64))
    choose_nearest(grey, written("samples", torch.stack([dark, checkered, bright])), chosen, 2)
    assert chosen.read([0]).unique().tolist() == [-1, 1]
