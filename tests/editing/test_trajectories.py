"""Trajectories: recording leaves edits unchanged, keeps evenly spaced estimates, and is shown with titles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from sdedit_pl import SDEdit, load_denoiser
from sdedit_pl.data.image_format import PixelFormat, bytes_from_images
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.trajectories import (
    LARGEST_SIDE,
    SHOWN_SAMPLES,
    RecordingDenoiser,
    Trajectory,
    save_animation,
    strip,
)
from sdedit_pl.parameterisations import PARAMETERISATIONS, CleanImage
from sdedit_pl.picture_grid import MARGIN, SMALLEST_CELL, title_height
from sdedit_pl.sde import VESDE, VPSDE
from sdedit_pl.solvers import SOLVERS
from sdedit_pl.typing import Images

STEP = SMALLEST_CELL + MARGIN
TITLE_HEIGHT = title_height(SMALLEST_CELL)


class Counted(nn.Module):
    """A network whose n-th output is n everywhere, from 0 on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()), requires_grad=False)
        self.calls = 0

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.calls += 1
        return torch.full_like(x, (self.calls - 1) / 127.5 - 1)


def guide() -> Images:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def recorded(evaluations: int, frames: int = 8) -> Trajectory:
    """The trajectory of estimates equal to their numbers, at times that fall from 1 in steps of 0.001."""
    denoiser = RecordingDenoiser(Denoiser(Counted(), CleanImage(), VPSDE()), frames)
    for number in range(evaluations):
        denoiser(torch.zeros(2, 3, 4, 4), torch.full((2,), 1 - number / 1000))
    return denoiser.trajectory()


def numbers(trajectory: Trajectory) -> list[int]:
    """The numbers of the evaluations that the frames show."""
    return trajectory.images[:, 0, 0, 0, 0].tolist()


def test_frames_show_the_stated_bands_in_their_window() -> None:
    pixels = PixelFormat("float32", range=(0.0, 255.0), shown=(3,), window=(0.0, 4.0))
    denoiser = RecordingDenoiser(Denoiser(Counted(), CleanImage(), VPSDE()), format=pixels)
    for _ in range(6):
        denoiser(torch.zeros(1, 4, 4, 4), torch.ones(1))
    assert denoiser.trajectory().images.shape[2] == 1 and denoiser.trajectory().images[-1].unique() == 255


def some_trajectory(count: int = 2, frames: int = 5, size: int = 16) -> Trajectory:
    """Frame n of sample m is grey of level 10 n + m."""
    levels = 10 * torch.arange(frames)[:, None] + torch.arange(count)
    images = levels[..., None, None, None].expand(-1, -1, 3, size, size).to(torch.uint8)
    times = tuple(0.5 - 0.1 * number for number in range(frames))
    return Trajectory(times, tuple(3.0 * time for time in times), images.contiguous())


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_edit_is_the_same_bit_for_bit_and_costs_no_evaluation(tiny_checkpoint: Path, solver: str) -> None:
    denoiser, calls = load_denoiser(tiny_checkpoint), []
    denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    edit = SDEdit(t0=0.1, steps=3, solver=SOLVERS[solver]())
    plain, cost = edit(denoiser, guide(), seeds=[3]), len(calls)
    watched = RecordingDenoiser(denoiser)
    assert torch.equal(edit(watched, guide(), seeds=[3]), plain)
    assert len(calls) == 2 * cost
    trajectory = watched.trajectory()
    assert trajectory.images.shape == (cost, 1, 3, 16, 16)
    assert torch.equal(trajectory.images[-1], bytes_from_images(plain)), "the last estimate is the result"


@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_published_variants_are_recorded_too(tiny_checkpoint: Path, variant: str) -> None:
    denoiser, edit = load_denoiser(tiny_checkpoint), SDEdit(t0=0.1, steps=4, variant=variant)
    watched = RecordingDenoiser(denoiser)
    assert torch.equal(edit(watched, guide()), edit(denoiser, guide()))
    assert watched.trajectory().times == pytest.approx((0.1, 0.075, 0.05, 0.025))


@pytest.mark.parametrize("name", PARAMETERISATIONS)
def test_every_method_returns_the_denoisers_result_and_records_it(name: str) -> None:
    parameterisation, x, t = PARAMETERISATIONS[name](), guide(), torch.tensor([0.4])
    network = nn.Conv2d(3, parameterisation.output_channels(3), 3, padding=1)
    denoiser = Denoiser(Labelled(network), parameterisation, VPSDE())
    watched = RecordingDenoiser(denoiser)
    with torch.no_grad():
        assert torch.equal(watched(x, t), denoiser(x, t))
        assert torch.equal(watched.score(x, t), denoiser.score(x, t))
        for got, expected in zip(watched.estimates(x, t), denoiser.estimates(x, t), strict=True):
            assert got is expected is None or torch.equal(got, expected)
    assert torch.equal(watched.trajectory().images, bytes_from_images(denoiser(x, t)).expand(3, 1, -1, -1, -1))


class Labelled(nn.Module):
    """A network that ignores the noise level."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.network(x)


def test_few_evaluations_are_all_kept() -> None:
    trajectory = recorded(7)
    assert numbers(trajectory) == list(range(7))
    assert trajectory.times == pytest.approx([1 - number / 1000 for number in range(7)])
    levels = VPSDE().noise_level(torch.tensor(trajectory.times, dtype=torch.float64))
    assert trajectory.noise_levels == pytest.approx(levels.tolist())


@pytest.mark.parametrize("frames", [3, 8, 9])
def test_many_evaluations_are_kept_evenly_spaced_with_the_first_and_the_last(frames: int) -> None:
    for evaluations in (1, 2, 3, 5, 8, 9, 16, 17, 31, 50, 99):
        kept = numbers(recorded(evaluations, frames))
        assert kept[0] == 0 and kept[-1] == evaluations - 1 and len(kept) <= frames
        assert len(kept) >= min(evaluations, frames // 2)
        gaps = np.diff(kept)
        assert len(set(gaps[:-1])) <= 1 and all(0 < gap <= gaps[0] for gap in gaps[-1:])


def test_recorded_estimates_are_reduced_to_their_shown_size() -> None:
    denoiser = RecordingDenoiser(Denoiser(Counted(), CleanImage(), VESDE()))
    denoiser(torch.zeros(1, 3, 2 * LARGEST_SIDE, LARGEST_SIDE), torch.tensor([0.5]))
    assert denoiser.trajectory().images.shape == (1, 1, 3, LARGEST_SIDE, LARGEST_SIDE // 2)


def test_nothing_is_read_from_the_device() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        denoiser = RecordingDenoiser(Denoiser(Counted(), CleanImage(), VPSDE()), 4)
        for _ in range(6):
            denoiser(torch.zeros(1, 3, 4, 4), torch.full((1,), 0.5))
            denoiser.score(torch.zeros(1, 3, 4, 4), torch.full((1,), 0.5))


def test_thinning_keeps_both_ends() -> None:
    trajectory = recorded(7)
    for frames, kept in ((2, [0, 6]), (3, [0, 3, 6]), (7, list(range(7))), (20, list(range(7)))):
        assert numbers(trajectory.thinned(frames)) == kept
    assert trajectory.thinned(3).times == pytest.approx([1, 0.997, 0.994])
    assert numbers(recorded(1).thinned(4)) == [0]


def gutter(sheet: Image.Image, columns: int) -> int:
    """Width of the row titles of a sheet."""
    return sheet.width - MARGIN - columns * STEP


def test_a_strip_has_a_row_for_each_sample_and_ends_on_the_results() -> None:
    results = torch.stack([torch.full((3, 16, 16), level / 127.5 - 1) for level in (200, 210)])
    sheet = strip(some_trajectory(), results, [7, 8], frames=3)
    left = gutter(sheet, 4) + MARGIN
    assert sheet.height == TITLE_HEIGHT + 2 * STEP + MARGIN
    pixels = np.asarray(sheet)
    for row in range(2):
        for column, level in enumerate((0, 20, 40, 200)):
            middle = pixels[TITLE_HEIGHT + STEP * row + 64, left + STEP * column + 64]
            assert (middle == level + row * (10 if column == 3 else 1)).all()
        assert (pixels[TITLE_HEIGHT + STEP * row :][:SMALLEST_CELL, : left - MARGIN] < 128).any(), "no row title"
    for column in range(4):
        titles = pixels[:TITLE_HEIGHT, left + STEP * column : left + STEP * (column + 1)]
        assert (titles < 128).any() and (titles[:, -MARGIN:] == 255).all(), "a title is missing or too long"


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_an_animation_shows_each_estimate_and_pauses_at_the_result(tmp_path: Path, suffix: str) -> None:
    results = torch.stack([torch.full((3, 16, 16), level / 127.5 - 1) for level in (200, 210)])
    file = tmp_path / f"animation{suffix}"
    save_animation(file, some_trajectory(), results, [7, 8])
    with Image.open(file) as animation:
        assert animation.format == suffix[1:].upper() and animation.info["loop"] == 0
        assert getattr(animation, "n_frames", 1) == 6
        assert animation.size == (MARGIN + 2 * STEP, TITLE_HEIGHT + STEP + MARGIN)
        durations = []
        for index, levels in enumerate([(10 * frame, 10 * frame + 1) for frame in range(5)] + [(200, 210)]):
            animation.seek(index)
            pixels = np.asarray(animation.convert("RGB")).astype(int)
            durations.append(animation.info["duration"])
            for column, level in enumerate(levels):
                middle = pixels[TITLE_HEIGHT + 64, MARGIN + STEP * column + 64]
                assert np.abs(middle - level).max() <= 3, (index, column)  # lossy
        assert set(durations[:-1]) == {80} and durations[-1] == 2000


def test_pictures_of_many_or_large_samples_are_bounded(tmp_path: Path) -> None:
    count, results = SHOWN_SAMPLES + 3, torch.zeros(SHOWN_SAMPLES + 3, 3, 600, 600)
    trajectory = some_trajectory(count, frames=2, size=LARGEST_SIDE)
    seeds: Sequence[int] = range(count)
    sheet = strip(trajectory, results, seeds)
    assert sheet.height == TITLE_HEIGHT + SHOWN_SAMPLES * (LARGEST_SIDE + MARGIN) + MARGIN
    save_animation(tmp_path / "a.webp", trajectory, results, seeds)
    with Image.open(tmp_path / "a.webp") as animation:
        assert animation.width == MARGIN + SHOWN_SAMPLES * (LARGEST_SIDE + MARGIN)


def test_a_trajectory_needs_an_edit() -> None:
    with pytest.raises(ValueError, match="no trajectory yet; run an edit"):
        recorded(evaluations=0)
