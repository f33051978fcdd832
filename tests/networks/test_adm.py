"""ADM: its options. Parity with guided-diffusion is tested in tests/checkpoints/test_guided_diffusion.py."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from sdedit_pl.networks import ADM

TINY = {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 2, "init_scale": 1.0}


def test_every_combination_trains_every_parameter():
    images, label = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0])
    for modulate, block, learned in product((True, False), ("biggan", "ddpm"), (True, False)):
        if block == "biggan" and not learned:
            continue
        # Images of 4 x 4 pixels at the lowest level: groups of one channel still have a variance.
        network = ADM(**TINY, heads=2, modulate=modulate, block=block, resample_with_convolution=learned)
        output = network(images, label)
        assert output.shape == images.shape
        output.square().sum().backward()
        # Normalising each channel separately removes a constant that was added to it just before.
        wiped = ("conv_1.bias", "label") if not modulate else ("conv_1.bias",)
        untrained = [
            name
            for name, parameter in network.named_parameters()
            if not parameter.grad.any() and not any(part in name for part in wiped)
        ]
        assert not untrained, f"modulate={modulate}, {block}, learned={learned}: {untrained}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "resnet"}, "block must be one of 'biggan', 'ddpm', got 'resnet'"),
        ({"head_channels": 8, "heads": 2}, "give head_channels or heads, not both, got 8 and 2"),
        ({"head_channels": 3}, "head_channels must divide the 16 channels of each attention layer, got 3"),
        ({"heads": 3}, "heads must divide the 16 channels of an attention layer, got 3"),
        ({"resample_with_convolution": False}, "needs block='ddpm'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ADM(**TINY, **options)
