"""The layers of the networks against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from sdedit_pl.networks.layers import (
    Downsample,
    FourierFeatures,
    LabelEmbedding,
    PositionalFeatures,
    ResidualBlock,
    SelfAttention,
    Upsample,
    group_norm,
    variance_scaling_,
)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_initial_weights_have_the_declared_variance(scale):
    weight = torch.empty(64, 32, 3, 3)
    variance_scaling_(weight, scale)
    assert weight.var().item() == pytest.approx(scale / ((64 + 32) * 9 / 2), rel=0.03)


def test_scale_zero_starts_at_next_to_nothing_but_not_at_zero():
    weight = torch.empty(8, 8, 3, 3)
    variance_scaling_(weight, 0.0)
    assert 0 < weight.abs().max() < 1e-5


def test_query_key_and_value_are_each_initialised_as_a_layer_of_their_own():
    weight = SelfAttention(128).qkv.weight
    for part in weight.chunk(3):
        assert part.var().item() == pytest.approx(0.1 / 128, rel=0.05)


@pytest.mark.parametrize("smallest_group", [1, 4])
def test_groups_follow_the_published_rule_where_it_is_defined(smallest_group):
    for channels in range(1, 300):
        groups = group_norm(channels, smallest_group).num_groups
        rule = min(channels // smallest_group, 32)
        assert channels % groups == 0
        if rule and channels % rule == 0:
            assert groups == rule


def test_fourier_features_are_sines_then_cosines():
    features = FourierFeatures(5, 16.0)
    label = torch.tensor([-1.5, 0.25])
    angle = 2 * math.pi * label.view(2, 1) * features.frequencies
    torch.testing.assert_close(features(label), torch.cat([angle.sin(), angle.cos()], 1), rtol=0, atol=1e-4)
    assert not list(features.parameters())
    assert list(features.state_dict()) == ["frequencies"]


def test_fourier_frequencies_have_the_declared_scale():
    assert FourierFeatures(20000, 16.0).frequencies.std().item() == pytest.approx(16.0, rel=0.02)


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 9])
def test_positional_features_span_frequencies_one_to_a_ten_thousandth(channels):
    features = PositionalFeatures(channels)(torch.tensor([0.0, 700.0]))
    half = channels // 2
    assert features.shape == (2, channels)
    assert torch.equal(features[0], torch.tensor([0.0] * half + [1.0] * half + [0.0] * (channels % 2)))
    if half > 1:
        assert features[1, 0].item() == pytest.approx(math.sin(700.0), abs=1e-4)
        assert features[1, half - 1].item() == pytest.approx(math.sin(0.07), abs=1e-6)


def test_label_embedding_ignores_autocast():
    embedding = LabelEmbedding(FourierFeatures(8, 16.0), 32)
    label = torch.randn(4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = embedding(label)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, embedding(label))


def test_attention_is_softmax_over_pixels():
    attention = SelfAttention(6, init_scale=1.0, skip_rescale=True).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    query, key, value = attention.qkv(attention.norm(x)).flatten(2).chunk(3, dim=1)
    weights = torch.einsum("bci,bcj->bij", query, key).div(math.sqrt(6)).softmax(dim=2)
    attended = torch.einsum("bij,bcj->bci", weights, value).view_as(x)
    torch.testing.assert_close(attention(x), (x + attention.output(attended)) / math.sqrt(2))


@pytest.mark.parametrize("skip_rescale", [False, True])
def test_a_fresh_residual_block_is_its_shortcut(skip_rescale):
    block = ResidualBlock(4, 4, 16, skip_rescale=skip_rescale)
    x = torch.randn(2, 4, 6, 6)
    expected = x / math.sqrt(2) if skip_rescale else x
    torch.testing.assert_close(block(x, torch.randn(2, 16)), expected, rtol=0, atol=1e-3)


def test_a_resampling_block_resamples_its_shortcut():
    block = ResidualBlock(4, 6, 16, resample=Downsample(4, 4, convolve=False, fir_kernel=None))
    x = torch.randn(2, 4, 6, 6)
    expected = block.shortcut(F.avg_pool2d(x, 2))
    torch.testing.assert_close(block(x, torch.randn(2, 16)), expected, rtol=0, atol=1e-3)


def test_dropout_acts_in_training_only():
    block = ResidualBlock(4, 4, 16, dropout=0.5, init_scale=1.0)
    x, label = torch.randn(2, 4, 6, 6), torch.randn(2, 16)
    assert not torch.equal(block(x, label), block(x, label))
    block.eval()
    assert torch.equal(block(x, label), block(x, label))


def test_plain_resampling_averages_and_repeats():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    halved = Downsample(1, 1, convolve=False, fir_kernel=None)(x)
    assert halved.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    doubled = Upsample(1, 1, convolve=False, fir_kernel=None)(halved)
    assert torch.equal(F.avg_pool2d(doubled, 2), halved)
    assert doubled[0, 0, 0].tolist() == [2.5, 2.5, 4.5, 4.5]


def test_strided_convolution_pads_on_the_right_and_below():
    layer = Downsample(1, 1, convolve=True, fir_kernel=None)
    torch.nn.init.ones_(layer.convolution.weight)
    assert layer(torch.ones(1, 1, 4, 4)).flatten().tolist() == [9.0, 6.0, 6.0, 4.0]


def test_the_compiled_group_norm_equals_pytorchs_and_keeps_the_layout():
    x = (3 * torch.randn(2, 24, 6, 4, dtype=torch.float64) + 1).to(memory_format=torch.channels_last)
    norm = group_norm(24, 4).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    torch.testing.assert_close(norm.fused(x), norm(x))
    assert norm.fused(x).is_contiguous(memory_format=torch.channels_last)
    assert norm.bfloat16().fused(x.bfloat16()).dtype == torch.bfloat16


def test_pytorchs_group_norm_still_gives_up_channels_last_on_a_gpu():
    """When this fails, `GroupNorm.fused` is no longer necessary."""
    with FakeTensorMode(), torch.device("cuda"):
        x = torch.empty(2, 24, 6, 4).to(memory_format=torch.channels_last)
        assert not torch.nn.functional.group_norm(x, 6).is_contiguous(memory_format=torch.channels_last)
        assert group_norm(24, 4).fused(x).is_contiguous(memory_format=torch.channels_last)
