"""FIR resampling against scipy's polyphase filter, and its exact properties."""

from __future__ import annotations

import pytest
import torch
from scipy.signal import upfirdn
from torch import Tensor
from torch.nn import functional as F

from sdedit_pl.networks.fir import FIRDownsample, FIRFilter, FIRUpsample
from sdedit_pl.networks.layers import Downsample, Upsample

BOX = (1.0, 1.0)
TRIANGLE = (1.0, 2.0, 1.0)
PUBLISHED = (1.0, 3.0, 3.0, 1.0)
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)
LOPSIDED = (1.0, 2.0, 3.0, 4.0)
LONG = (1.0, 2.0, 3.0, 3.0, 2.0, 1.0)


def resample_with_scipy(x: Tensor, taps: tuple[float, ...], *, up: int, down: int, start: int) -> Tensor:
    """Inserts zeros, filters with gain `up` along each side, keeps every `down`-th sample from `start`."""
    kernel = [up * tap / sum(taps) for tap in taps]
    for axis in (2, 3):
        length = up * x.shape[axis]
        full = torch.from_numpy(upfirdn(kernel, x.numpy(), up=up, axis=axis)).movedim(axis, -1)
        x = F.pad(full, (0, length))[..., start : start + length : down].movedim(-1, axis)
    return x


@pytest.mark.parametrize("taps", [BOX, TRIANGLE, PUBLISHED, BINOMIAL, LOPSIDED, LONG])
def test_upsampling_agrees_with_scipy(taps):
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    expected = resample_with_scipy(x, taps, up=2, down=1, start=(len(taps) - 2) // 2)
    torch.testing.assert_close(FIRUpsample(3, taps).double()(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("taps", [BOX, TRIANGLE, PUBLISHED, BINOMIAL, LOPSIDED, LONG])
def test_downsampling_agrees_with_scipy(taps):
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    expected = resample_with_scipy(x, taps, up=1, down=2, start=len(taps) // 2)
    torch.testing.assert_close(FIRDownsample(3, taps).double()(x), expected, rtol=1e-6, atol=1e-6)


def test_upsampling_is_the_adjoint_of_downsampling():
    """For a symmetric filter <up x, y> = 4 <x, down y>: the gradient of one is the other."""
    x, y = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 16, 16)
    up, down = FIRUpsample(3, PUBLISHED), FIRDownsample(3, PUBLISHED)
    torch.testing.assert_close((up(x) * y).sum(), 4 * (x * down(y)).sum(), rtol=1e-4, atol=1e-3)


def test_constant_images_stay_constant_away_from_the_border():
    ones = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(FIRUpsample(1, PUBLISHED)(ones)[..., 2:-2, 2:-2], torch.ones(1, 1, 12, 12))
    torch.testing.assert_close(FIRDownsample(1, PUBLISHED)(ones)[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("taps", [BOX, TRIANGLE, PUBLISHED, BINOMIAL])
def test_a_convolution_that_downsamples_commutes_with_its_filter(taps):
    """Away from the border, that is."""
    layer = Downsample(3, 5, convolve=True, fir_kernel=taps)
    torch.nn.init.normal_(layer.convolution.bias)
    x = torch.randn(2, 3, 18, 16)
    convolved = F.conv2d(x, layer.convolution.weight, layer.convolution.bias, padding=1)
    expected, actual = FIRDownsample(5, taps)(convolved), layer(x)
    assert actual.shape == expected.shape == (2, 5, 9, 8)
    torch.testing.assert_close(actual[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("taps", [BOX, TRIANGLE, PUBLISHED, BINOMIAL])
def test_a_convolution_that_upsamples_commutes_with_its_filter(taps):
    """Away from the border, that is."""
    layer = Upsample(3, 5, convolve=True, fir_kernel=taps)
    torch.nn.init.normal_(layer.convolution.bias)
    x = torch.randn(2, 3, 9, 8)
    expected = F.conv2d(FIRUpsample(3, taps)(x), layer.convolution.weight, layer.convolution.bias, padding=1)
    actual = layer(x)
    assert actual.shape == expected.shape == (2, 5, 18, 16)
    torch.testing.assert_close(actual[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3], rtol=1e-4, atol=1e-5)


def test_autocast_leaves_the_filter_in_full_precision():
    x = torch.randn(2, 4, 8, 8)
    for layer in (FIRUpsample(4, PUBLISHED), FIRFilter(4, PUBLISHED, before=2, after=1)):
        with torch.autocast("cpu", torch.bfloat16):
            inside, lowered = layer(x), layer(x.bfloat16())
        assert torch.equal(inside, layer(x))
        assert lowered.dtype == torch.bfloat16


@pytest.mark.parametrize("taps", [BOX, TRIANGLE, PUBLISHED, BINOMIAL, LOPSIDED, LONG])
def test_the_compiled_form_equals_the_convolutions(taps):
    x = torch.randn(2, 3, 10, 8, dtype=torch.float64)
    layers = [FIRUpsample(3, taps), FIRDownsample(3, taps)]
    layers += [FIRFilter(3, taps, before=3, after=1, gain=4.0), FIRFilter(3, taps, before=2, after=3)]
    for layer in layers:
        torch.testing.assert_close(layer.fused(x), layer.double()(x), rtol=1e-6, atol=1e-6)


def test_filters_are_not_saved():
    assert not FIRUpsample(4, PUBLISHED).state_dict()
    assert not FIRDownsample(4, PUBLISHED).state_dict()


@pytest.mark.parametrize("taps", [(), (1.0,), (1.0, -1.0)])
def test_a_filter_that_is_none_is_refused(taps):
    with pytest.raises(ValueError, match="at least two numbers that do not sum to zero"):
        FIRDownsample(3, taps)
