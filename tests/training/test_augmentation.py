"""Augmentation in a training step: which labels the network gets, and that other random numbers stay the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny import tiny_config, two_colour_images
from test_module import draws, tiny_module
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.training.augmentation import Augmentation
from sdedit_pl.training.geometric_augmentation import LABELS


def test_the_default_changes_nothing() -> None:
    images = two_colour_images(4, 8)
    augmented, labels, _ = Augmentation()(images)
    assert augmented is images and labels is None and Augmentation().labels == 0


def test_geometry_has_labels_and_recolouring_has_none() -> None:
    torch.manual_seed(0)
    images = two_colour_images(16, 8)
    recoloured, labels, _ = Augmentation(recolour=1.0)(images)
    assert labels is None and not torch.equal(recoloured, images)
    transformed, labels, _ = Augmentation(probability=1.0)(images)
    assert labels is not None and labels.shape == (16, LABELS) and transformed.shape == images.shape
    assert transformed.min() >= -1 and transformed.max() <= 1


@pytest.mark.parametrize("augment", ["augment.recolour=0.5", "augment.probability=0.5"])
def test_augmentation_does_not_change_the_other_random_numbers(augment: str) -> None:
    assert all(torch.equal(a, b) for a, b in zip(draws(tiny_module(augment)), draws(tiny_module()), strict=True))


def test_augmentation_is_a_function_of_the_batch() -> None:
    def seen(module: Any) -> list[Tensor]:
        images: list[Tensor] = []

        def record(denoiser: Denoiser, batch: Tensor, t: Tensor, noise: Tensor, labels: Tensor, valid: None) -> Tensor:
            images.append(torch.cat([batch.flatten(1), labels], 1))
            return torch.zeros(len(batch))

        module.losses = record
        for batch in range(2):
            module.training_step(two_colour_images(4, 8), batch)
        return images

    first, again = (seen(tiny_module("augment.probability=0.5", "augment.recolour=0.5")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)) and not torch.equal(*first)


def test_the_network_is_made_for_the_labels_and_learns_from_them() -> None:
    module = tiny_module("augment.probability=1.0", "network.init_scale=1")
    weight = module.denoiser.network.label_embedding.augmentation.weight
    assert weight.shape[1] == LABELS and not weight.any()
    module.training_step(two_colour_images(4, 8), 0).backward()
    assert weight.grad.ne(0).any(0).sum() >= LABELS - 2  # all that are not zero in the whole batch


def test_no_labels_mean_zero_labels() -> None:
    config = tiny_config("data.path=unused", "augment.probability=0.1", "network.init_scale=1")
    model = config.model
    assert model.augmentation_labels == LABELS
    denoiser = build_denoiser(model).eval()
    torch.nn.init.normal_(denoiser.network.label_embedding.augmentation.weight)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.7])
    plain = denoiser.raw(x, t)
    assert torch.equal(denoiser.raw(x, t, torch.zeros(2, LABELS)), plain)
    assert not torch.allclose(denoiser.raw(x, t, torch.ones(2, LABELS)), plain)


def test_labels_for_a_network_that_takes_none_are_refused() -> None:
    denoiser = build_denoiser(tiny_config("data.path=unused").model)
    with pytest.raises(ValueError, match="takes 0 augmentation labels"):
        denoiser.raw(torch.zeros(1, 3, 8, 8), torch.ones(1), torch.zeros(1, LABELS))


@pytest.mark.parametrize("name", ["probability", "recolour"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_invalid_probabilities_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"augment: {name} .* got {value}"):
        tiny_config("data.path=unused", f"augment.{name}={value}")
