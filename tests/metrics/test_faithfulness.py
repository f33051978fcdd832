"""Mean distances of edits to their guides, with the standard error over groups."""

from __future__ import annotations

import pytest
import torch

from sdedit_pl.metrics.faithfulness import guide_distances


def test_metrics_are_means_over_images_with_their_standard_error() -> None:
    black, greys = torch.full((4, 3, 2, 2), -1.0), torch.tensor([-1.0, 0.0, 0.0, 1.0])
    others = greys.reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
    metrics = guide_distances()
    metrics.update(black[:3], others[:3])
    metrics.update(black[3:], others[3:])
    found = {name: value.item() for name, value in metrics.compute().items()}
    l2, rms = torch.tensor([0.0, 3.0, 3.0, 12.0]), torch.tensor([0.0, 0.5, 0.5, 1.0])
    expected = {
        "squared_l2": l2.mean().item(),
        "squared_l2_error": l2.std().item() / 2,
        "rms": rms.mean().item(),
        "rms_error": rms.std().item() / 2,
    }
    assert found == pytest.approx(expected)


def test_the_error_is_that_of_groups() -> None:
    """Images that are copies of each other say as much as one of them."""
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])

    def error(groups: torch.Tensor | None, numbers: list[int]) -> float:
        metric = guide_distances(groups)
        images = (2 * values[numbers].sqrt())[:, None, None, None]
        metric.update(images, torch.zeros_like(images), torch.arange(len(numbers)))
        return metric.compute()["squared_l2_error"].item()

    alone = error(None, [0, 1, 2, 3])
    copies = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    assert error(copies, [0, 0, 1, 1, 2, 2, 3, 3]) == pytest.approx(alone)
    assert error(None, [0, 0, 1, 1, 2, 2, 3, 3]) < 0.8 * alone
    with pytest.raises(ValueError, match="images 0 to 1, got the numbers 0 to 3"):
        error(torch.tensor([0, 1]), [0, 1, 2, 3])


def test_metrics_of_a_first_batch_without_any_difference_stay_apart() -> None:
    """Equal states make torchmetrics take two metrics for one: states of different things have different names."""
    metrics = guide_distances()
    images = torch.zeros(2, 3, 4, 4)
    metrics.update(images, images)
    metrics.update(images, images + 1)
    found = metrics.compute()
    assert found["squared_l2"].item() == pytest.approx(6.0) and found["rms"].item() == pytest.approx(0.25)


def test_the_error_of_a_single_image_is_unknown() -> None:
    metric = guide_distances()
    metric.update(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    assert metric.compute()["squared_l2"] == 0 and metric.compute()["squared_l2_error"].isnan()
