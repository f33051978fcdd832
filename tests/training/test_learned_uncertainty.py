"""Learned uncertainty: it starts at zero, learns the mean loss of each level and then balances the levels."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from sdedit_pl.sde import SDES
from sdedit_pl.training.learned_uncertainty import LogUncertainty

TIMES = torch.linspace(0.02, 1, 64)


@pytest.mark.parametrize("sde", SDES)
def test_at_first_the_objective_is_the_loss(sde: str) -> None:
    losses = torch.rand(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(LogUncertainty().objective(losses, SDES[sde](), TIMES), losses)


def test_it_learns_the_loss_of_each_level_and_balances_the_gradients() -> None:
    sde, uncertainty = SDES["vp"](), LogUncertainty()
    level = sde.noise_level(TIMES)
    expected = 3 * level / (1 + level.square()) + 0.05
    optimizer = torch.optim.Adam(uncertainty.parameters(), 0.03)
    noise = torch.Generator().manual_seed(0)
    for _ in range(800):
        losses = expected * torch.rand(64, generator=noise) * 2
        optimizer.zero_grad()
        uncertainty.objective(losses, sde, TIMES).mean().backward()
        optimizer.step()
    with torch.no_grad():
        balanced = expected / uncertainty(sde, TIMES).exp()
    assert expected.max() / expected.min() > 10
    assert balanced.min() > 0.6 and balanced.max() < 1.6


def test_it_is_a_function_of_the_noise_level_under_every_sde() -> None:
    uncertainty = LogUncertainty()
    torch.nn.init.normal_(uncertainty.weights.weight)
    level = torch.tensor([0.05, 0.7, 3.0])
    found = [uncertainty(sde(), sde().time_at_noise_level(level)) for sde in (SDES["vp"], SDES["ve"])]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)


def test_it_keeps_full_precision_under_autocast_and_reads_nothing_from_the_accelerator() -> None:
    uncertainty = LogUncertainty()
    torch.nn.init.normal_(uncertainty.weights.weight)
    plain = uncertainty(SDES["vp"](), TIMES)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(uncertainty(SDES["vp"](), TIMES), plain)
    with FakeTensorMode(), torch.device("cuda"):
        t = torch.rand(4)
        assert LogUncertainty().objective(t, SDES["ve"](), t).device.type == "cuda"
