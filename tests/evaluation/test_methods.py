"""Blending against its invariances, and DDIM encoding against the exact solution of the ODE."""

from __future__ import annotations

import sys

import pytest
import torch
from support.oracles import GaussianDenoiser
from torch import nn

from sdedit_pl.editing.translation import ddim_encode, ddim_round_trip
from sdedit_pl.evaluation.blending import laplacian_blend, poisson_blend
from sdedit_pl.grids import GRIDS
from sdedit_pl.sde import SDES
from sdedit_pl.typing import Images, Mask

ONE_BYTE = 2 / 255


def smooth_image(seed: int, size: int = 32) -> Images:
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) - 0.5
    picture = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return ((picture.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def disc(size: int = 32) -> Mask:
    places = torch.arange(size) - size / 2 + 0.5
    return (places[:, None].square() + places.square() < (size / 3.5) ** 2)[None, None]


def test_poisson_blending_ignores_a_constant_and_keeps_gradients() -> None:
    below, above = smooth_image(0), smooth_image(1)
    # images that differ by a constant have the same gradients
    assert (poisson_blend(below, below + 0.3, disc()) - below).abs().max() <= 3 * ONE_BYTE
    blended = poisson_blend(below, above, disc())
    assert torch.equal(blended[..., 0], below[..., 0]) and torch.equal(blended[..., :2, :], below[..., :2, :])
    slopes = [image[..., 13:19, 13:19].diff(dim=-1) for image in (below, above, blended)]
    assert (slopes[2] - slopes[1]).abs().mean() < 0.4 * (slopes[0] - slopes[1]).abs().mean()
    assert (blended - below).abs().amax() > 0.05


def test_laplacian_blending_is_one_image_or_the_other_far_from_the_seam() -> None:
    below, above = smooth_image(0), smooth_image(1)
    nowhere = torch.zeros_like(disc())
    torch.testing.assert_close(laplacian_blend(below, above, nowhere), below, atol=1e-5, rtol=0)
    torch.testing.assert_close(laplacian_blend(below, above, ~nowhere), above, atol=1e-5, rtol=0)
    halves = nowhere.clone()
    halves[..., 16:] = True
    blended = laplacian_blend(below.expand(-1, -1, -1, -1), above, halves)
    # without details a seam is as wide as the coarsest level's pixels
    assert (blended[..., :2] - below[..., :2]).abs().mean() < 0.25 * (above[..., :2] - below[..., :2]).abs().mean()
    flat = laplacian_blend(torch.full_like(below, -0.5), torch.full_like(below, 0.5), halves)
    across = flat.mean((0, 1, 2))
    assert bool((across.diff() > -1e-5).all()) and across.diff().max() < 0.5


@pytest.mark.parametrize("blend", [poisson_blend, laplacian_blend])
@pytest.mark.parametrize("bands", [[0], [0, 1, 2, 0]])
def test_a_batch_of_bands_is_blended_one_by_one(blend, bands: list[int]) -> None:
    below, above = (torch.cat([smooth_image(seed), smooth_image(seed + 2)])[:, bands] for seed in (0, 1))
    masks = torch.cat([disc(), disc().roll(3, -1)])
    together = blend(below, above, masks)
    assert together.shape == below.shape and together.dtype == torch.float32
    for index in range(2):
        part = slice(index, index + 1)
        assert torch.equal(together[part], blend(below[part], above[part], masks[part]))


def test_without_opencv_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install 'sdedit-pl\[evaluation\]'"):
        poisson_blend(smooth_image(0), smooth_image(1), disc())


@pytest.mark.parametrize("name", ["ve", "subvp"])
def test_encoding_follows_the_probability_flow(name: str) -> None:
    sde = SDES[name]()
    denoiser = GaussianDenoiser(sde, mean=0.3, deviation=0.2)
    images = torch.tensor([-0.1, 0.2, 0.7], dtype=torch.float64)[:, None, None, None].expand(-1, 1, 1, 1)

    def errors(steps: int) -> tuple[float, float]:
        times = GRIDS["log_snr"]().times(sde, 0.5, steps)
        # (x - mean) / deviation is constant along the flow of a Gaussian
        low, high = times[-2], times[0]
        relative = (images - denoiser.marginal_mean(low) / sde.alpha(low)) * sde.alpha(low)
        exact = (
            denoiser.marginal_mean(high)
            + relative * (denoiser.marginal_variance(high) / denoiser.marginal_variance(low)).sqrt()
        )
        encoded = ddim_encode(denoiser, images, times)
        trip = ddim_round_trip(denoiser, images, times)
        return (encoded - exact).abs().max().item(), (trip - images).abs().max().item()

    coarse, fine = errors(50), errors(200)
    assert fine[0] < 0.02 and fine[0] < 0.35 * coarse[0]
    assert fine[1] < 0.02 and fine[1] < 0.5 * coarse[1] + 1e-3


def test_the_callback_sees_every_step() -> None:
    denoiser = GaussianDenoiser(SDES["vp"]())
    times = GRIDS["log_snr"]().times(denoiser.sde, 0.5, 6)
    reached: list[float] = []
    ddim_round_trip(denoiser, torch.zeros(2, 3, 4, 4), times, lambda x, t: reached.append(t))
    assert len(reached) == 2 * 6 - 1 and max(reached) == 0.5 and reached[-1] == 0
