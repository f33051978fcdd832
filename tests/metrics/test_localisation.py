"""The measures of detection, against torchmetrics, closed forms and their own definition."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from sdedit_pl.metrics.localisation import localisation


def noisy_maps(every: int = 2, side: int = 5, shift: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images with a defect, `side` pixels wide, in every second or n-th of them."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(40, 32, 32, dtype=torch.bool)
    truth[::every, 3 : 3 + side, 4 : 4 + side] = True
    return torch.randn(truth.shape, generator=generator) + shift * truth, truth


@pytest.mark.parametrize("maps", [(2, 20, 1.0), (4, 3, 3.0)], ids=["large", "small"])
def test_the_measures_are_those_of_torchmetrics(maps: tuple[int, int, float]) -> None:
    scores, truth = noisy_maps(*maps)
    found = localisation(scores, truth)
    probabilities, target = scores.sigmoid().flatten(), truth.flatten().long()
    assert found["auroc"].value == pytest.approx(binary_auroc(probabilities, target).item(), abs=1e-3)
    assert found["auprc"].value == pytest.approx(binary_average_precision(probabilities, target).item(), abs=3e-3)
    ordered = target[probabilities.argsort(descending=True)].cumsum(0)
    dice = 2 * ordered / (torch.arange(1, len(ordered) + 1) + ordered[-1])
    assert found["dice"].value == pytest.approx(dice.max().item(), abs=2e-3)
    assert all(0.5 * estimate.value < estimate.low < estimate.value < estimate.high for estimate in found.values())


def test_perfect_and_constant_scores() -> None:
    _, truth = noisy_maps()
    assert {estimate.value for estimate in localisation(truth.float(), truth).values()} == {1.0}
    chance = localisation(torch.zeros(truth.shape), truth)
    share = truth.float().mean().item()
    assert chance["auroc"].value == pytest.approx(0.5) and chance["auprc"].value == pytest.approx(share)
    assert chance["dice"].value == pytest.approx(2 * share / (1 + share))


def test_pro_weighs_regions_alike_and_stops_at_its_limit() -> None:
    truth = torch.zeros(1, 20, 20, dtype=torch.bool)
    truth[0, :10, :10] = truth[0, 15, 15] = True
    found = localisation(truth.float() * (torch.arange(20) < 10), truth)
    # The small region is only found with all other pixels: its overlap rises from 0 to 1 with the false-positive rate.
    assert found["pro"].value == pytest.approx((1 + 0.3 / 2) / 2, abs=1e-6)


def test_truth_of_one_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="but all are of one kind"):
        localisation(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool))
