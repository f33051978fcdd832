"""Time grids: exact ends, spacing, and starts with the same noise level for every SDE."""

from __future__ import annotations

import pytest
import torch

from sdedit_pl.grids import GRIDS, Karras, LogSNR, Restart, Uniform, start_time
from sdedit_pl.sde import SDES, VESDE, VPSDE

every_sde = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
every_case = pytest.mark.parametrize(
    ("grid", "sde"),
    [
        pytest.param(GRIDS[grid](), SDES[sde](), id=f"{grid}-{sde}")
        for grid in GRIDS
        for sde in SDES
        if grid != "restart"
    ],
)


@every_case
@pytest.mark.parametrize("t0", [1.0, 0.5, 0.02, 1e-5])
@pytest.mark.parametrize("end", [0.0, 0.3])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_grids_decrease_from_t0_to_the_end(grid, sde, t0: float, end: float, steps: int) -> None:
    end *= t0
    times = grid.times(sde, t0, steps, end)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert (times[0].item(), times[-1].item()) == (t0, end)
    assert (times.diff() < 0).all()


def test_uniform_steps_in_time() -> None:
    torch.testing.assert_close(Uniform().times(VPSDE(), 0.5, 500).diff(), torch.full((500,), -1e-3).double())


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
def test_log_snr_steps_evenly_in_log_snr(sde) -> None:
    times = LogSNR().times(sde, 0.6, 20, end=0.2)
    steps = sde.log_snr(times).diff()
    torch.testing.assert_close(steps, steps.mean().expand(20), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_karras_steps_evenly_in_a_root_of_the_noise_level(sde, rho: float) -> None:
    steps = sde.noise_level(Karras(rho=rho).times(sde, 0.6, 20, end=0.2)).pow(1 / rho).diff()
    torch.testing.assert_close(steps, steps.mean().expand(20), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["log_snr", "karras"])
def test_a_noise_free_end_is_reached_from_the_lowest_level(name: str) -> None:
    sde = VPSDE()
    times = GRIDS[name](lowest=0.05).times(sde, 0.5, 10)
    assert sde.noise_level(times[-2]).item() == pytest.approx(0.05)
    assert times[-1] == 0
    exploding = VESDE(0.02, 100.0)  # its level at t = 0 is above the lowest: no step is spent on an extra one
    steps = GRIDS[name]().times(exploding, 0.5, 10)
    assert exploding.noise_level(steps[-1]).item() == pytest.approx(0.02)
    assert exploding.noise_level(steps[-2]).item() < 0.06


@every_sde
@pytest.mark.parametrize("name", ["log_snr", "karras"])
@pytest.mark.parametrize("t0", [0.6, 0.3])
def test_a_denoised_run_evaluates_no_level_below_the_lowest(sde, name: str, t0: float) -> None:
    """The last time at which the denoiser is evaluated: the lowest level, or on the way to a higher end."""
    steps = 12
    levels = sde.noise_level(GRIDS[name]().times(sde, t0, steps))
    end = sde.noise_level(torch.zeros((), dtype=torch.float64)).item()
    assert (levels[:-1] > 0).all()
    if end < 0.01:
        assert levels[-2].item() == pytest.approx(0.01)
    else:
        assert levels[-1].item() == pytest.approx(end)
        assert levels[-2].item() < 2 * end


@every_sde
@pytest.mark.parametrize("t0", [1.0, 0.45, 0.1, 0.01])
@pytest.mark.parametrize("steps", [9, 40])
def test_restarts_go_up_as_often_as_told_and_cost_what_they_are_given(sde, t0: float, steps: int) -> None:
    grid = Restart(restarts=3, restart_steps=2, top=0.8)
    times = grid.times(sde, t0, steps)
    rises = times.diff() > 0
    assert rises.sum() == 3
    assert (~rises).sum() == steps
    assert (times[0].item(), times[-1].item(), times.max().item()) == (t0, 0.0, t0)
    levels = sde.noise_level(times)
    bottoms, tops = levels[:-1][rises], levels[1:][rises]
    torch.testing.assert_close(tops, torch.full_like(tops, min(0.8, levels[0].item())))
    torch.testing.assert_close(bottoms, bottoms[:1].expand(3))


@every_sde
def test_a_restart_grid_is_a_karras_grid_that_turns_at_the_level_next_to_the_bottom(sde) -> None:
    times = Restart().times(sde, 0.45, 16)
    first = int((times.diff() > 0).nonzero()[0])
    without = torch.cat([times[: first + 1], times[first + 7 :]])
    torch.testing.assert_close(without, Karras().times(sde, 0.45, 12))
    distances = (sde.noise_level(without[1:-1]) / 0.06).log().abs()
    assert distances.argmin() == first - 1
    torch.testing.assert_close(times[first + 1 : first + 4], times[first + 4 : first + 7])
    torch.testing.assert_close(times[first], times[first + 3])


def test_steps_and_t0_are_independent() -> None:
    for steps in (1, 7, 1000):
        times = Uniform().times(VPSDE(), 0.37, steps)
        assert (len(times), times[0].item()) == (steps + 1, 0.37)


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
def test_a_noise_level_is_the_same_level_for_every_sde(sde) -> None:
    t0 = start_time("sigma:1.2", sde)
    assert sde.noise_level(torch.tensor(t0, dtype=torch.float64)).item() == pytest.approx(1.2)


def test_a_number_is_a_time() -> None:
    assert start_time(0.5, VPSDE()) == start_time("0.5", VESDE()) == 0.5


@pytest.mark.parametrize(
    ("t0", "message"),
    [
        (1.5, r"t0 must lie in \(0, 1\], got 1.5; t0=1 samples from the prior"),
        (0.0, r"t0 must lie in \(0, 1\], got 0.0"),
        (float("nan"), r"t0 must lie in \(0, 1\], got nan"),
        ("half", r"a time in \(0, 1\] or a noise level such as sigma:1.2, got 'half'"),
        ("sigma:-1", "noise level of t0 must be positive, got sigma:-1"),
        ("sigma:inf", "noise level of t0 must be positive"),
        ("sigma:1e6", "noise levels above 0 and up to 152.2?, got t0=sigma:1e6"),
    ],
)
def test_impossible_starts_are_refused(t0: float | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start_time(t0, VPSDE())


def test_a_level_below_an_exploding_sde_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise levels above 0.01 and up to 50, got t0=sigma:0.005"):
        start_time("sigma:0.005", VESDE())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform().times(VPSDE(), 1.5, 10), r"t0 must lie in \(0, 1\], got 1.5"),
        (lambda: Uniform().times(VPSDE(), 0.5, 0), "steps must be at least 1, got 0"),
        (lambda: Uniform().times(VPSDE(), 0.5, 10, end=0.5), r"end must lie in \[0, t0\), got 0.5 with t0=0.5"),
        (lambda: LogSNR(lowest=0.0), "lowest noise level of a grid must be positive, got 0.0"),
        (lambda: Karras(rho=0.5), "rho of a Karras grid must be at least 1, got 0.5; 7 is"),
        (lambda: Karras(lowest=-1.0), "lowest noise level of a grid must be positive, got -1.0"),
        (lambda: Restart(bottom=0.4), "restart needs 0 < bottom < top, got bottom=0.4, top=0.3"),
        (lambda: Restart(restarts=0), "must be at least 1, got restarts=0, restart_steps=2; a grid without .* karras"),
        (lambda: Restart().times(VPSDE(), 0.5, 5), "2 restarts of 2 steps leave 1 of the 5 steps .* use more steps or"),
        (lambda: Restart().times(VESDE(), 1.0, 6), "the 2 steps .* no noise level below top=0.3.* a higher top"),
    ],
)
def test_impossible_grids_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
