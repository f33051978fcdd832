"""Windows: they cover the image, blend without seams, and bound the memory."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from sdedit_pl import SDEdit, load_denoiser
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.windows import WINDOWS_AT_ONCE, Windowed, window_starts, windowed
from sdedit_pl.parameterisations import PARAMETERISATIONS, CleanImage, EpsilonAndVariance
from sdedit_pl.sde import VPSDE
from sdedit_pl.solvers import SOLVERS
from sdedit_pl.typing import Images

SIZE, OVERLAP = 16, 8


class Pixelwise(nn.Module):
    """A pixelwise network."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(self.weight * x)


class Blur(nn.Module):
    """A network that averages over `reach` pixels around each, and repeats border pixels outside its input."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (self.reach,) * 4, mode="replicate")
        return self.weight * nn.functional.avg_pool2d(padded, 2 * self.reach + 1, stride=1)


class Levels(nn.Module):
    """A network whose outputs alternate between 0 and 1 from window to window: the largest disagreement."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls: list[int] = []

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        numbers = sum(self.calls) + torch.arange(len(x))
        self.calls.append(len(x))
        return (self.weight * (numbers % 2))[:, None, None, None].expand(x.shape)


def images(*shape: int, seed: int = 0) -> Images:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def label(count: int = 1) -> Tensor:
    return torch.zeros(count)


@pytest.mark.parametrize("size", [4, 16])
def test_windows_cover_every_length_and_share_what_was_asked(size: int) -> None:
    for length, overlap in product(range(size, 4 * size), range(size)):
        starts = window_starts(length, size, overlap)
        assert starts[0] == 0 and starts[-1] == length - size
        assert all(0 < later - start <= size - overlap for start, later in pairwise(starts))
        assert len(starts) == 1 + -(-(length - size) // (size - overlap)), "as few as possible"


def test_windows_are_evenly_spaced() -> None:
    assert window_starts(128, 64, 32) == [0, 32, 64]
    assert window_starts(100, 64, 32) == [0, 18, 36]
    assert window_starts(64, 64, 32) == [0]


@pytest.mark.parametrize("shape", [(16, 16), (16, 37), (33, 50)])
@pytest.mark.parametrize("overlap", [0, 5, 15])
def test_pixelwise_networks_give_the_same_with_windows(shape: tuple[int, int], overlap: int) -> None:
    network, x = Pixelwise(), images(2, 3, *shape)
    whole = network(x, label(2))
    blended = Windowed(network, SIZE, overlap)(x, label(2))
    torch.testing.assert_close(blended, whole, rtol=1e-6, atol=1e-6)
    assert torch.equal(blended[..., 0, 0], whole[..., 0, 0]), "a pixel in one window only equals that window's output"


def test_pixels_far_from_the_borders_of_windows_are_exact() -> None:
    network, x, reach = Blur(2), images(1, 3, 48, 48), 2
    whole = network(x, label())
    blended = Windowed(network, SIZE, OVERLAP)(x, label())
    hidden = torch.zeros(48, 48, dtype=torch.bool)
    for start in window_starts(48, SIZE, OVERLAP):
        for border in (start, start + SIZE):
            if 0 < border < 48:
                near = slice(border - reach, border + reach)
                hidden[near] = hidden[:, near] = True
    assert 0.1 < hidden.float().mean() < 0.9
    error = (blended - whole).abs().amax((0, 1))
    assert error[~hidden].max() < 1e-6
    assert error[hidden].max() > 1e-3, "errors at the borders of windows must be visible for the test to be meaningful"


def test_outputs_that_differ_from_window_to_window_leave_no_seam() -> None:
    """Along a row, the blend of windows at 0 and 1 is nowhere steeper than a cosine over the overlap."""
    x = torch.zeros(1, 1, SIZE, 5 * SIZE)
    blended = Windowed(Levels(), SIZE, OVERLAP)(x, label())[0, 0, 0]
    steps = blended.diff().abs()
    assert blended.min() >= 0 and blended.max() <= 1 and steps.max() > 0.1
    assert steps.max() < 1.01 * torch.pi / 2 / OVERLAP
    starts = window_starts(5 * SIZE, SIZE, OVERLAP)
    borders = torch.tensor([*starts[1:], *(start + SIZE for start in starts[:-1])]) - 1
    assert steps[borders].mean() < 0.5 * steps.mean(), "gradients are smallest where windows begin and end"
    hard = Windowed(Levels(), SIZE, 0)(x, label())[0, 0, 0].diff().abs()
    assert hard.max() == 1, "without an overlap there are seams"


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_blending_outputs_blends_estimates(name: str) -> None:
    """With windows, the estimates are weighted means of the estimates for each window."""
    parameterisation = PARAMETERISATIONS[name]()
    network = Twice(Blur(3)) if parameterisation.learned_variance else Blur(3)
    denoiser = Denoiser(network, parameterisation, VPSDE())
    x, t = images(2, 3, 16, 24), torch.tensor([0.3, 0.8])
    large = windowed(denoiser, SIZE, OVERLAP)
    ramp = torch.sin(torch.pi * (torch.arange(SIZE) + 0.5) / SIZE).square()
    left, right = (nn.functional.pad(ramp, sides) for sides in ((0, 8), (8, 0)))
    share = left / (left + right)
    with torch.no_grad():
        for method in ("forward", "score"):
            first, second = (getattr(denoiser, method)(part, t) for part in (x[..., :16], x[..., 8:]))
            expected = share * nn.functional.pad(first, (0, 8)) + (1 - share) * nn.functional.pad(second, (8, 0))
            torch.testing.assert_close(getattr(large, method)(x, t), expected, rtol=1e-4, atol=1e-4)


class Twice(nn.Module):
    """A network with a learned variance."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        output = self.network(x, label)
        return torch.cat([output, 0.5 * output], dim=1)


def test_a_learned_variance_is_blended_too() -> None:
    denoiser = windowed(Denoiser(Twice(Pixelwise()), EpsilonAndVariance(), VPSDE()), SIZE, OVERLAP)
    x, t = images(1, 3, 24, 30), torch.tensor([0.4])
    weight = denoiser.estimates(x, t).variance_weight
    assert weight is not None
    torch.testing.assert_close(weight, (0.5 * torch.tanh(0.7 * x) + 1) / 2)


@pytest.mark.parametrize("solver", ["ancestral", "dpm_solver_2m"])
def test_an_edit_depends_little_on_where_the_windows_lie(solver: str) -> None:
    """An edit of twice the window size with a denoiser that is wrong at window borders; one more pixel of overlap
    moves most windows.
    """
    guide = nn.functional.interpolate(images(1, 3, 8, 8).clamp(-1, 1), (32, 32), mode="bilinear")

    def difference(overlap: int) -> Tensor:
        network = Denoiser(Blur(1), CleanImage(), VPSDE())
        edit = SDEdit(t0=0.5, steps=10, solver=SOLVERS[solver]())
        first, second = (edit(windowed(network, SIZE, its), guide) for its in (overlap, overlap + 1))
        return (first - second).abs()

    assert difference(OVERLAP).max() < 0.02
    assert difference(OVERLAP).max() < 0.1 * difference(0).max()


def test_an_image_has_the_same_bits_in_every_batch(tiny_checkpoint: Path) -> None:
    denoiser = windowed(load_denoiser(tiny_checkpoint), SIZE, OVERLAP)
    x, t = images(2, 3, 16, 26), torch.tensor([0.2, 0.9])
    alone = torch.cat([denoiser(x[index : index + 1], t[index : index + 1]) for index in range(2)])
    assert torch.equal(denoiser(x, t), alone)
    in_groups = windowed(load_denoiser(tiny_checkpoint), SIZE, OVERLAP)
    in_groups.network.at_once = 5
    alone = torch.cat([in_groups(x[index : index + 1], t[index : index + 1]) for index in range(2)])
    assert torch.equal(in_groups(x, t), alone)
    torch.testing.assert_close(denoiser(x, t), alone)


@pytest.mark.parametrize(("own", "most"), [(None, WINDOWS_AT_ONCE), (1, 1), (3, 3)])
def test_the_network_sees_a_bounded_number_of_windows(own: int | None, most: int) -> None:
    network = Levels()
    denoiser = Denoiser(network, CleanImage(), VPSDE(), at_once=own)
    windowed(denoiser, SIZE, OVERLAP)(images(3, 1, 80, 80), torch.full((3,), 0.5))
    assert max(network.calls) == most and sum(network.calls) == 3 * 9 * 9


def test_blending_is_as_precise_as_float32_whatever_the_network() -> None:
    x = images(1, 3, 40, 40)
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        network = Pixelwise().to(dtype)
        blended = Windowed(network, SIZE, OVERLAP)(x.to(dtype), label())
        assert blended.dtype == expected
        torch.testing.assert_close(blended, network(x.to(dtype), label()).to(expected), rtol=1e-6, atol=1e-6)


def test_the_order_of_memory_does_not_matter() -> None:
    seen = []
    network = Pixelwise()
    network.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    x, large = images(1, 3, 40, 40), Windowed(network, SIZE, OVERLAP, at_once=4)
    assert torch.equal(large(x.to(memory_format=torch.channels_last), label()), large(x, label()))
    assert all(seen[: len(seen) // 2]) and not any(seen[len(seen) // 2 :])


def test_nothing_is_read_from_the_device() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        denoiser = windowed(Denoiser(Pixelwise(), CleanImage(), VPSDE()), SIZE, OVERLAP)
        estimate = denoiser(torch.zeros(2, 3, 40, 52), torch.full((2,), 0.5))
        assert estimate.device.type == "cuda" and estimate.shape == (2, 3, 40, 52)


def test_weights_time_range_and_mode_are_the_denoisers(tiny_checkpoint: Path) -> None:
    denoiser = Denoiser(load_denoiser(tiny_checkpoint).network, CleanImage(), VPSDE(), t_max=0.7).eval()
    large = windowed(denoiser, SIZE, OVERLAP, trained_size=16)
    assert large.t_max == 0.7 and not large.training and large.sde is denoiser.sde
    assert {id(weight) for weight in large.parameters()} == {id(weight) for weight in denoiser.parameters()}


def test_impossible_windows_are_refused(tiny_checkpoint: Path) -> None:
    denoiser = load_denoiser(tiny_checkpoint)
    with pytest.raises(ValueError, match=r"multiple of 2 px .* got 17; .* 18"):
        windowed(denoiser, 17, 4)
    with pytest.raises(ValueError, match=r"multiple of 2 px .* got 0; .* 2"):
        windowed(denoiser, 0, 0)
    with pytest.raises(ValueError, match=r"lie in \[0, 16\), got -1; try 8"):
        windowed(denoiser, 16, -1)
    with pytest.raises(ValueError, match=r"images of 40x12 are smaller than a window of 16x16; give larger"):
        windowed(denoiser, 16, 8)(images(1, 3, 12, 40), torch.tensor([0.5]))
