"""Features: the classifier they come from still classifies, and its weights are checked."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from sdedit_pl.metrics import FEATURES, EfficientNetLite0, features_of
from sdedit_pl.metrics.features import checked_weights


@pytest.fixture(scope="module")
def extractor() -> EfficientNetLite0:
    return EfficientNetLite0()


def images(count: int, side: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_vectors_that_tell_images_apart(name: str) -> None:
    found = FEATURES[name]()(images(3))
    assert found.ndim == 2 and len(found) == 3
    assert torch.pdist(found).min() > 0.1


def test_the_network_sees_pixels_in_its_own_range(extractor: EfficientNetLite0, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(extractor.network, "extract_features", lambda x: seen.append(x) or torch.zeros(1, 1280, 4, 4))
    extractor(torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 64, 64))
    assert seen[0].shape == (1, 3, 128, 128)
    expected = torch.tensor([-127 / 128, 0.5 / 128, 1.0])
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), expected, rtol=1e-5, atol=1e-6)


def test_the_weights_are_those_of_a_trained_network(extractor: EfficientNetLite0) -> None:
    """A disk on a plain ground is some round thing: far from the 1 in 1000 of a network that knows nothing."""
    grid = torch.linspace(-1, 1, 128)
    inside = (grid[:, None].square() + grid.square()).sqrt() < 0.7
    ball = torch.where(inside, torch.tensor([1.0, 0.2, -0.9])[:, None, None], torch.tensor(0.9))[None]
    features = extractor(ball)
    assert features.min() >= 0 and features.max() <= 6
    assert torch.softmax(extractor.network._fc(features), 1).max() > 0.05


def test_batches_do_not_change_features(extractor: EfficientNetLite0) -> None:
    together, apart = features_of(extractor, images(5)), features_of(extractor, images(5), batch=2)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert not together.requires_grad


def test_other_weights_are_refused_and_code_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="another release or damaged"):
        checked_weights(file, "0" * 64)
