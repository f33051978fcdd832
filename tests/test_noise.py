"""Noise is a function of (seed of the sample, step, draw) alone, with the distribution of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support.tiny import tiny_config
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.noise import NOISES, Distribution, PrefetchedNoise, SeededNoise, Simplex, StepNoise, hash64

LIKE = torch.zeros(3, 3, 8, 8)


@pytest.mark.parametrize("name", NOISES)
def test_a_sample_has_its_noise_in_any_batch(name: str) -> None:
    kind = NOISES[name]()
    batch = SeededNoise([5, 6, 7], kind)(4, 1, LIKE)
    assert torch.equal(SeededNoise([7], kind)(4, 1, LIKE[:1])[0], batch[2])
    assert torch.equal(SeededNoise([6, 9, 5], kind)(4, 1, LIKE)[0], batch[1])


@pytest.mark.parametrize("kind", [*(cls() for cls in NOISES.values()), Simplex(1, 3.7), Simplex(2, 900.0, 1.0)])
def test_every_pixel_has_unit_variance(kind: Distribution) -> None:
    torch.manual_seed(0)
    found = kind.fill(torch.empty(8000, 2, 6, 9))
    assert found.mean(0).abs().max() < 0.06 and (found.var(0) - 1).abs().max() < 0.12
    assert (found[:, 0] * found[:, 1]).mean().abs() < 0.05  # channels and images are independent
    assert (found[1:] * found[:-1]).mean().abs() < 0.05


def test_simplex_noise_is_smooth_and_its_octaves_are_not() -> None:
    torch.manual_seed(0)
    for wavelength, octaves, expected in ((64.0, 1, 1.0), (2.0, 1, 0.0), (64.0, 6, 0.75)):
        found = Simplex(octaves, wavelength).fill(torch.empty(300, 1, 32, 32))
        assert (found[..., 1:] * found[..., :-1]).mean() == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("arguments", [{"octaves": 0}, {"octaves": 99}, {"wavelength": 1e-30}, {"persistence": 1.5}])
def test_simplex_noise_refuses_impossible_octaves(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1 octave, cells of at least 0"):
        Simplex(**arguments)


def test_the_global_stream_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    first, state = SeededNoise([1, 2, 3])(0, 0, LIKE), torch.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(SeededNoise([1, 2, 3])(0, 0, LIKE), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_address_has_noise_of_its_own() -> None:
    like = torch.zeros(4, 1, 4, 4)
    draws = [image for step in range(4) for draw in range(4) for image in SeededNoise(range(4))(step, draw, like)]
    flat = torch.stack(draws).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlation.abs().max() < 0.95


def test_noise_is_standard_normal_also_across_neighbouring_seeds() -> None:
    values = SeededNoise(range(2000))(1, 0, torch.zeros(2000, 1, 4, 4))
    assert values.mean().abs() < 0.02
    assert (values.std() - 1).abs() < 0.02
    assert torch.corrcoef(values.flatten(1).T)[0, 1:].abs().max() < 0.1
    neighbours = values.flatten(1)
    assert (neighbours[:-1] * neighbours[1:]).mean().abs() < 0.02


def test_noise_takes_the_dtype_of_the_state() -> None:
    single, double = (SeededNoise([1, 2, 3])(0, 0, LIKE.to(dtype)) for dtype in (torch.float32, torch.float64))
    assert double.dtype == torch.float64
    assert torch.equal(single.double(), double)


def test_hash_is_splitmix64() -> None:
    assert hash64(0) == 0xE220A8397B1DCDAF  # the first output of the published generator from state 0
    assert len({hash64(seed, step, draw) for seed in range(20) for step in range(20) for draw in range(20)}) == 8000
    assert 0 <= hash64(2**64 - 1, 1, 2) < 2**64


def test_a_step_shares_one_draw_and_hands_out_fresh_ones() -> None:
    noise = SeededNoise([1, 2, 3])
    step = StepNoise(noise, 5, LIKE)
    assert torch.equal(step.fresh(), noise(5, 1, LIKE))
    assert torch.equal(step.shared, noise(5, 0, LIKE))
    assert step.shared is step.shared
    assert torch.equal(step.fresh(), noise(5, 2, LIKE))


def test_a_silent_step_keeps_its_fresh_draws() -> None:
    step = StepNoise(SeededNoise([1, 2, 3]), 5, LIKE, silent=True)
    assert (step.shared == 0).all()
    assert step.fresh().std() > 0.5


@pytest.mark.parametrize("seeds", [[], [-1], [2**64]])
def test_impossible_seeds_are_refused(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match=r"integers in \[0, 2\^64\), one for each sample"):
        SeededNoise(seeds)


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="2 seeds cannot noise a batch of 3; give one for each"):
        SeededNoise([1, 2])(0, 0, LIKE)


def test_a_new_noise_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Signs(Distribution):
        """Noise of -1 and 1."""

        def fill(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
            return images.normal_(generator=generator).sign_()

    monkeypatch.setitem(NOISES, "signs", Signs)
    denoiser = build_denoiser(tiny_config("data.path=unused", "noise=signs").model)
    assert (SeededNoise([3, 4], denoiser.noise)(0, 0, torch.zeros(2, 3, 8, 8)).abs() == 1).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_noise_drawn_ahead_is_that_of_the_steps(mode):
    """Also in inference mode, which the threads that draw are not in."""
    seeded, like = SeededNoise([3, 4]), torch.empty(2, 3, 5, 5)
    with mode(), PrefetchedNoise(seeded, last_step=4) as ahead:
        assert all(
            torch.equal(ahead(step, draw, like), seeded(step, draw, like)) for step in range(6) for draw in (0, 1)
        )
