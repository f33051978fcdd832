"""Edits of many guides with many seeds: a sample depends only on its guide, mask and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from sdedit_pl import SDEdit, load_denoiser
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.batch_independence import prepare_for_batches
from sdedit_pl.editing.many_guides import Edited, default_batch, edit_guides
from sdedit_pl.editing.windows import windowed
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.machine import Machine
from sdedit_pl.parameterisations import Epsilon
from sdedit_pl.sde import VPSDE

EDIT = SDEdit(t0=0.5, steps=5)
SEEDS = (3, 0, 8)
SAME = {"rtol": 0.0, "atol": 0.0}


@pytest.fixture(scope="module")
def denoiser(tiny_checkpoint: Path) -> Denoiser:
    return load_denoiser(tiny_checkpoint)


def some_guides(count: int) -> list[Guide]:
    images = torch.rand(count, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return [Guide(Path(f"{number}.png"), image, (16, 16)) for number, image in enumerate(images)]


def left_half() -> Tensor:
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., :8] = True
    return mask


def run(denoiser: Denoiser, batch: int, seeds: Sequence[int] = SEEDS, edit: SDEdit = EDIT) -> list[Edited]:
    guides = some_guides(3)
    return list(edit_guides(denoiser, edit, guides, [None, left_half(), None], seeds, batch=batch))


def test_each_guide_gets_a_sample_for_each_seed_in_order(denoiser: Denoiser) -> None:
    edits = run(denoiser, batch=4)
    assert [edited.guide.path.name for edited in edits] == ["0.png", "1.png", "2.png"]
    for edited, mask in zip(edits, (None, left_half(), None), strict=True):
        assert edited.seeds == SEEDS and edited.samples.shape == (3, 3, 16, 16)
        for seed, sample in zip(SEEDS, edited.samples, strict=True):
            alone = EDIT(denoiser, edited.guide.image, edit_mask=mask, seeds=[seed])
            torch.testing.assert_close(sample, alone[0], **SAME)
        assert torch.equal(edited.noised, EDIT.noised_guide(denoiser, edited.guide.image, seeds=[3]))
    kept = edits[1].samples[..., 8:]
    assert torch.equal(kept, edits[1].guide.image[..., 8:].expand_as(kept))
    assert not torch.equal(edits[0].samples[..., 8:], edits[0].guide.image[..., 8:].expand_as(kept))


@pytest.mark.parametrize("batch", [1, 2, 4, 7, 100])
def test_the_batch_changes_nothing(denoiser: Denoiser, batch: int) -> None:
    for expected, edited in zip(run(denoiser, batch=3), run(denoiser, batch), strict=True):
        torch.testing.assert_close(edited.samples, expected.samples, **SAME)


def test_further_seeds_change_nothing(denoiser: Denoiser) -> None:
    more = run(denoiser, batch=5, seeds=(9, *SEEDS, 1))
    for expected, edited in zip(run(denoiser, batch=5), more, strict=True):
        torch.testing.assert_close(edited.samples[1:4], expected.samples, **SAME)


def test_steps_are_reported_for_every_sample(denoiser: Denoiser) -> None:
    steps: list[int] = []
    edit = SDEdit(steps=4, repeats=2)
    list(edit_guides(denoiser, edit, some_guides(2), [None, None], SEEDS, batch=4, on_step=steps.append))
    assert sum(steps) == 2 * len(SEEDS) * edit.steps * edit.repeats
    assert max(steps) == 4


def test_guides_are_yielded_as_soon_as_they_are_complete(denoiser: Denoiser) -> None:
    steps: list[int] = []
    edits = edit_guides(denoiser, EDIT, some_guides(2), [None, None], [0], batch=1, on_step=steps.append)
    next(edits)
    assert sum(steps) == EDIT.steps


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Limits the memory of every device to a number of samples; returns the list of attempted batch sizes."""
    edit = SDEdit.__call__

    def limit(room: int) -> list[int]:
        batches: list[int] = []

        def call(self: SDEdit, denoiser: Denoiser, guide: Tensor, **arguments: Any) -> Tensor:
            batches.append(len(guide))
            if len(guide) > room:
                arguments["callback"](guide, 0.5)
                raise torch.OutOfMemoryError("as on a GPU")
            return edit(self, denoiser, guide, **arguments)

        monkeypatch.setattr(SDEdit, "__call__", call)
        return batches

    return limit


def test_a_batch_that_does_not_fit_is_halved(denoiser: Denoiser, room_for: Callable[[int], list[int]]) -> None:
    arguments = (denoiser, EDIT, some_guides(3), [None] * 3, SEEDS)
    usual, steps = list(edit_guides(*arguments)), []
    batches = room_for(2)
    edits = list(edit_guides(*arguments, on_step=steps.append))
    assert batches == [9, 4, 2, 2, 2, 2, 1]
    assert sum(steps) == 3 * 3 * 5
    for edited, its in zip(edits, usual, strict=True):
        assert torch.equal(edited.samples, its.samples)


def test_the_batches_of_a_compiled_network_shrink_too(
    denoiser: Denoiser, room_for: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoiser, "at_once", 9)
    room_for(2)
    list(edit_guides(denoiser, EDIT, some_guides(3), [None] * 3, SEEDS, on_step=Mock()))
    assert denoiser.at_once == 2


class Recorded(nn.Module):
    """Remembers the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.batches: list[int] = []

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.convolution(x)


@pytest.mark.parametrize("compile", [True, False])
def test_a_compiled_network_gets_batches_of_one_size(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdedit_pl.machine.prepare_network", Mock())
    monkeypatch.setattr("sdedit_pl.machine.this_machine", lambda device: Machine(device, "a GPU", bf16=True))
    with FakeTensorMode():
        with torch.device("cuda"):
            denoiser = Denoiser(network := Recorded(), Epsilon(), VPSDE())
        prepare_for_batches(denoiser, 4, 64, 1, "float32", compile)
        for count in (4, 3):
            x = torch.empty(count, 3, 8, 8, device="cuda")
            assert denoiser(x, torch.ones(count, device="cuda")).shape == x.shape
    assert network.batches == ([4, 4] if compile else [4, 3])


@pytest.mark.parametrize(
    ("room", "batch", "message"),
    [
        (2, 3, "cpu has too little memory .* 3 samples; give a smaller batch"),
        (0, None, "memory for a single sample"),
    ],
)
def test_a_requested_batch_or_a_single_sample_is_not_halved(
    denoiser: Denoiser, room_for: Callable[[int], list[int]], room: int, batch: int | None, message: str
) -> None:
    room_for(room)
    with pytest.raises(ValueError, match=message):
        list(edit_guides(denoiser, EDIT, some_guides(1), [None], SEEDS, batch=batch, on_step=lambda samples: None))


def test_a_strength_map_of_0_and_1_is_a_mask(denoiser: Denoiser) -> None:
    maps = list(edit_guides(denoiser, EDIT, some_guides(3), [None, left_half().float(), None], SEEDS))
    masks = list(edit_guides(denoiser, EDIT, some_guides(3), [None, left_half(), None], SEEDS))
    for of_map, of_mask in zip(maps, masks, strict=True):
        assert torch.equal(of_map.samples, of_mask.samples)


def test_guides_of_several_sizes_are_edited_apart(denoiser: Denoiser) -> None:
    guides = some_guides(3)
    guides[1] = guides[1]._replace(image=torch.nn.functional.interpolate(guides[1].image, size=(20, 32)))
    windows = windowed(denoiser, 16, 8)
    edits = list(edit_guides(windows, EDIT, guides, [None] * 3, SEEDS))
    assert [edited.samples.shape[2:] for edited in edits] == [(16, 16), (20, 32), (16, 16)]
    alone = next(edit_guides(denoiser, EDIT, guides[2:], [None], SEEDS))
    torch.testing.assert_close(edits[2].samples, alone.samples)


def test_the_default_batch_on_a_gpu_is_one_of_pixels():
    gpu = torch.device("cuda")
    assert [default_batch(gpu, side**2) for side in (64, 256, 1024, 4096)] == [256, 16, 1, 1]
    assert default_batch(torch.device("cpu"), 64**2) == default_batch(torch.device("cpu"), 256**2)
