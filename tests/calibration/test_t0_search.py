"""The search for t0: its result has been edited, is allowed, and is the largest one tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.oracles import GaussianDenoiser
from torch import nn

from sdedit_pl.calibration.t0_search import BISECTIONS, LOWEST_T0, FoundT0, t0_for_l2
from sdedit_pl.data.image_format import as_saved
from sdedit_pl.editing import SDEdit
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.metrics.image_distances import squared_l2
from sdedit_pl.sde import VPSDE

EDIT = SDEdit(0.5, steps=5)


@pytest.fixture
def denoiser() -> GaussianDenoiser:
    """An exact denoiser, with a parameter that has a device."""
    model = GaussianDenoiser(VPSDE(), 0.0, 3.0)
    model.place = nn.Parameter(torch.zeros(()))
    return model


def guide(name: str, value: float = 0.0) -> Guide:
    pattern = torch.linspace(-0.6, 0.6, 64).reshape(1, 1, 8, 8).expand(1, 3, 8, 8) + value
    return Guide(Path(f"{name}.png"), pattern.clamp(-1, 1).contiguous(), (8, 8))


def distance_at(denoiser: GaussianDenoiser, t0: float, of: Guide, seeds: list[int]) -> float:
    """The largest distance between the guide and its samples from `t0`."""
    edited = as_saved(replace(EDIT, t0=t0)(denoiser, of.image, seeds=seeds))
    return squared_l2(edited, of.image.expand_as(edited)).max().item()


def found(denoiser: GaussianDenoiser, guides: list[Guide], allowed: float, **options: object) -> list[FoundT0]:
    return t0_for_l2(denoiser, EDIT, guides, [None] * len(guides), options.pop("seeds", [0]), allowed, **options)


@pytest.mark.parametrize("allowed", [2.0, 15.0, 30.0])
def test_the_result_is_the_largest_allowed_time_of_the_bisection(denoiser: GaussianDenoiser, allowed: float) -> None:
    (result,) = found(denoiser, [guide("a")], allowed, seeds=[3, 4])
    assert result.distance == distance_at(denoiser, result.t0, guide("a"), [3, 4]) <= allowed
    step = (1 - LOWEST_T0) / 2**BISECTIONS
    assert distance_at(denoiser, result.t0 + step, guide("a"), [3, 4]) > allowed


def test_all_samples_are_within_the_allowed_distance(denoiser: GaussianDenoiser) -> None:
    together = found(denoiser, [guide("a")], 30.0, seeds=[0, 1, 2, 3])[0].t0
    alone = [found(denoiser, [guide("a")], 30.0, seeds=[seed])[0].t0 for seed in range(4)]
    assert together == min(alone) < max(alone)


def test_the_t0_of_a_guide_does_not_depend_on_other_guides(denoiser: GaussianDenoiser) -> None:
    guides = [guide("a"), guide("b", -0.8), guide("c", 0.3)]
    together = found(denoiser, guides, 30.0, seeds=[1, 2], batch=4)
    assert together == [found(denoiser, [one], 30.0, seeds=[1, 2])[0] for one in guides]
    assert len({result.t0 for result in together}) > 1


def test_kept_pixels_allow_more_noise(denoiser: GaussianDenoiser) -> None:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    half = t0_for_l2(denoiser, EDIT, [guide("a")], [mask], [0], 15.0)
    assert half[0].t0 > found(denoiser, [guide("a")], 15.0)[0].t0


def test_results_reach_both_ends_of_the_range(denoiser: GaussianDenoiser) -> None:
    denoiser.t_max = 0.6
    highest = 0.6 - (0.6 - LOWEST_T0) / 2**BISECTIONS
    assert found(denoiser, [guide("a")], 1e6)[0].t0 == pytest.approx(highest)
    least = distance_at(denoiser, LOWEST_T0, guide("a"), [0])
    assert found(denoiser, [guide("a")], 1.001 * least) == [FoundT0(LOWEST_T0, least)]


def test_the_number_of_edits_is_as_documented(denoiser: GaussianDenoiser) -> None:
    steps: list[int] = []
    found(denoiser, [guide("a"), guide("b")], 15.0, seeds=[0, 1, 2], on_step=steps.append)
    assert sum(steps) == BISECTIONS * 2 * 3 * EDIT.step_count


def test_unreachable_distances_are_refused(denoiser: GaussianDenoiser) -> None:
    with pytest.raises(ValueError, match=r"edits of b\.png differ from it by .* even from t0=0\.02.* allow more"):
        found(denoiser, [guide("b")], 1e-6)
    with pytest.raises(ValueError, match="positive, got 0"):
        found(denoiser, [guide("a")], 0.0)
