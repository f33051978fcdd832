"""The DDPM U-Net: its options, and the differences of its two published forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sdedit_pl.networks import DDPM, NCSNpp
from sdedit_pl.networks.layers import SelfAttention

TINY = {"channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 2, "init_scale": 1.0}


@pytest.mark.parametrize(("smallest_group", "matters"), [(1, False), (4, True)])
def test_groups_of_one_channel_wipe_the_label_out(smallest_group, matters):
    """The documented trap of narrow networks: normalising each channel removes the label's contribution."""
    network = DDPM(**TINY, smallest_group=smallest_group).double().eval()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    low, high = (network(images, torch.tensor([label], dtype=torch.float64)) for label in (1.0, 900.0))
    assert torch.allclose(low, high, rtol=1e-2) is not matters


@pytest.mark.parametrize(
    ("options", "millions"),
    [({}, 35.7), ({"channel_multipliers": (1, 1, 2, 2, 4, 4), "attention_levels": (4,)}, 114)],
    ids=["CIFAR-10", "256 px"],
)
def test_size_is_the_published_one(options, millions):
    """Ho et al. (2020), appendix B, count the parameters of their models."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in DDPM(**options).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=5e-3)


def test_unknown_place_of_attention_is_refused():
    with pytest.raises(ValueError, match="attend_after must be one of 'block', 'level', got 'stage'"):
        DDPM(**TINY, attend_after="stage")


@pytest.mark.parametrize(
    ("options", "module", "attribute", "value"),
    [
        ({"most_groups": 4}, nn.GroupNorm, "num_groups", {4}),
        ({"epsilon": 1e-5}, nn.GroupNorm, "eps", {1e-5}),
        ({"head_channels": 16}, SelfAttention, "heads", {2}),
        ({"pad_all_sides": True}, nn.ZeroPad2d, "padding", {(1, 1, 1, 1)}),
        ({}, nn.ZeroPad2d, "padding", {(0, 1, 0, 1)}),
        ({}, SelfAttention, "heads", {1}),
    ],
)
def test_conventions_of_other_programs(options, module, attribute, value):
    network = DDPM(channels=16, channel_multipliers=(1, 2), blocks_per_level=1, attention_levels=(1,), **options)
    assert {getattr(part, attribute) for part in network.modules() if isinstance(part, module)} == value


def test_frequencies_end_at_or_before_the_lowest():
    for closed, lowest in ((True, 1e-4), (False, 10000 ** -(7 / 8))):
        network = DDPM(**{**TINY, "channels": 16}, close_frequencies=closed)
        assert network.label_embedding.features.frequencies[-1].item() == pytest.approx(lowest)


@pytest.mark.parametrize("network", [DDPM, NCSNpp])
@pytest.mark.parametrize("head_channels", [0, 3])
def test_heads_have_to_share_the_channels(network, head_channels):
    with pytest.raises(ValueError, match=f"head_channels must divide the 16 channels .*, got {head_channels}"):
        network(channels=16, channel_multipliers=(1,), attention_levels=(), head_channels=head_channels)
