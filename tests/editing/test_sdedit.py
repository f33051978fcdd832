"""SDEdit with exact denoisers: kept pixels, the limits of t0, and independence of the batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.oracles import GaussianDenoiser, MixtureDenoiser

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import VARIANTS, SDEdit
from sdedit_pl.editing.sdedit import DEFAULT_GRID, DEFAULT_SOLVER
from sdedit_pl.grids import GRIDS, LogSNR, Uniform
from sdedit_pl.noise import SeededNoise, Simplex
from sdedit_pl.parameterisations import PARAMETERISATIONS
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import SDE, SDES, VESDE, VPSDE
from sdedit_pl.solvers import DDIM, SOLVERS, Ancestral
from sdedit_pl.typing import Images, Mask

every_sde = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_solver = pytest.mark.parametrize("solver", SOLVERS)


def guides(count: int = 4) -> Images:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def left_half(count: int = 1) -> Mask:
    mask = torch.zeros(count, 1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    return mask


@every_sde
@every_solver
def test_kept_pixels_are_the_guides_bit_for_bit(sde: SDE, solver: str) -> None:
    guide, mask = guides(), left_half()
    edit = SDEdit(t0=0.6, steps=15, repeats=2, solver=SOLVERS[solver]())(GaussianDenoiser(sde), guide, edit_mask=mask)
    assert torch.equal(edit[..., 4:], guide[..., 4:])
    assert (edit[..., :4] - guide[..., :4]).abs().mean() > 0.05


@every_sde
@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"predictor_corrector"}))  # it samples the domain at any t0
def test_a_vanishing_t0_returns_the_guide(sde: SDE, solver: str) -> None:
    t0, guide = 1e-4, guides()
    edit = SDEdit(t0=t0, steps=5, solver=SOLVERS[solver]())(GaussianDenoiser(sde), guide)
    noise_level = sde.noise_level(torch.tensor(t0)).item()
    assert (edit - guide).abs().max() < 8 * noise_level < 0.1


@every_sde
def test_t0_of_one_is_unconditional_sampling(sde: SDE) -> None:
    """With the same noise the images agree, up to the trace alpha(1) of the guide in the edit's initial state."""
    denoiser, guide, noise = MixtureDenoiser(sde), guides(), SeededNoise(range(4))
    edit = SDEdit(t0=1.0, steps=100, solver=SOLVERS["ancestral"](), grid=GRIDS["uniform"]())(denoiser, guide)
    times = Uniform().times(sde, 1.0, 100)
    sample = integrate(denoiser, Ancestral(), sde.prior_sample(noise(0, 0, guide)), times, noise=noise)
    assert (edit - sample).abs().mean() < 0.03
    # a lower t0 gives other images
    assert (
        SDEdit(t0=0.3, steps=100, solver=SOLVERS["ancestral"](), grid=GRIDS["uniform"]())(denoiser, guide) - sample
    ).abs().mean() > 0.2


@every_sde
def test_t0_of_one_has_the_distribution_of_the_domain(sde: SDE) -> None:
    guide = torch.ones(1, 1, 120, 120)
    edit = SDEdit(t0=1.0, steps=300, solver=SOLVERS["ddim"](), grid=GRIDS["log_snr"]())(
        GaussianDenoiser(sde, 0.3, 0.2), guide
    )
    assert edit.mean().item() == pytest.approx(0.3, abs=0.01)
    assert edit.std().item() == pytest.approx(0.2, abs=0.01)


@every_sde
def test_a_lower_t0_is_more_faithful(sde: SDE) -> None:
    guide, denoiser = guides(), GaussianDenoiser(sde)
    distances = [(SDEdit(t0=t0, steps=60)(denoiser, guide) - guide).norm().item() for t0 in (0.1, 0.3, 0.6)]
    assert distances == sorted(distances)


@every_variant
@every_sde
def test_a_sample_does_not_depend_on_its_batch(sde: SDE, variant: str) -> None:
    edit, denoiser = SDEdit(t0=0.6, steps=12, repeats=2, variant=variant), MixtureDenoiser(sde)
    guide, mask = guides(), torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    batch = edit(denoiser, guide, edit_mask=mask, seeds=[10, 20, 30, 40])
    for sample, seed in enumerate([10, 20, 30, 40]):
        own = slice(sample, sample + 1)
        assert torch.equal(edit(denoiser, guide[own], edit_mask=mask[own], seeds=[seed]), batch[own])


def test_one_guide_and_several_seeds_give_several_samples() -> None:
    edit, denoiser, guide = SDEdit(steps=10), GaussianDenoiser(VPSDE()), guides(1)
    samples = edit(denoiser, guide, edit_mask=left_half(), seeds=[5, 6, 7])
    assert samples.shape == (3, 3, 8, 8)
    assert torch.equal(samples[1:2], edit(denoiser, guide, edit_mask=left_half(), seeds=[6]))
    assert not torch.equal(samples[0], samples[1])


def test_seeds_count_from_zero_by_default() -> None:
    edit, denoiser = SDEdit(steps=5), GaussianDenoiser(VPSDE())
    assert torch.equal(edit(denoiser, guides()), edit(denoiser, guides(), seeds=[0, 1, 2, 3]))


@every_sde
def test_t0_as_a_noise_level_means_the_same_for_every_sde_and_number_of_steps(sde: SDE) -> None:
    guide = guides()
    expected = guide + 1.2 * SeededNoise(range(4))(0, 0, guide)
    for steps in (1, 50):
        edit = SDEdit(t0="sigma:1.2", steps=steps)
        time = edit.times(sde)[:1].float()
        noised = edit.noised_guide(GaussianDenoiser(sde), guide)
        torch.testing.assert_close(noised / sde.alpha(time), expected, rtol=1e-4, atol=1e-4)


@every_variant
@every_sde
def test_the_noised_guide_is_the_initial_state(sde: SDE, variant: str) -> None:
    """Checked after one very short step, which changes hardly anything."""
    edit, guide, states = SDEdit(t0=0.5, steps=400, variant=variant), guides(1), []
    denoiser = GaussianDenoiser(sde)
    denoiser.noise = Simplex()
    edit(denoiser, guide, seeds=[9], callback=lambda x, time: states.append(x))
    noised = edit.noised_guide(denoiser, guide, seeds=[9])
    assert (states[0] - noised).abs().max() < 0.5 < 1 < (states[0] - guide).abs().max()


class Later:
    """The noise of another source, shifted by a number of steps."""

    def __init__(self, noise: SeededNoise, steps: int) -> None:
        self.noise = noise
        self.steps = steps

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        return self.noise(step + self.steps, draw, like)


@pytest.mark.parametrize("mask", [None, left_half()], ids=["all", "masked"])
def test_a_repeat_starts_from_the_result_before_with_new_noise(mask: Mask | None) -> None:
    denoiser, guide, noise = MixtureDenoiser(VPSDE()), guides(), SeededNoise(range(4))
    once, twice = (SDEdit(steps=8, repeats=repeats) for repeats in (1, 2))
    first = once(denoiser, guide, edit_mask=mask, noise=noise)
    low, high = first.min().item(), first.max().item()
    assert low >= -1 and high <= 1, "the next edit requires a valid guide"
    second = once(denoiser, first, edit_mask=mask, noise=Later(noise, 9))
    assert torch.equal(twice(denoiser, guide, edit_mask=mask, noise=noise), second)
    assert not torch.equal(first, second)


def test_the_callback_is_called_after_each_step_of_each_repeat() -> None:
    times: list[float] = []
    edit = SDEdit(t0=0.4, steps=4, repeats=3)
    edit(GaussianDenoiser(VPSDE()), guides(), callback=lambda x, time: times.append(time))
    assert times == edit.times(VPSDE())[1:].tolist() * 3


def test_the_usual_solver_and_grid_are_used_where_none_is_given() -> None:
    denoiser = GaussianDenoiser(VPSDE())
    usual = SDEdit(steps=7)(denoiser, guides())
    given = SDEdit(steps=7, solver=SOLVERS[DEFAULT_SOLVER](), grid=GRIDS[DEFAULT_GRID]())(denoiser, guides())
    assert torch.equal(given, usual)
    assert not torch.equal(SDEdit(steps=7, solver=DDIM())(denoiser, guides()), usual)


def test_double_precision_is_kept() -> None:
    assert SDEdit(steps=3)(GaussianDenoiser(VPSDE()), guides().double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "paper", "solver": DDIM()}, r"variant=paper brings its own solver and grid, got DDIM"),
        ({"variant": "reference", "grid": LogSNR()}, r"variant=reference .* got LogSNR"),
    ],
)
def test_impossible_edits_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SDEdit(**arguments)


def _run(guide: torch.Tensor | None = None, **arguments) -> Callable[[], Images]:
    return lambda: SDEdit(steps=2)(GaussianDenoiser(VPSDE()), guides() if guide is None else guide, **arguments)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (_run(guides() * 127.5), r"pixels lie in \[-1, 1\], got \[-12.*x / 127\.5 - 1"),
        (_run(guides() / 0), "NaN or infinite values"),
        (_run(guides().where(guides() < 0.9, torch.nan)), "NaN or infinite values"),
        (_run(seeds=[1, 2]), "4 guides need 4 seeds, got 2"),
        (_run(guides(1), seeds=[]), "integers in .* one for each sample"),
        (_run(seeds=[1, 2, 3, -4]), r"integers in \[0, 2\^64\)"),
        (_run(seeds=[1, 2, 3, 4], noise=SeededNoise([1, 2, 3, 4])), "seeds or noise, not both"),
        (_run(edit_mask=torch.zeros(1, 1, 8, 8, dtype=torch.bool)), "False everywhere: nothing may change"),
        (_run(edit_mask=left_half(4) & (torch.arange(4) > 0)[:, None, None, None]), "nothing may change"),
        (_run(edit_mask=left_half()[..., :7]), r"shape \(1 or 4, 1, 8, 8\) for this guide, got \(1, 1, 8, 7\)"),
        (_run(edit_mask=left_half()[0]), r"shape \(1 or 4, 1, 8, 8\) for this guide, got \(1, 8, 8\)"),
        (_run(edit_mask=left_half().float()), "boolean, True where pixels may change, got torch.float32"),
        (_run(guides()[0]), r"a guide is a float tensor \(B, C, H, W\), got torch.float32 of shape \(3, 8, 8\)"),
        (_run((guides() * 127).to(torch.int8)), r"a guide is a float tensor .* got torch.int8"),
        (_run(edit_mask=left_half(3)), r"shape \(1 or 4, 1, 8, 8\) for this guide, got \(3, 1, 8, 8\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_inputs_are_refused(run: Callable[[], Images], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()


def test_a_noise_level_that_the_sde_does_not_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise levels above 0\.01 and up to 50, got t0=sigma:80"):
        SDEdit(t0="sigma:80", steps=2)(GaussianDenoiser(VESDE()), guides())


def test_too_few_steps_for_the_papers_chain_are_refused() -> None:
    with pytest.raises(ValueError, match="too long for the 'paper' chain"):
        SDEdit(t0=1.0, steps=4, variant="paper")(GaussianDenoiser(VPSDE()), guides())


def test_a_t0_beyond_the_models_training_is_refused() -> None:
    denoiser = Denoiser(torch.nn.Conv2d(3, 3, 1), PARAMETERISATIONS["edm"](), SDES["vp"](), t_max=0.4)
    for t0 in (0.41, "sigma:5"):
        with pytest.raises(ValueError, match=r"this model was trained only up to 0.4 \(noise level 2.03\); use a t0"):
            SDEdit(t0=t0, steps=1)(denoiser, torch.zeros(1, 3, 4, 4))
    SDEdit(t0=0.4, steps=1).check(denoiser)
    SDEdit(t0="sigma:2", steps=1).check(denoiser)
