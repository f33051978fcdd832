"""Edits beyond the paper: strength maps, resampling, low frequencies, annealed repeats."""

from __future__ import annotations

import pytest
import torch
from support.oracles import GaussianDenoiser, MixtureDenoiser

from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.low_pass_filter import low_frequencies
from sdedit_pl.grids import GRIDS
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sde import SDE, SDES, VESDE, VPSDE
from sdedit_pl.solvers import SOLVERS
from sdedit_pl.typing import Images, Strength

every_sde = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
every_solver = pytest.mark.parametrize("solver", SOLVERS)


def guides(count: int = 2, size: int = 8) -> Images:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def ramp() -> Strength:
    """From 0 in the first column to 1 in the last."""
    return torch.linspace(0, 1, 8).expand(1, 1, 8, 8)


@every_sde
@every_solver
def test_black_is_kept_bit_for_bit_and_white_is_edited_as_without_a_map(sde: SDE, solver: str) -> None:
    """The denoiser works pixel by pixel, so that pixels do not influence each other."""
    guide, strength = guides(), torch.zeros(1, 1, 8, 8)
    strength[..., 4:] = 1
    edit, denoiser = SDEdit(t0=0.6, steps=12, repeats=2, solver=SOLVERS[solver]()), GaussianDenoiser(sde)
    edited = edit(denoiser, guide, strength=strength)
    assert torch.equal(edited[..., :4], guide[..., :4])
    assert torch.equal(edited, edit(denoiser, guide, edit_mask=strength > 0.5))
    if solver != "predictor_corrector":  # whose step length is chosen by the norm of the whole image
        assert torch.equal(edited[..., 4:], edit(denoiser, guide)[..., 4:])


@every_solver
def test_a_pixel_between_is_edited_from_its_own_time(solver: str) -> None:
    """If one step is left below a pixel's time, its edit equals a run that starts there."""
    sde, guide, strength = VPSDE(), guides(), torch.ones(1, 1, 8, 8)
    strength[..., 1:] = 0.15  # released at 0.09, of the times 0.12 and 0.06
    edit = SDEdit(t0=0.6, steps=10, solver=SOLVERS[solver](), grid=GRIDS["uniform"]())
    edited = edit(GaussianDenoiser(sde), guide, strength=strength)
    last = torch.full((2,), 0.06)
    expected = GaussianDenoiser(sde)(sde.perturb(guide, last, SeededNoise(range(2))(9, 0, guide)), last)
    torch.testing.assert_close(edited[..., 1:], expected[..., 1:])


def test_a_higher_strength_changes_more() -> None:
    guide = -torch.ones(64, 3, 8, 8)
    edited = SDEdit(t0=0.25, steps=50)(GaussianDenoiser(VPSDE()), guide, strength=ramp())
    change = (edited - guide).abs().mean((0, 1, 2))
    assert change[0] == 0
    assert (change.diff() > 0).all()


@every_sde
@pytest.mark.parametrize("grid", ["uniform", "restart"])
def test_a_strength_map_survives_repeats_and_jumps(sde: SDE, grid: str) -> None:
    edit = SDEdit(t0="sigma:2", steps=20, repeats=3, anneal=0.8, grid=GRIDS[grid]())
    edited = edit(MixtureDenoiser(sde), guides(), strength=ramp())
    assert torch.equal(edited[..., 0], guides()[..., 0])
    assert edited.isfinite().all()


@every_sde
@every_solver
def test_resampling_works_with_every_solver(sde: SDE, solver: str) -> None:
    mask = ramp() > 0.5
    edit, denoiser = SDEdit(t0=0.6, steps=9, solver=SOLVERS[solver](), resample=(2, 3)), MixtureDenoiser(sde)
    edited, times = edit(denoiser, guides(), edit_mask=mask), []
    assert torch.equal(edited[..., :4], guides()[..., :4])
    # new pixels lie near the modes of the data, -0.5 and 0.5
    assert (edited[..., 4:].abs() - 0.5).abs().mean() < 0.35
    edit(denoiser, guides(), edit_mask=mask, callback=lambda x, time: times.append(time))
    assert len(times) == edit.total_steps(sde) == 9 + 4 * 2 * 2


def test_each_annealed_repeat_starts_lower() -> None:
    edit = SDEdit(t0=0.8, steps=5, repeats=3, anneal=0.5)
    assert [times[0].item() for times in edit.schedule(VPSDE())] == pytest.approx([0.8, 0.4, 0.2])
    times: list[float] = []
    edit(GaussianDenoiser(VPSDE()), guides(), callback=lambda x, time: times.append(time))
    assert times == pytest.approx(torch.cat([times[1:] for times in edit.schedule(VPSDE())]).tolist())


def test_an_annealed_repeat_is_an_edit_of_the_result_before() -> None:
    denoiser, guide, noise = MixtureDenoiser(VPSDE()), 0.5 * guides(), SeededNoise(range(2))
    first = SDEdit(t0=0.6, steps=6)(denoiser, guide, noise=noise).clamp(-1, 1)
    both = SDEdit(t0=0.6, steps=6, repeats=2, anneal=0.5)(denoiser, guide, noise=noise)

    def later(step: int, draw: int, like: Images) -> Images:
        return noise(step + 7, draw, like)

    torch.testing.assert_close(both, SDEdit(t0=0.3, steps=6)(denoiser, first, noise=later), atol=0.02, rtol=0)


@every_sde
@every_solver
def test_low_frequencies_come_from_the_guide_and_high_ones_from_the_domain(sde: SDE, solver: str) -> None:
    guide = guides(2, 32)
    plain, held = (
        SDEdit(t0="sigma:8", steps=12, solver=SOLVERS[solver](), lowpass=lowpass)(MixtureDenoiser(sde), guide)
        for lowpass in (None, 8)
    )
    distance = [(low_frequencies(edited - guide, 8)).square().mean().item() for edited in (plain, held)]
    assert distance[1] < 0.1 * distance[0]
    assert (held - low_frequencies(held, 8)).std() > 0.8 * (plain - low_frequencies(plain, 8)).std()


def test_low_frequencies_are_free_outside_their_range() -> None:
    edit = SDEdit(t0=0.6, steps=10, lowpass=4, lowpass_range=(0.7, 1.0))
    assert torch.equal(
        edit(MixtureDenoiser(VPSDE()), guides()), SDEdit(t0=0.6, steps=10)(MixtureDenoiser(VPSDE()), guides())
    )
    above = SDEdit(t0=0.6, steps=10, lowpass=4, lowpass_range=(0.3, 1.0))(MixtureDenoiser(VPSDE()), guides())
    everywhere = SDEdit(t0=0.6, steps=10, lowpass=4)(MixtureDenoiser(VPSDE()), guides())
    assert not torch.equal(above, everywhere)


def test_kept_pixels_stay_kept_under_a_low_pass_constraint() -> None:
    edit = SDEdit(t0=0.6, steps=10, lowpass=4)
    edited = edit(MixtureDenoiser(VESDE()), guides(), edit_mask=ramp() > 0.5)
    assert torch.equal(edited[..., :4], guides()[..., :4])
    assert not torch.equal(edited[..., 4:], guides()[..., 4:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"anneal": 0.0, "repeats": 2}, r"anneal must lie in \(0, 1\], got 0.0"),
        ({"anneal": 0.5}, "anneal=0.5 requires several repeats, got repeats=1"),
        ({"lowpass": 1}, "lowpass must be at least 2, got 1"),
        ({"lowpass_range": (0.3, 1.0)}, "lowpass_range=0.3,1.0 requires lowpass"),
        ({"lowpass": 4, "lowpass_range": (0.6, 0.2)}, "a range of times within .* got 0.6 to 0.2"),
        ({"variant": "paper", "resample": (2, 2)}, "variant=paper has no anneal"),
        ({"variant": "reference", "repeats": 2, "anneal": 0.5}, "variant=reference has no anneal"),
        ({"variant": "paper", "lowpass": 4}, "variant=exact"),
    ],
)
def test_impossible_options_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SDEdit(**arguments)


@pytest.mark.parametrize(
    ("edit", "inputs", "message"),
    [
        ({}, {"edit_mask": ramp() > 0.5, "strength": ramp()}, "edit_mask or strength, not both"),
        ({}, {"strength": ramp()[..., :7]}, r"strength must have shape \(1 or 2, 1, 8, 8\) .* got \(1, 1, 8, 7\)"),
        ({}, {"strength": 255 * ramp()}, r"strength lies in \[0, 1\], got \[0, 255\]; divide"),
        ({}, {"strength": ramp() > 0.5}, "a map of floats in .* got torch.bool"),
        ({}, {"strength": 0 * ramp()}, "0 everywhere: nothing may change"),
        ({"variant": "paper"}, {"strength": ramp()}, "variant=paper takes no strength map"),
        ({"resample": (2, 2)}, {}, "give a mask"),
        (
            {"resample": (4, 2)},
            {"strength": ramp()},
            "goes back 4 steps, but there are only 4; use more steps, at least 5",
        ),
        ({"resample": (0, 2)}, {"strength": ramp()}, "needs j >= 1 steps, r >= 1 passes, got 0,2"),
        ({"resample": (1, 2), "grid": GRIDS["restart"](), "steps": 20}, {"strength": ramp()}, "already has some"),
        ({"lowpass": 9}, {}, "lowpass=9 exceeds the 8 pixels"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_contradictions_are_refused(edit: dict, inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SDEdit(**{"steps": 4, **edit})(GaussianDenoiser(VPSDE()), guides(), **inputs)
