"""ADM: its options; checkpoints/importers/test_from_guided_diffusion.py tests its parity with guided-diffusion."""

from __future__ import annotations

import pytest

from sdedit_pl.networks import ADM

TINY = {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 2, "init_scale": 1.0}


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
