"""DDIB between Gaussians, where the two flows are known, and energy guidance in its limits."""

from __future__ import annotations

import pytest
import torch
from support.oracles import GaussianDenoiser
from torch import nn

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.translation import Bridge, away_from
from sdedit_pl.parameterisations import EDM
from sdedit_pl.sde import SDES, VESDE, VPSDE


@pytest.mark.parametrize("sdes", [("ve", "ve"), ("vp", "ve"), ("ve", "vp")], ids="-".join)
def test_ddib_maps_quantiles_to_quantiles_whatever_the_sdes(sdes: tuple[str, str]) -> None:
    source = GaussianDenoiser(SDES[sdes[0]](), mean=-0.3, deviation=0.2)
    target = GaussianDenoiser(SDES[sdes[1]](), mean=0.5, deviation=0.1)
    images = torch.tensor([-0.7, -0.3, 0.1], dtype=torch.float64)[:, None, None, None].expand(-1, 1, 2, 2)

    def error(steps: int) -> float:
        exact = 0.5 + (images + 0.3) * 0.1 / 0.2
        return (Bridge(level=20.0, steps=steps)(source, target, images) - exact).abs().max().item()

    assert error(400) < 0.02 and error(400) < 0.5 * error(50)


def test_a_bridge_takes_the_highest_common_level_and_refuses_a_higher_one() -> None:
    source, target = GaussianDenoiser(VESDE(0.01, 30.0)), GaussianDenoiser(VPSDE())
    target.t_max = 0.5
    highest = float(target.sde.noise_level(torch.tensor(0.5)))
    assert Bridge().common_level(source, target) == pytest.approx(highest)
    with pytest.raises(ValueError, match=r"trained up to noise level 3\.4\d*, got 4"):
        Bridge(level=4.0).common_level(source, target)
    with pytest.raises(ValueError, match="at least 2 steps"):
        Bridge(steps=1)


class Wave(nn.Module):
    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.tensor(frequency))

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.frequency * x)


def test_the_second_energy_adds_the_difference_of_two_scores_and_needs_models_of_one_kind() -> None:
    source, target = (Denoiser(Wave(frequency), EDM(), VESDE()) for frequency in (1.0, 3.0))
    x_t, t = torch.randn(2, 3, 4, 4, generator=torch.manual_seed(0)), torch.tensor([0.3, 0.6])
    own, other = target.score(x_t, t), source.score(x_t, t)
    torch.testing.assert_close(away_from(source, target, 0.7).score(x_t, t), own + 0.7 * (own - other))
    with pytest.raises(ValueError, match="a source model with the SDE and parameterisation of the target"):
        away_from(Denoiser(Wave(1.0), EDM(), VPSDE()), target, 0.7)


def test_an_energy_lies_between_no_low_frequencies_and_imposed_ones() -> None:
    denoiser = GaussianDenoiser(VESDE(0.01, 30.0), mean=0.0, deviation=0.3)
    guide = torch.full((4, 1, 16, 16), 0.8)

    def distance(**options: float | int) -> float:
        edited = SDEdit("sigma:1", 30, **options)(denoiser, guide)  # pyright: ignore[reportArgumentType]
        return (edited.mean((2, 3)) - 0.8).abs().mean().item()

    free, weak, strong, imposed = (
        distance(),
        distance(lowpass=8, lowpass_energy=0.3),
        distance(lowpass=8, lowpass_energy=3.0),
        distance(lowpass=8),
    )
    assert free > weak + 0.02 and weak > strong + 0.02 and strong > imposed
    huge = SDEdit("sigma:1", 5, lowpass=8, lowpass_energy=1e9)(denoiser, guide)
    assert torch.allclose(huge, SDEdit("sigma:1", 5, lowpass=8)(denoiser, guide), atol=1e-4)
