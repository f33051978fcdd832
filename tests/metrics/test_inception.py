"""InceptionV3: torch-fidelity's network on 8-bit pixels, with the published weights only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from sdedit_pl.files import sha256_of
from sdedit_pl.metrics import inception
from sdedit_pl.metrics.checked_weights import PublishedWeights, WeightsUnavailable
from sdedit_pl.metrics.inception import InceptionV3

IMAGES = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the published shapes; the tests do not download the published ones."""
    file = tmp_path_factory.mktemp("weights") / "random.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.save({}, file)
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=str(file))
    torch.save(network.state_dict(), file)
    return file


@pytest.mark.slow
def test_features_are_those_of_torch_fidelity(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "WEIGHTS", PublishedWeights("unused", sha256_of(weights)))
    state = torch.random.get_rng_state()
    extractor = InceptionV3(str(weights))
    assert torch.random.get_rng_state().equal(state)
    pixels = ((IMAGES + 1) * 127.5).round().byte()
    expected = FeatureExtractorInceptionV3("same", ["2048"], feature_extractor_weights_path=str(weights))(pixels)[0]
    found = extractor(IMAGES)
    assert found.shape == (2, 2048) and torch.pdist(found) > 0
    torch.testing.assert_close(found, expected)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(WeightsUnavailable, match=r"weights-inception-2015-12-05-6726825d.pth begins with 672682"):
        InceptionV3(str(tmp_path / "other.pth"))
