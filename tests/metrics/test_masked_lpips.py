"""Masked LPIPS: plain LPIPS without a mask, 0 if only pixels inside the mask changed."""

from __future__ import annotations

from pathlib import Path

import lpips
import pytest
import torch
from torchvision.models import squeezenet1_1

from sdedit_pl.files import sha256_of
from sdedit_pl.metrics import masked_lpips
from sdedit_pl.metrics.checked_weights import PublishedWeights, WeightsUnavailable
from sdedit_pl.metrics.masked_lpips import MaskedLPIPS

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, GUIDES = torch.rand(2, 3, 3, 40, 40, generator=GENERATOR) * 2 - 1
MASK = torch.zeros(3, 1, 40, 40, dtype=torch.bool)
MASK[:, :, 10:30, 5:20] = True

pytestmark = pytest.mark.filterwarnings("ignore:.*pretrained:UserWarning:torchvision", "ignore:.*weights:UserWarning")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file as torchvision's, with random weights: the tests do not download the published ones."""
    file = tmp_path_factory.mktemp("weights") / "random.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(squeezenet1_1().state_dict(), file)
    return str(file)


@pytest.fixture
def metric(weights: str, monkeypatch: pytest.MonkeyPatch) -> MaskedLPIPS:
    published = PublishedWeights("unused", sha256_of(Path(weights))[:8])
    monkeypatch.setitem(masked_lpips.BACKBONES, "squeeze", published)
    return MaskedLPIPS("squeeze", weights)


def value(metric: MaskedLPIPS, *given: torch.Tensor) -> float:
    metric.reset()
    metric.update(*given)
    return metric.compute()["masked_lpips"].item()


def test_is_lpips_without_a_mask(metric: MaskedLPIPS, weights: str) -> None:
    own = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    trunk = torch.load(weights, weights_only=True)
    own.net.load_state_dict({name: trunk[f"features.{name.split('.', 1)[1]}"] for name in own.net.state_dict()})
    with torch.no_grad():
        expected = own(IMAGES, GUIDES).mean().item()
    assert expected > 0.01
    assert value(metric, IMAGES, GUIDES) == pytest.approx(expected, rel=1e-5)
    assert value(metric, IMAGES, GUIDES, torch.zeros_like(MASK)) == pytest.approx(expected, rel=1e-5)


def test_of_more_bands_the_first_three_count(metric: MaskedLPIPS) -> None:
    four = (torch.cat([images, torch.rand_like(images[:, :1])], 1) for images in (IMAGES, GUIDES))
    assert value(metric, *four) == value(metric, IMAGES, GUIDES)


def test_pixels_inside_the_mask_do_not_count(metric: MaskedLPIPS) -> None:
    edited = torch.where(MASK, IMAGES, GUIDES)
    assert value(metric, edited, GUIDES, MASK) == 0
    assert value(metric, edited, GUIDES, MASK[:1]) == 0
    spilled = torch.where(MASK.roll(6, 3), IMAGES, GUIDES)
    assert 0 < value(metric, spilled, GUIDES, MASK) < value(metric, spilled, GUIDES)


def test_it_ignores_autocast_and_the_global_generator(metric: MaskedLPIPS, weights: str) -> None:
    expected = value(metric, IMAGES, GUIDES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert value(metric, IMAGES, GUIDES) == expected
    state = torch.random.get_rng_state()
    MaskedLPIPS("squeeze", weights)
    assert torch.random.get_rng_state().equal(state)


def test_the_mean_has_an_error(metric: MaskedLPIPS) -> None:
    metric.update(IMAGES, GUIDES, MASK, torch.arange(3))
    found = metric.compute()
    assert found.keys() == {"masked_lpips", "masked_lpips_error"} and found["masked_lpips_error"] > 0


def test_refuses_small_images_and_other_networks(metric: MaskedLPIPS) -> None:
    with pytest.raises(ValueError, match="at least 32 x 32 px, got 40 x 31"):
        metric.update(IMAGES[..., :31], GUIDES[..., :31])
    with pytest.raises(ValueError, match="alex, vgg, squeeze, got 'resnet'"):
        MaskedLPIPS("resnet")


@pytest.mark.slow
@pytest.mark.parametrize("network", masked_lpips.BACKBONES)
def test_images_of_the_smallest_size_have_a_distance(network: str) -> None:
    """Every network still has pixels left in its last layer."""
    with torch.random.fork_rng(devices=[]):
        own = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    with torch.no_grad():
        assert own(IMAGES[..., :32, :32], GUIDES[..., :32, :32]).isfinite().all()


@pytest.mark.usefixtures("without_pauses")
def test_weights_are_checked_and_may_be_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(WeightsUnavailable, match=r"alexnet-owt-7be5be79.pth begins with 7be5be79"):
        MaskedLPIPS(weights=str(tmp_path / "other.pth"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(masked_lpips.BACKBONES, "alex", PublishedWeights("http://127.0.0.1:9/alexnet.pth", "0" * 8))
    with pytest.raises(WeightsUnavailable, match=r"alexnet.pth are missing, and .* cannot be downloaded"):
        MaskedLPIPS()
