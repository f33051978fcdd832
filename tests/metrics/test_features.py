"""Features: the network behind them classifies, and its input has the range that it was trained on."""

from __future__ import annotations

import pytest
import torch

from sdedit_pl.metrics import features
from sdedit_pl.metrics.features import PIXELS, EfficientNetLite0, features_of


@pytest.fixture(scope="module")
def extractor() -> EfficientNetLite0:
    return EfficientNetLite0()


def images(count: int, side: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_features_of_different_images_differ(extractor: EfficientNetLite0) -> None:
    found = extractor(images(3))
    assert found.shape == (3, 1280)
    assert torch.pdist(found).min() > 0.1


def test_the_network_gets_pixels_in_its_own_range(extractor: EfficientNetLite0, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(extractor.network, "extract_features", lambda x: seen.append(x) or torch.zeros(1, 1280, 4, 4))
    extractor(torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 64, 64))
    assert seen[0].shape == (1, 3, 128, 128)
    expected = torch.tensor([-127 / 128, 0.5 / 128, 1.0])
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), expected, rtol=1e-5, atol=1e-6)


def test_the_weights_are_those_of_a_trained_network(extractor: EfficientNetLite0) -> None:
    """A disk on a plain ground has a class with far more than the 1 in 1000 of an untrained network."""
    grid = torch.linspace(-1, 1, 128)
    inside = (grid[:, None].square() + grid.square()).sqrt() < 0.7
    ball = torch.where(inside, torch.tensor([1.0, 0.2, -0.9])[:, None, None], torch.tensor(0.9))[None]
    found = extractor(ball)
    assert found.min() >= 0 and found.max() <= 6
    assert torch.softmax(extractor.network._fc(found), 1).max() > 0.05


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_WEIGHTS_SHA256", "another")
    with pytest.raises(ValueError, match=r"expected another.* install it again"):
        EfficientNetLite0()


def test_batches_do_not_change_features(extractor: EfficientNetLite0) -> None:
    together, apart = features_of(extractor, images(5)), features_of(extractor, images(5), batch=2)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert not together.requires_grad


def test_autocast_and_training_mode_do_not_matter(extractor: EfficientNetLite0) -> None:
    expected = extractor(images(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extractor.train()(images(2).requires_grad_())
    assert found.dtype == torch.float32 and not found.requires_grad
    assert found.equal(expected)


def test_pixel_ranges() -> None:
    greys = torch.tensor([-1.0, -0.5, 0.0, 1.0, 1.5]).reshape(1, 1, 1, 5)
    assert PIXELS["signed"](greys).equal(greys)
    assert PIXELS["unit"](greys).flatten().tolist() == [0, 0.25, 0.5, 1, 1.25]
    whole = PIXELS["uint8"](greys)
    assert whole.dtype == torch.uint8 and whole.flatten().tolist() == [0, 64, 128, 255, 255]
