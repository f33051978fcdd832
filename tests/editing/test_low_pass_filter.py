"""The low-pass filter: its effect, and the reduction against torch's antialiased interpolation."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from sdedit_pl.editing.low_pass_filter import low_frequencies, reduced_by_matrices


@pytest.mark.parametrize(("height", "width"), [(8, 8), (37, 50), (96, 200)])
@pytest.mark.parametrize("factor", [2, 3, 8, 48])
def test_the_reduction_equals_antialiased_interpolation(height: int, width: int, factor: int) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    size = max(1, height // factor), max(1, width // factor)
    expected = interpolate(images, size, mode="bicubic", antialias=True)
    torch.testing.assert_close(reduced_by_matrices(images, *size), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(reduced_by_matrices(images.float(), *size), expected.float(), rtol=0, atol=1e-6)


def test_low_frequencies_pass_and_high_ones_do_not() -> None:
    across = torch.arange(32.0)[None, None, None].expand(1, 1, 32, 32)
    slow, fast = torch.cos((across + 0.5) * torch.pi / 32), torch.cos(across * torch.pi)
    assert (low_frequencies(slow, 4) - slow).abs().max() < 0.02
    assert low_frequencies(fast, 4).abs().max() < 0.1
    torch.testing.assert_close(low_frequencies(torch.ones(1, 1, 10, 6), 4), torch.ones(1, 1, 10, 6))
