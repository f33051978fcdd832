"""Noise is a function of (seed of the sample, step, draw) alone."""

from __future__ import annotations

import pytest
import torch

from sdedit_pl.noise import SeededNoise, StepNoise, mixed

LIKE = torch.zeros(3, 3, 8, 8)


def test_a_sample_has_its_noise_in_any_batch() -> None:
    batch = SeededNoise([5, 6, 7])(4, 1, LIKE)
    assert torch.equal(SeededNoise([7])(4, 1, LIKE[:1])[0], batch[2])
    assert torch.equal(SeededNoise([6, 9, 5])(4, 1, LIKE)[0], batch[1])


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
    assert mixed(0) == 0xE220A8397B1DCDAF  # the first output of the published generator from state 0
    assert len({mixed(seed, step, draw) for seed in range(20) for step in range(20) for draw in range(20)}) == 8000
    assert 0 <= mixed(2**64 - 1, 1, 2) < 2**64


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
